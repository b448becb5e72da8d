"""Stability shares and S.U.N. by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.metrics.stability import all_of, stability, sun, within_hull

FLAG = st.sampled_from([True, False, None])


def test_by_hand():
    energies = [-0.1, 0.0, 0.05, 0.1, 0.2, None, 0.0, 0.08]
    unique = [True, True, True, True, True, True, False, True]
    novel = [True, False, True, True, True, True, True, None]
    found = stability(energies, unique=unique, novel=novel)
    assert (found["stable"]["value"], found["stable"]["count"], found["stable"]["of"]) == (pytest.approx(3 / 7, abs=1e-6), 3, 7)
    assert found["stable"]["missing"] == 1
    assert found["metastable"]["count"] == 6
    assert found["stable_of_all"]["value"] == pytest.approx(3 / 8)
    assert (found["sun"]["count"], found["sun"]["of"], found["sun"]["missing"]) == (1, 8, 1)  # the one without energy could be S.U.N.
    assert found["sun"]["value"] == pytest.approx(1 / 8)
    assert (found["metastable_sun"]["count"], found["metastable_sun"]["missing"]) == (3, 2)
    assert found["metastable_sun"]["of_judged"]["value"] == pytest.approx(3 / 6)
    assert found["mean_energy_above_hull"]["value"] == pytest.approx(sum(e for e in energies if e is not None) / 7, abs=1e-6)
    assert found["parameters"]["metastable_eV_per_atom"] == 0.1
    json.dumps(found)


def test_nothing_known_is_none_with_a_reason():
    found = stability([None, None], unique=[True, True], novel=[True, True])
    for name in ("stable", "metastable", "stable_of_all", "mean_energy_above_hull", "sun", "metastable_sun"):
        assert found[name]["value"] is None, name
        assert found[name]["reason"], name
        assert found[name]["missing"] == 2
    empty = stability([], unique=[], novel=[])
    assert empty["sun"]["value"] is None
    assert empty["sun"]["reason"] == "no crystals"


def test_known_failures_count_without_energy():
    found = sun([None, None], [False, True], [True, False])
    assert (found["value"], found["of"], found["missing"]) == (0.0, 2, 0)


def test_without_novelty_there_is_no_sun():
    assert stability([0.0], unique=[True])["sun"] is None


def test_thresholds():
    assert within_hull([0.0, 1e-9, 0.1, float("nan")], 0.0, tolerance=1e-6) == [True, True, False, None]
    assert within_hull([1e-9], 0.0) == [False]
    with pytest.raises(RequestError, match="metastable"):
        stability([0.0], stable=0.2)
    with pytest.raises(RequestError, match="tolerance"):
        within_hull([0.0], 0.0, tolerance=-1.0)
    with pytest.raises(RequestError, match="2, 1, 2"):
        sun([True, True], [True], [True, True])


@given(st.lists(st.tuples(FLAG, FLAG, FLAG), max_size=12))
def test_three_valued_and(rows):
    columns = [list(c) for c in zip(*rows, strict=True)] or [[], [], []]
    for row, verdict in zip(rows, all_of(*columns), strict=True):
        worlds = [all(w) for w in _worlds(row)]
        assert verdict is (True if all(worlds) else None if any(worlds) else False)
    found = sun(*columns)
    assert found["of"] == len(rows)


def _worlds(row):
    worlds = [[]]
    for flag in row:
        worlds = [[*w, v] for w in worlds for v in ([True, False] if flag is None else [flag])]
    return worlds
