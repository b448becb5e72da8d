"""PGCGM's relax-and-match rate and filters: by hand and against pymatgen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from autoperi.errors import RequestError, StructureError
from autoperi.metrics.parallel import Failure
from autoperi.metrics.pgcgm import merge_atoms, pgcgm_filters, relax_and_match
from autoperi.testing import tiny_crystals


def rock_salt(a: float = 5.64) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_relax_and_match_by_hand() -> None:
    moved = rock_salt()
    moved.translate_sites(0, [0.03, 0, 0])
    sheared = Structure(Lattice.from_parameters(5.64, 5.64, 5.64, 90, 90, 92), moved.species, rock_salt().frac_coords)
    relaxed = [rock_salt(5.5), moved, sheared, None, Failure("exploded")]
    result = relax_and_match([rock_salt()] * 5, relaxed, processes=1)
    assert result["optimised"] == {"value": 0.6, "count": 3, "of": 5, "missing": 0, "reason": None}
    wanted = StructureMatcher(ltol=0.2, stol=0.2, angle_tol=0.5).get_rms_dist(rock_salt(), moved)[0]
    assert result["values"] == [pytest.approx(0, abs=1e-6), pytest.approx(wanted), None, None, None]
    assert result["match_rate"]["count"] == 2  # of the three that relaxed, the sheared one is 2° off
    assert result["match_rate"]["of"] == 3
    assert result["rms"]["value"] == pytest.approx(wanted / 2, abs=1e-6)
    assert result["rms"]["missing"] == 1


def test_relax_and_match_of_nothing() -> None:
    assert relax_and_match([], [])["match_rate"]["reason"] == "no crystals"
    nothing = relax_and_match([rock_salt()], [None], processes=1)
    assert (nothing["optimised"]["value"], nothing["match_rate"]["value"], nothing["rms"]["value"]) == (0, None, None)
    with pytest.raises(RequestError, match="1 relaxed crystals for 0"):
        relax_and_match([], [None])


def test_merge_by_hand() -> None:
    # iron has a radius of 1.40 Å: atoms within 1.40 Å are one; the pair lies across the boundary
    cell = Lattice.cubic(10)
    sites = [[0.98, 0, 0], [0.06, 0, 0], [0.5, 0.5, 0.5], [0.55, 0.5, 0.5]]
    merged = merge_atoms(Structure(cell, ["Fe", "Fe", "Fe", "O"], sites))
    assert [s.specie.symbol for s in merged] == ["Fe", "Fe", "O"]
    assert merged[0].frac_coords % 1 == pytest.approx([0.02, 0, 0])
    assert merged[1].frac_coords == pytest.approx([0.5, 0.5, 0.5])
    assert len(merge_atoms(Structure(cell, ["Fe"] * 2, [[0, 0, 0], [0.141, 0, 0]]))) == 2
    assert len(merge_atoms(Structure(cell, ["Fe"] * 2, [[0, 0, 0], [0.139, 0, 0]]))) == 1
    # single linkage: a chain is one cluster, its centre the mean
    chain = merge_atoms(Structure(cell, ["Fe"] * 3, [[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0]]))
    assert chain[0].frac_coords == pytest.approx([0.2, 0, 0])
    assert len(merge_atoms(Structure(cell, ["He"] * 2, [[0, 0, 0], [0.01, 0, 0]]))) == 2  # no radius
    assert len(merge_atoms(Structure(cell, ["Fe"] * 2, [[0, 0, 0], [0.15, 0, 0]]), fraction=0.6)) == 1  # the paper's


def test_merging_goes_further_in_crowded_cells() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3) / 5
    crowded = Structure(Lattice.cubic(10), ["Fe"] * 125, grid)  # 2 Å apart: beyond 1.4, within 4.2
    assert len(merge_atoms(crowded)) == 1
    assert len(merge_atoms(crowded, max_atoms=125)) == 125


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 10), st.integers(0, 2**31 - 1))
def test_merging_does_not_depend_on_the_origin(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    one, other = (merge_atoms(Structure(Lattice.cubic(8), ["Fe"] * n, x + shift)) for shift in (0.0, rng.random(3)))
    assert len(one) == len(other)


def test_nothing_to_merge_in_real_crystals() -> None:
    for crystal in tiny_crystals():
        assert merge_atoms(crystal).composition == crystal.composition


def test_filters_by_hand() -> None:
    doubled = Structure(rock_salt().lattice, [*rock_salt().species, "Na"], [*rock_salt().frac_coords, [0.002, 0, 0]])
    near = Structure(Lattice.cubic(2.0), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])  # 1.73 Å where 2.1 are asked
    unreadable = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    crystals = [rock_salt(), doubled, near, rock_salt(), unreadable]
    report, merged = pgcgm_filters(crystals, space_groups=[225, 225, 221, 221, 225], processes=1)
    rows = report["crystals"]
    assert [r["kept"] for r in rows] == [True, True, False, False, None]
    assert [r["space_group"] for r in rows] == [225, 225, 221, 225, None]
    assert [r["distance"] for r in rows] == [True, True, False, True, None]
    assert (rows[1]["atoms"], rows[1]["atoms_merged"], report["merged_atoms"]) == (9, 8, 1)
    assert len(merged[1]) == 8
    assert merged[4] is None
    assert rows[3]["reason"] == "space group 225, not 221"
    assert "disordered" in rows[4]["reason"]
    assert report["kept"] == {"value": 0.5, "count": 2, "of": 4, "missing": 1, "reason": None}
    assert pgcgm_filters(crystals * 3, space_groups=[225, 225, 221, 221, 225] * 3, processes=2)[0]["kept"]["count"] == 6


def test_filters_refuse_what_makes_no_sense() -> None:
    assert pgcgm_filters([], space_groups=[])[0]["kept"]["reason"] == "no crystals"
    with pytest.raises(RequestError, match="0 space groups for 1"):
        pgcgm_filters([rock_salt()], space_groups=[])
    with pytest.raises(RequestError, match="merge=0"):
        pgcgm_filters([], space_groups=[], merge=0)
    with pytest.raises(StructureError, match="crystal 0"):
        pgcgm_filters([3], space_groups=[None])
