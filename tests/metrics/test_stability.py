"""Stability shares and S.U.N. by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.metrics.stability import RELAXED_TOLERANCE, all_of, stability, sun, within_hull

FLAG = st.sampled_from([True, False, None])


def test_by_hand():
    energies = [-0.1, 0.0, 0.05, 0.1, 0.2, None, 0.0, 0.08]
    unique = [True, True, True, True, True, True, False, True]
    novel = [True, False, True, True, True, True, True, None]
    found = stability(energies, unique=unique, novel=novel)
    assert (found["stable"]["value"], found["stable"]["count"], found["stable"]["of"]) == (
        pytest.approx(3 / 7, abs=1e-6),
        3,
        7,
    )
    assert found["stable"]["missing"] == 1
    assert found["metastable"]["count"] == 6
    assert found["stable_of_all"]["value"] == pytest.approx(3 / 8)
    assert (found["sun"]["count"], found["sun"]["of"], found["sun"]["missing"]) == (
        1,
        8,
        1,
    )  # the one without energy could be S.U.N.
    assert found["sun"]["value"] == pytest.approx(1 / 8)
    assert (found["metastable_sun"]["count"], found["metastable_sun"]["missing"]) == (3, 2)
    assert found["metastable_sun"]["of_judged"]["value"] == pytest.approx(3 / 6)
    assert found["mean_energy_above_hull"]["value"] == pytest.approx(
        sum(e for e in energies if e is not None) / 7, abs=1e-6
    )
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


def test_a_kind_counts_by_any_member():
    # kinds A (0, 1), B (2), C (3, 4, 5), D (6, 7); the first of A and of C is not stable, the first of D is unknown
    groups = [0, 0, 2, 3, 3, 3, 6, 6]
    stable = [False, True, True, False, True, True, None, False]
    novel = [True, True, True, True, True, True, True, True]
    unique = [g == i for i, g in enumerate(groups)]
    by_first = sun(stable, unique, novel)
    assert (by_first["count"], by_first["of"], by_first["missing"]) == (1, 8, 1)
    by_any = sun(stable, unique, novel, groups=groups)
    assert (by_any["count"], by_any["of"], by_any["missing"]) == (3, 8, 1)  # A, B and C once each; D is not known
    assert by_any["of_judged"]["value"] == pytest.approx(3 / 7, abs=1e-6)
    # stable and novel must be one member, and a kind without verdict on its own kind is not judged unless it fails
    assert sun([True, False], [True, False], [False, True], groups=[0, 0])["count"] == 0
    assert sun([True, False], [None, None], [True, True], groups=[None, None])["missing"] == 1
    energies = [0.2, 0.0]
    found = stability(energies, unique=[True, False], novel=[True, True], groups=[0, 0])
    assert (found["sun"]["count"], found["metastable_sun"]["count"]) == (1, 1)
    assert stability(energies, unique=[True, False], novel=[True, True])["sun"]["count"] == 0
    with pytest.raises(RequestError, match="1 groups for 2"):
        sun([True, True], [True, True], [True, True], groups=[0])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), max_size=12))
def test_kinds_with_a_stable_novel_member(rows):
    stable, novel, kinds = ([row[k] for row in rows] for k in range(3))
    groups = [kinds.index(k) for k in kinds]
    unique = [g == i for i, g in enumerate(groups)]
    by_any = sun(stable, unique, novel, groups=groups)["count"]
    assert by_any == len({k for s, n, k in rows if s and n})
    assert by_any >= sun(stable, unique, novel)["count"]


def test_tolerance_for_relaxed_crystals():
    assert stability([5e-4])["stable"]["count"] == 0
    assert stability([5e-4], tolerance=RELAXED_TOLERANCE)["stable"]["count"] == 1
    assert stability([2e-3], tolerance=RELAXED_TOLERANCE)["stable"]["count"] == 0
