"""Batched relaxation with a potential: as ASE does it, the same in any company, a status for every crystal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from pymatgen.core import Structure

from autoperi.data.convert import as_structure, to_batch
from autoperi.errors import RequestError, StructureError
from autoperi.interfaces.ase import AutoPeriCalculator
from autoperi.models.evaluate import edge_batches, evaluate
from autoperi.models.potential import Potential
from autoperi.relax.positions import relax
from autoperi.symmetry.analysis import analyse


@pytest.fixture(scope="module")
def tiny() -> Potential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Potential(channels=8, layers=1, cutoff=4.0, n_radial=4, hidden=8).double().eval()


def crystals() -> list[Atoms]:
    made = [
        bulk("NaCl", "rocksalt", 5.2),
        bulk("Ti", "hcp", a=2.9, c=4.6),
        bulk("Cu", "fcc", 3.4, cubic=True),
        bulk("Si", "diamond", 5.2),
    ]
    for k, atoms in enumerate(made):
        atoms.rattle(0.05, seed=k)
        atoms.set_cell(atoms.cell * (1 + 0.01 * k), scale_atoms=True)
    return made


def test_it_ends_where_ase_ends(tiny: Potential) -> None:
    for atoms, found in zip(crystals(), relax(tiny, crystals(), fmax=0.005, steps=300), strict=True):
        assert found.status == "converged"
        atoms.calc = AutoPeriCalculator(tiny, device="cpu", dtype="float64")
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.005, steps=300)
        assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=2e-3)
        assert found.energy < found.energy_before
        again = found.structure
        again.calc = atoms.calc
        assert again.get_forces() == pytest.approx(found.forces, abs=1e-8)
        assert np.linalg.norm(again.get_forces(), axis=1).max() < 0.005
        assert np.abs(again.get_stress(voigt=False) - found.stress).max() < 1e-8


def test_each_crystal_relaxes_as_it_does_alone_and_in_small_passes(tiny: Potential) -> None:
    together = relax(tiny, crystals(), fmax=0.01, steps=60)
    apart = relax(tiny, crystals(), fmax=0.01, steps=60, max_edges=1)
    alone = [relax(tiny, atoms, fmax=0.01, steps=60)[0] for atoms in crystals()]
    for other in (apart, alone):
        for a, b in zip(together, other, strict=True):
            assert (a.status, a.steps) == (b.status, b.steps)
            assert a.energy == pytest.approx(b.energy, abs=1e-8)
            assert a.structure.cell[:] == pytest.approx(b.structure.cell[:], abs=1e-7)


def test_a_fixed_cell_and_no_steps(tiny: Potential) -> None:
    (found,) = relax(tiny, crystals()[0], cell=False, fmax=0.02, steps=200)
    assert found.status == "converged"
    assert found.structure.cell[:] == pytest.approx(crystals()[0].cell[:], abs=1e-12)
    (same,) = relax(tiny, crystals()[0], steps=0)
    assert (same.status, same.steps) == ("max_steps", 0)
    assert same.energy == same.energy_before


def test_fix_symmetry_keeps_the_group_exactly(tiny: Potential) -> None:
    rutile = Structure.from_spacegroup(
        136,
        [[4.5, 0, 0], [0, 4.5, 0], [0, 0, 3.0]],
        ["Ti", "O"],
        [[0, 0, 0], [0.3, 0.3, 0]],
        site_properties={"tag": [1, 2]},
    )
    noisy = rutile.copy().perturb(0.004)
    (found,) = relax(tiny, noisy, fix_symmetry=True, symprec=0.05, fmax=0.02, steps=100)
    assert isinstance(found.structure, Structure)
    info = analyse(
        found.structure.lattice.matrix, found.structure.frac_coords, [s.specie.Z for s in found.structure], symprec=1e-5
    )
    assert info.number == 136
    assert found.energy < found.energy_before
    assert found.structure.site_properties["tag"] == noisy.site_properties["tag"]
    assert found.structure.volume != pytest.approx(noisy.volume, rel=1e-4)


def test_failures_are_statuses_and_batchmates_do_not_care(tiny: Potential) -> None:
    close = Atoms("Fe2", positions=[[0, 0, 0], [0.05, 0, 0]], cell=[6, 6, 6], pbc=True)
    same = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 0]], cell=[6, 6, 6], pbc=True)
    lonely = Atoms("Ar", cell=[30, 30, 30], pbc=True)
    found = relax(tiny, [close, crystals()[0], same, lonely], fmax=0.02, steps=60)
    assert found[0].status.startswith("failed: a force of")
    assert found[0].structure is close
    assert found[2].status == "failed: two atoms are at the same place"
    assert (found[3].status, found[3].steps) == ("converged", 0)
    assert found[1].energy == pytest.approx(relax(tiny, crystals()[0], fmax=0.02, steps=60)[0].energy, abs=1e-8)


def test_unseen_elements_fail_alone(tiny: Potential) -> None:
    from copy import deepcopy

    known = deepcopy(tiny)
    known.set_seen(torch.tensor([29, 14]))
    found = relax(known, crystals(), steps=2)
    assert [f.status.startswith("failed: the potential was never trained on") for f in found] == [
        True,
        True,
        False,
        False,
    ]


def test_what_cannot_be_honoured_is_refused(tiny: Potential) -> None:
    held = crystals()[0]
    held.set_constraint(FixAtoms([0]))
    for bad in (held, as_structure(held)):
        with pytest.raises(RequestError, match="holds atoms fixed"):
            relax(tiny, bad)
    for options in ({"steps": -1}, {"fmax": 0.0}, {"max_edges": 0}, {"skin": -1.0}):
        with pytest.raises(RequestError, match=next(iter(options))):
            relax(tiny, crystals(), **options)
    with pytest.raises(RequestError, match="symmetry_of has 1 crystals for 4"):
        relax(tiny, crystals(), fix_symmetry=True, symmetry_of=crystals()[:1])
    with pytest.raises(StructureError, match="crystal 1"):
        relax(tiny, [crystals()[0], Atoms("Cu")])
    assert relax(tiny, []) == []


def test_any_whole_number_of_steps_and_atoms_that_are_all_free(tiny: Potential) -> None:
    free = as_structure(crystals()[0])
    free.add_site_property("selective_dynamics", [[True, True, True]] * len(free))
    (found,) = relax(tiny, free, steps=np.int64(2))
    assert (found.status, found.steps) == ("max_steps", 2)
    free.add_site_property("selective_dynamics", [[True, True, False]] + [[True] * 3] * (len(free) - 1))
    with pytest.raises(RequestError, match="holds atoms fixed"):
        relax(tiny, free)


def test_atoms_stay_in_the_image_they_were_given_in(tiny: Potential) -> None:
    atoms = crystals()[0]
    moved = atoms.copy()
    moved.positions += np.array([[2, -1, 0], [0, 3, -2]]) @ atoms.cell[:]
    (a,), (b,) = relax(tiny, atoms, steps=3), relax(tiny, moved, steps=3)
    assert b.structure.positions - np.array([[2, -1, 0], [0, 3, -2]]) @ b.structure.cell[:] == pytest.approx(
        a.structure.positions, abs=1e-8
    )


@pytest.mark.parametrize("max_edges", [1, 60, 10_000])
def test_evaluation_in_passes_is_that_of_the_whole(tiny: Potential, max_edges: int) -> None:
    batch = to_batch(crystals(), dtype=torch.float64)
    found, expected = evaluate(tiny, batch, max_edges=max_edges), tiny(batch)
    for name in ("energy", "energies", "forces", "stress"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-10)
        assert not getattr(found, name).requires_grad
    slices = edge_batches(batch, tiny.cutoff, max_edges=max_edges)
    assert [k for s in slices for k in range(s.start, s.stop)] == list(range(len(batch)))
    assert evaluate(tiny, batch[[]], derivatives=False).energy.shape == (0,)
