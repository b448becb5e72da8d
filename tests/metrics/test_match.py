"""Match rates, RMSE and METRe: by hand, against pymatgen's own calls, and the laws that they obey."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from autoperi.errors import RequestError, StructureError
from autoperi.metrics.match import match_curve, match_rms, match_summary, matcher, metre, summarise
from autoperi.metrics.pairs import (
    BUDGET,
    TOLERANCES,
    arrays_of,
    bounded_matcher,
    by_composition,
    compare_pairs,
    composition_key,
    polar_sine,
    rms_or_failure,
)
from autoperi.metrics.parallel import Failure
from autoperi.testing import tiny_crystals

CSP = TOLERANCES["csp"]


def perovskite(a: float = 3.9, shift: float = 0.0) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5 + shift], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(a), ["Sr", "Ti", "O", "O", "O"], sites)


def rock_salt(a: float = 5.64) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a: float = 3.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


def noisy(structure: Structure, seed: int, size: float) -> Structure:
    moved = structure.cart_coords + size * np.random.default_rng(seed).normal(size=(len(structure), 3))
    return Structure(structure.lattice, structure.species, moved, coords_are_cartesian=True)


def test_curve_by_hand() -> None:
    results = [[None, 0.3, 0.1], [0.2, None], [], [None, None, None]]
    first, second, third = match_curve(results, passed=[True, False, True, None])
    assert [p["k"] for p in (first, second, third)] == [1, 2, 3]
    assert [p["match_rate"]["value"] for p in (first, second, third)] == [0.25, 0.5, 0.5]
    assert [p["rmse"]["value"] for p in (first, second, third)] == [0.2, 0.25, 0.15]
    # three unmatched at 0.5, then two
    assert [p["corrected_rmse"]["value"] for p in (first, second, third)] == [0.425, 0.375, 0.325]
    # the second crystal does not pass, the fourth has no verdict
    assert [p["match_rate_filtered"]["value"] for p in (first, second, third)] == [0, 0.25, 0.25]
    assert [p["rmse_filtered"]["value"] for p in (first, second, third)] == [None, 0.3, 0.1]
    assert first["rmse_filtered"]["reason"] == "nothing matches"
    assert third["corrected_rmse_filtered"]["value"] == 0.4
    assert (first["match_rate"]["of"], first["match_rate"]["count"], first["rmse"]["of"], first["rmse"]["missing"]) == (
        4,
        1,
        1,
        3,
    )


def test_nothing_gives_none_with_its_reason() -> None:
    (point,) = match_curve([], k=1, passed=[])
    assert all(q["value"] is None and q["reason"] == "no crystals" for name, q in point.items() if name != "k")
    assert match_curve([]) == []
    empty = metre([], [], processes=1)
    assert empty["all"]["metre"]["value"] is None
    assert empty["all"]["crmse"]["reason"] == "no crystals"


ROWS = st.lists(st.lists(st.one_of(st.none(), st.floats(0, 0.5)), max_size=5), min_size=1, max_size=8)


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_curve_laws(rows: list, rng: object) -> None:
    curve = match_curve(rows, k=5)
    rates = [p["match_rate"]["value"] for p in curve]
    corrected = [p["corrected_rmse"]["value"] for p in curve]
    assert rates == sorted(rates)
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(corrected))
    summary = match_summary(rows, ks=range(1, 6))
    assert rates == [round(summary["match_at"][k], 6) for k in range(1, 6)]
    assert curve[-1]["rmse"]["value"] == (None if summary["rmse_at_k"] is None else round(summary["rmse_at_k"], 6))
    shuffled = list(rows)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert match_curve(shuffled, k=5) == curve


def test_bad_arguments() -> None:
    with pytest.raises(RequestError, match="k=0"):
        match_curve([[0.1]], k=0)
    with pytest.raises(RequestError, match="2 verdicts for 1"):
        match_curve([[0.1]], passed=[True, True])
    with pytest.raises(RequestError, match="tolerances='loose'"):
        metre([], [], tolerances="loose")
    with pytest.raises(RequestError, match="stol=-1"):
        metre([], [], stol=-1)
    with pytest.raises(RequestError, match="oxidation_states"):
        metre([], [], oxidation_states="mine")
    with pytest.raises(StructureError, match="crystal 1"):
        metre([rock_salt(), 3], [])


@pytest.mark.parametrize("size", [0.0, 0.1, 0.5])
def test_bounded_matcher_is_pymatgens(size: float) -> None:
    plain, bounded = StructureMatcher(**CSP), bounded_matcher(**CSP)
    for seed, (name, crystal) in enumerate(
        (("rock salt", rock_salt()), ("perovskite", perovskite()), ("cell", tiny_crystals()[-1]))
    ):
        other = noisy(crystal, seed, size)
        wanted, found = plain.get_rms_dist(other, crystal), bounded.get_rms_dist(other, crystal)
        assert (wanted is None) == (found is None), name
        assert wanted is None or wanted == found
        assert plain.fit(other, crystal) == bounded.fit(other, crystal)


def test_the_bound_holds() -> None:
    rng = np.random.default_rng(0)
    # equal atoms at random: every lattice mapping with every translation
    pair = [Structure(Lattice.cubic(7.0), ["Fe"] * 24, rng.random((24, 3))) for _ in range(2)]
    assert isinstance(rms_or_failure(bounded_matcher(**CSP, budget=1e4), *pair), Failure)
    assert rms_or_failure(bounded_matcher(**CSP), *pair) == rms_or_failure(matcher(), *pair)
    needle = Structure(Lattice.orthorhombic(1.0, 1.0, 3000.0), ["Fe"], [[0, 0, 0]])
    started = time.perf_counter()
    found = rms_or_failure(bounded_matcher(**CSP), needle, needle)
    assert time.perf_counter() - started < 2  # a minute and a half without the bound
    assert isinstance(found, Failure)
    assert "lattice points" in found.reason
    crowd = rms_or_failure(bounded_matcher(**CSP), rock_salt() * (4, 4, 4), rock_salt())
    assert isinstance(crowd, Failure)
    assert "512 atoms" in crowd.reason
    assert BUDGET > 1e6


def test_pairs_agree_with_pymatgen_in_any_number_of_processes() -> None:
    left = [
        noisy(c, i, 0.15)
        for i, c in enumerate([rock_salt(), caesium_chloride(), perovskite(), rock_salt() * (2, 1, 1)] * 3)
    ]
    right = [perovskite(), rock_salt(), caesium_chloride()]
    pairs = [(i, j) for i in range(len(left)) for j in range(3)]
    wanted = [None if (r := matcher().get_rms_dist(left[i], right[j])) is None else r[0] for i, j in pairs]
    arrays = arrays_of(left), arrays_of(right)
    one = compare_pairs(*arrays, pairs, tolerances=CSP, processes=1)
    assert one == pytest.approx(wanted)
    assert any(r is None for r in one)
    assert any(r is not None for r in one)
    # enough pairs for several jobs
    many = pairs * 10
    assert compare_pairs(*arrays, many, tolerances=CSP, processes=2) == one * 10
    assert match_rms([left[0], left[1]], right[1]) == pytest.approx([one[1], one[4]])


def test_unreadable_crystals_are_failures() -> None:
    broken = rock_salt()
    broken.translate_sites(0, [np.nan, 0, 0])
    (failed,) = arrays_of([broken])
    assert isinstance(failed, Failure)
    assert isinstance(
        compare_pairs([failed], arrays_of([rock_salt()]), [(0, 0)], tolerances=CSP, processes=1)[0], Failure
    )


def test_compositions() -> None:
    assert composition_key(np.array([17, 11, 17, 11])) == ((11, 1), (17, 1))
    groups = by_composition(arrays_of([rock_salt(), perovskite(), caesium_chloride()]))
    assert list(groups.values()) == [[0, 2], [1]]


def test_polar_sine() -> None:
    assert polar_sine(np.diag([1.0, 2.0, 30.0])) == pytest.approx(1)
    assert polar_sine([[1, 0, 0], [0.5, 3**0.5 / 2, 0], [0, 0, 7]]) == pytest.approx(3**0.5 / 2)


def test_metre_by_hand() -> None:
    generated = [noisy(perovskite(), 0, 0.05), noisy(perovskite(), 1, 0.1), rock_salt() * (1, 1, 2)]
    references = [perovskite(), rock_salt(), caesium_chloride()]
    one = metre(generated, references, processes=1)
    near = min(matcher().get_rms_dist(g, references[0])[0] for g in generated[:2])
    # the first generated crystal counts for the first reference although they are at other positions too
    assert one["rms"] == [pytest.approx(near), pytest.approx(0, abs=1e-6), None]
    assert one["all"]["metre"] == {"value": round(2 / 3, 6), "count": 2, "of": 3, "missing": 0, "reason": None}
    assert one["all"]["rmse"]["value"] == pytest.approx(near / 2, abs=1e-6)
    assert one["all"]["crmse"]["value"] == pytest.approx((near + 0.5) / 3, abs=1e-6)
    assert one["comparisons"] == 4
    assert metre(generated[::-1], references, processes=1)["all"] == one["all"]
    # a supercell, another origin and a rotation are the same crystal
    turned = [Structure(np.array(g.lattice.matrix)[:, [1, 2, 0]], g.species, g.frac_coords + 0.3) for g in generated]
    assert metre(turned, references, processes=1)["all"]["crmse"]["value"] == pytest.approx(
        one["all"]["crmse"]["value"], abs=1e-5
    )


def test_metre_valid_counts_valid_crystals_only() -> None:
    odd = Structure(Lattice.cubic(5), ["Na", "Cl", "Cl"], np.eye(3) / 2)  # NaCl2
    both = metre([rock_salt(), odd], [rock_salt(), odd], processes=1)
    assert both["all"]["metre"]["value"] == 1
    assert both["valid"]["metre"] == {"value": 0.5, "count": 1, "of": 2, "missing": 0, "reason": None}
    assert both["valid"]["crmse"]["value"] == 0.25


def test_metre_rejects_flat_cells() -> None:
    flat = Structure(Lattice([[5, 0, 0], [5, 0.004, 0], [0, 0, 5]]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    result = metre([flat, rock_salt()], [rock_salt(), flat], processes=1)
    assert result["rejected"] == {"generated": 1, "references": 1}
    assert result["all"]["metre"]["value"] == 0.5  # a flat reference stays in the denominator


def test_summary_of_one() -> None:
    assert summarise([0.1, None], stol=0.3)["corrected_rmse"]["value"] == 0.2
