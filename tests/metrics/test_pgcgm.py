"""PGCGM's relax-and-match rate: by hand and against pymatgen."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from autoperi.errors import RequestError
from autoperi.metrics.parallel import Failure
from autoperi.metrics.pgcgm import relax_and_match


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
