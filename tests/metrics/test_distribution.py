"""Distances between distributions: by hand, against scipy and the kernel written out, and a set against itself."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy.spatial.distance import jensenshannon, pdist
from scipy.stats import wasserstein_distance

from autoperi.data.convert import as_structure
from autoperi.errors import RequestError
from autoperi.metrics import distribution as d
from autoperi.metrics.parallel import Failure
from autoperi.testing import tiny_crystals

BAD = Failure("bad")
floats = st.lists(st.floats(-50, 50), min_size=1, max_size=20)


def salt() -> Structure:
    return as_structure(bulk("NaCl", "rocksalt", a=5.64, cubic=True))


# --- Wasserstein -----------------------------------------------------------------------------------------------------


def test_wasserstein_by_hand_and_missing_values() -> None:
    found = d.wasserstein([0.0, 1.0, None, float("nan")], [2.0, 3.0, float("inf")], unit="Å")
    assert found == {
        "value": 2.0,
        "of_reference": 2,
        "missing_reference": 1,
        "unit": "Å",
        "of": 2,
        "missing": 2,
        "reason": None,
    }
    assert d.wasserstein([0, 0, 4], [0, 2])["value"] == pytest.approx(
        1.0
    )  # quantiles: 0-0, (0-0, 0-2), 4-2 → (2/6 + 4/6)


@settings(max_examples=40, deadline=None)
@given(floats, floats, st.floats(-5, 5), st.randoms(use_true_random=False))
def test_wasserstein_laws(a: list[float], b: list[float], shift: float, random: Random) -> None:
    forth = d.wasserstein(a, b)["value"]
    assert forth == pytest.approx(wasserstein_distance(a, b), abs=2e-6)
    assert forth == pytest.approx(d.wasserstein(b, a)["value"], abs=2e-6)
    random.shuffle(shuffled := list(a))
    assert d.wasserstein(a, shuffled)["value"] == pytest.approx(0, abs=1e-6)
    assert d.wasserstein(a, [x + shift for x in a])["value"] == pytest.approx(abs(shift), abs=2e-6)


@pytest.mark.parametrize(
    ("a", "b", "side"), [([], [1.0], "generated"), ([None], [1.0], "generated"), ([1.0], [None], "reference")]
)
def test_wasserstein_of_nothing(a: list, b: list, side: str) -> None:
    found = d.wasserstein(a, b)
    assert found["value"] is None
    assert side in found["reason"] or found["reason"] == "no crystals"


# --- properties ------------------------------------------------------------------------------------------------------


def test_properties_by_hand() -> None:
    a = 5.64
    density = 4 * (22.98976928 + 35.453) * 1.66053907 / a**3
    # the furthest pair of the cubic cell at nearest images: half the body diagonal, Na to Cl
    expected = [density, 2, a / 2, a * math.sqrt(3) / 2]
    rows = d.crystal_properties(
        [salt(), bulk("Cu"), Structure(Lattice.cubic(4), [{"Fe": 0.5}], [[0, 0, 0]])], cache=False
    )
    np.testing.assert_allclose(rows[0], expected, rtol=1e-4)
    assert rows[1][1] == 1
    assert np.isnan(rows[1][2:]).all()
    assert "disordered" in rows[2].reason
    found = d.property_distances(rows, [rows[0]])
    assert (found["density"]["of"], found["density"]["missing"]) == (2, 1)
    assert (found["min_distance"]["of"], found["min_distance"]["missing"]) == (1, 2)
    assert found["min_distance"]["value"] == 0.0
    assert found["n_elements"]["value"] == pytest.approx(0.5)


def test_a_set_against_itself_in_any_order() -> None:
    rows = d.crystal_properties(tiny_crystals(), cache=False)
    found = d.property_distances(rows, rows[::-1])
    assert {k: v["value"] for k, v in found.items()} == dict.fromkeys(d.PROPERTIES, 0.0)


def test_density_follows_the_volume() -> None:
    crystal = salt()
    larger = crystal.copy().scale_lattice(crystal.volume * 2)
    (a, b) = d.crystal_properties([crystal, larger], cache=False)
    assert b[0] == pytest.approx(a[0] / 2)
    assert d.property_distances([b], [a])["density"]["value"] == pytest.approx(a[0] / 2, abs=1e-6)


# --- diversity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 600])
def test_mean_pairwise_distance_is_scipys(n: int) -> None:
    rows = np.random.default_rng(n).normal(size=(n, 7))
    found = d.mean_pairwise_distance([*rows, BAD])
    assert found["value"] == pytest.approx(pdist(rows).mean(), abs=2e-6)
    assert (found["of"], found["missing"]) == (n, 1)
    assert d.mean_pairwise_distance(list(rows[::-1]))["value"] == pytest.approx(found["value"], abs=2e-6)


def test_diversity_of_too_few() -> None:
    assert d.mean_pairwise_distance([]) == {"value": None, "of": 0, "missing": 0, "reason": "no crystals"}
    assert "fewer than two" in d.mean_pairwise_distance([np.zeros(3), BAD])["reason"]


def test_composition_diversity_counts_reduced_formulas() -> None:
    crystal = salt()
    half = Structure(Lattice.cubic(4), [{"Fe": 0.5}], [[0, 0, 0]])
    found = d.composition_diversity([crystal, crystal * (2, 1, 1), bulk("Cu"), half])
    assert found == {"value": pytest.approx(2 / 3, abs=1e-6), "count": 2, "of": 3, "missing": 1, "reason": None}
    assert d.composition_diversity([])["value"] is None


# --- MMD -------------------------------------------------------------------------------------------------------------


def test_mmd_by_hand() -> None:
    found = d.mmd([np.array([0.0])], [np.array([2.0])], bandwidth=1.0)
    assert found["biased"]["value"] == pytest.approx(2 - 2 * math.exp(-2), abs=1e-6)
    assert found["unbiased"]["value"] is None
    assert "fewer than two" in found["unbiased"]["reason"]
    assert found["bandwidth_rule"] == "given"


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 50))
def test_mmd_agrees_with_the_sums_written_out(m: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(m, 3)), rng.normal(size=(n, 3)) + 1

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * sigma**2))

    sigma = float(np.median(pdist(np.concatenate([x, y]))))
    cross = 2 * sum(k(a, b) for a in x for b in y) / (m * n)
    biased = sum(k(a, b) for a in x for b in x) / m**2 + sum(k(a, b) for a in y for b in y) / n**2 - cross
    unbiased = (
        sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        + sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        - cross
    )
    found = d.mmd(list(x), list(y))
    assert found["bandwidth"] == pytest.approx(sigma, abs=1e-6)
    assert found["biased"]["value"] == pytest.approx(biased, abs=2e-6)
    assert found["unbiased"]["value"] == pytest.approx(unbiased, abs=2e-6)


def test_mmd_of_a_set_against_itself_and_of_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = list(rng.normal(size=(30, 4)))
    assert d.mmd(rows, rows[::-1])["biased"]["value"] == 0.0
    assert d.mmd(rows, rows, limit=10, seed=3)["biased"]["value"] == 0.0
    same = [np.ones(4)] * 5
    assert d.mmd(same, same)["biased"]["value"] == 0.0
    for ours, theirs in (([], rows), ([BAD], rows), (rows, [BAD])):
        found = d.mmd(ours, theirs)
        assert found["biased"]["value"] is None
        assert found["biased"]["reason"]
        assert found["bandwidth"] is None


def test_mmd_draw_depends_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    x, y = list(rng.normal(size=(80, 4))), list(rng.normal(size=(60, 4)) + 0.3)
    first = d.mmd(x, y, limit=20, seed=1)
    assert d.mmd(x, y, limit=20, seed=1) == first
    assert d.mmd(x, y, limit=20, seed=2)["biased"] != first["biased"]
    assert (first["biased"]["of"], first["biased"]["of_reference"]) == (20, 20)


@pytest.mark.parametrize(("options", "what"), [({"bandwidth": 0.0}, "bandwidth"), ({"limit": 1}, "limit")])
def test_mmd_refuses(options: dict, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        d.mmd([np.zeros(2)], [np.zeros(2)], **options)
    with pytest.raises(RequestError, match="2 and of 3"):
        d.mmd([np.zeros(2)], [np.zeros(3)])


# --- symmetry --------------------------------------------------------------------------------------------------------


def test_space_groups_and_what_spglib_cannot_read(tmp_path: Path) -> None:
    on_top = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    crystals = [salt(), bulk("C"), on_top]
    assert d.space_groups(crystals, symprec=0.01, cache=tmp_path) == [225, 227, None]
    moved = salt()
    moved.translate_sites([0], [0.01, 0.004, 0.002])
    assert d.space_groups([moved], symprec=0.2, cache=tmp_path) == [225]
    assert d.space_groups([moved], symprec=1e-3, cache=tmp_path) == [1]
    with pytest.raises(RequestError, match="symprec"):
        d.space_groups(crystals, symprec=0)


def test_symmetry_distances_by_hand() -> None:
    found = d.symmetry_distances([225, 227, 1, None], [225, 225, 1, 1], symprec=0.1)
    groups, systems = found["space_group"], found["crystal_system"]
    assert groups["generated"] == {"1": 1, "225": 1, "227": 1}
    assert groups["reference"] == {"1": 2, "225": 2, "227": 0}
    assert groups["total_variation"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert (
        groups["total_variation"]["of"],
        groups["total_variation"]["missing"],
        groups["total_variation"]["of_reference"],
    ) == (3, 1, 4)
    assert groups["jensen_shannon"]["value"] == pytest.approx(
        jensenshannon([1, 1, 1], [2, 2, 0], base=2) ** 2, abs=1e-6
    )
    assert systems["generated"] == {**dict.fromkeys(d.SYSTEMS, 0), "cubic": 2, "triclinic": 1}
    assert systems["total_variation"]["value"] == pytest.approx(1 / 6, abs=1e-6)
    assert found["symprec"] == 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 230), min_size=1, max_size=30), st.lists(st.integers(1, 230), min_size=1, max_size=30))
def test_symmetry_distance_laws(a: list[int], b: list[int]) -> None:
    forth, back, own = d.symmetry_distances(a, b), d.symmetry_distances(b, a), d.symmetry_distances(a, a[::-1])
    for kind in ("space_group", "crystal_system"):
        for measure in ("jensen_shannon", "total_variation"):
            assert 0 <= forth[kind][measure]["value"] <= 1
            assert forth[kind][measure]["value"] == back[kind][measure]["value"]
            assert own[kind][measure]["value"] == 0
    assert (
        forth["crystal_system"]["total_variation"]["value"] <= forth["space_group"]["total_variation"]["value"] + 1e-6
    )
    if not set(a) & set(b):
        assert forth["space_group"]["jensen_shannon"]["value"] == pytest.approx(1)


def test_symmetry_of_nothing() -> None:
    found = d.symmetry_distances([None, None], [225])
    assert found["space_group"]["jensen_shannon"]["value"] is None
    assert found["space_group"]["jensen_shannon"]["missing"] == 2
    assert "generated" in found["crystal_system"]["total_variation"]["reason"]
    assert d.symmetry_distances([], [])["space_group"]["total_variation"]["reason"] == "no crystals"


# --- GenEval ---------------------------------------------------------------------------------------------------------


def test_sample_valid() -> None:
    valid = [True, False, None, True] * 50
    rows = d.sample_valid(valid, limit=20, seed=1)
    assert len(rows) == len(set(rows)) == 20
    assert all(valid[i] for i in rows)
    assert rows == sorted(rows) == d.sample_valid(valid, limit=20, seed=1)
    assert rows != d.sample_valid(valid, limit=20, seed=2)
    assert d.sample_valid(valid, limit=None) == d.sample_valid(valid) == [i for i, v in enumerate(valid) if v]
    assert d.sample_valid([]) == []
    with pytest.raises(RequestError, match="limit"):
        d.sample_valid(valid, limit=0)


def test_geneval_compares_valid_crystals_alone() -> None:
    crystals = tiny_crystals()
    rows = d.crystal_properties(crystals, cache=False)
    shapes = list(np.random.default_rng(0).normal(size=(len(rows), 3)))
    wrong = np.array([99.0, 9.0, 0.1, 99.0])
    energies = [float(i) for i in range(len(rows))]
    generated = {"properties": [*rows, wrong], "structure": [*shapes, np.full(3, 1e3)], "energy": [*energies, None]}
    found = d.geneval(generated, {"properties": rows, "energy": energies}, valid=[True] * len(rows) + [False])
    assert {k: v["value"] for k, v in found["wasserstein"].items()} == dict.fromkeys([*d.PROPERTIES, "energy"], 0.0)
    assert found["diversity"]["structure"]["value"] == pytest.approx(pdist(shapes).mean(), abs=1e-6)
    assert "composition" not in found["diversity"]
    assert found["sample"] == {"valid": len(rows), "drawn": len(rows), "limit": 1000, "seed": 0}
    every = d.geneval(generated, {"properties": rows}, valid=[True] * (len(rows) + 1))
    assert every["wasserstein"]["density"]["value"] > 1
    none = d.geneval(generated, {"properties": rows}, valid=[False] * (len(rows) + 1))
    assert none["wasserstein"]["density"]["value"] is None
    with pytest.raises(RequestError, match="energy"):
        d.geneval({**generated, "energy": [1.0]}, {"properties": rows}, valid=[True] * (len(rows) + 1))
