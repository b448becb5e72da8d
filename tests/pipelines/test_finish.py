"""``generate(finish=N)``: relaxed crystals that are still what was asked for, or the crystals as they were."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri
from autoperi.data.containers import with_geometry
from autoperi.errors import GenerationInterrupted, RelaxationInterrupted, RequestError, WeightsError
from autoperi.pipelines.finish import REFUSED, finish
from autoperi.symmetry.analysis import analyse

SYMPREC = 0.01


def made(a: float = 4.0, shift: float = 0.0) -> Structure:
    """CsCl-like, with what ``generate`` says of it; ``shift`` moves one atom off its place."""
    crystal = Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + shift]])
    crystal.properties = {"autoperi": {"space_group": 221, "min_distance_ratio": 0.9, "rank_score": -1.0}}
    return crystal


def relaxed(crystal: Structure, lattice=None, coords=None, status: str = "converged") -> Structure:
    return with_geometry(crystal, lattice, coords, relaxation={"status": status, "steps": 3})


def same_geometry(one: Structure, other: Structure) -> bool:
    return bool((one.lattice.matrix == other.lattice.matrix).all() and (one.frac_coords == other.frac_coords).all())


def test_what_keeps_its_promises_is_returned_relaxed():
    (found,) = finish([made()], lambda own: [relaxed(own[0], 4.1 * np.eye(3))], wanted=1, symprec=SYMPREC)
    note = found.properties["autoperi"]
    assert found.lattice.a == pytest.approx(4.1)
    assert note["relaxation"] == {"status": "converged", "steps": 3}
    assert note["rank_score"] == -1.0
    assert note["min_distance_ratio"] != 0.9


@pytest.mark.parametrize(
    ("lattice", "coords", "words"),
    [
        (1.9 * np.eye(3), None, "too close"),
        (4.0 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.6]], "space group 99"),
        (np.diag([4.0, 4.0, 4.2]), None, "space group 123"),
    ],
)
def test_what_would_break_a_promise_comes_back_as_it_was(lattice, coords, words):
    before = made()
    (found,) = finish([before], lambda own: [relaxed(own[0], lattice, coords)], wanted=1, symprec=SYMPREC)
    note = found.properties["autoperi"]
    assert note["relaxation"]["status"] == REFUSED
    assert words in note["relaxation"]["reason"]
    assert note["min_distance_ratio"] == 0.9
    assert same_geometry(found, before)


def test_a_smaller_crystal_is_no_answer():
    double = made()
    double.make_supercell([1, 1, 2])
    double.properties["autoperi"]["space_group"] = 221
    (found,) = finish([double], lambda own: [relaxed(own[0], 1.01 * double.lattice.matrix)], wanted=1, symprec=SYMPREC)
    assert "crystal of 2 atoms" in found.properties["autoperi"]["relaxation"]["reason"]


def test_what_failed_says_so():
    (found,) = finish([made()], lambda own: [relaxed(own[0], status="failed")], wanted=1, symprec=SYMPREC)
    assert found.properties["autoperi"]["relaxation"]["status"] == "failed"
    assert same_geometry(found, made())


def test_an_interruption_loses_nothing():
    def relax(own):
        raise RelaxationInterrupted([relaxed(own[0], 4.1 * np.eye(3))], len(own))

    with pytest.raises(GenerationInterrupted) as stop:
        finish([made(), made(4.2)], relax, wanted=2, symprec=SYMPREC)
    assert [round(s.lattice.a, 3) for s in stop.value.finished] == [4.1, 4.2]
    assert stop.value.wanted == 2


def test_generate_finishes_what_it_returns():
    peri = AutoPeri.from_pretrained()
    options = {"n": 2, "seed": 0, "space_group": 62, "num_atoms": 20}
    plain = peri.generate("CaTiO3", **options)
    done = peri.generate("CaTiO3", **options, finish=4)
    for before, after in zip(plain, done, strict=True):
        note = after.properties["autoperi"]
        assert note["rank_score"] == before.properties["autoperi"]["rank_score"]
        assert note["relaxation"]["steps"] <= 4
        assert analyse(after.lattice.matrix, after.frac_coords, after.atomic_numbers, symprec=SYMPREC).number == 62
        assert after.composition == before.composition
        if note["relaxation"]["status"] == "max_steps":
            assert note["relaxation"]["energy_eV_per_atom"] < note["relaxation"]["energy_before_eV_per_atom"]
            assert not np.allclose(after.frac_coords, before.frac_coords, atol=1e-4)
    assert {s.properties["autoperi"]["relaxation"]["status"] for s in done} <= {"max_steps", "converged", REFUSED}


def test_without_a_potential_nothing_is_begun(tiny_dir):
    peri = AutoPeri.from_pretrained(tiny_dir)
    with pytest.raises(WeightsError, match=r"no potential.*finish=5"):
        peri.generate("NaCl", finish=5)
    for wrong in (-1, 2.5, True, "20"):
        with pytest.raises(RequestError, match="finish="):
            peri.generate("NaCl", finish=wrong)
