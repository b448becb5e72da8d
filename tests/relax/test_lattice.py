"""``relax_lattice(positions=True)``: the lattice pass and then the potential, for every crystal by itself, with a note
of both.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri
from autoperi.errors import RelaxationInterrupted, RequestError, StructureError
from autoperi.hub.networks import network_component
from autoperi.models.potential import Potential
from autoperi.symmetry.analysis import analyse
from autoperi.units import RELAX_FMAX as FMAX

if TYPE_CHECKING:
    from autoperi.hub.bundle import Bundle


@pytest.fixture(scope="module")
def small(tiny_bundle: Bundle) -> AutoPeri:
    """Untrained networks, with a potential that knows all elements but chlorine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(channels=8, layers=1, cutoff=4.0, n_radial=4, hidden=8)
    potential.set_seen(torch.tensor([z for z in range(1, 100) if z != 17]))
    bundle = deepcopy(tiny_bundle)
    bundle.components["potential"] = network_component(potential)
    return AutoPeri(bundle, device="cpu")


@pytest.fixture(scope="module")
def base() -> AutoPeri:
    return AutoPeri.from_pretrained(device="cpu")


def crystals() -> list[Atoms]:
    made = [
        bulk("MgO", "rocksalt", 4.3, cubic=True),
        bulk("Ti", "hcp", a=2.9, c=4.6),
        bulk("Cu", cubic=True),
        bulk("Si") * (2, 1, 1),
    ]
    for k, atoms in enumerate(made):
        atoms.rattle(0.08, seed=k)
    return made


def note(crystal: Any) -> dict[str, Any]:
    return (crystal.info if isinstance(crystal, Atoms) else crystal.properties)["autoperi"]["relaxation"]


def test_it_ends_where_the_calculator_has_no_force_and_below_where_the_lattice_pass_ends(base: AutoPeri) -> None:
    for start, found in zip(crystals(), base.relax_lattice(crystals(), positions=True), strict=True):
        facts = note(found)
        assert facts["status"] == "converged"
        assert facts["passes"] > 0
        assert 0 < facts["steps"] <= 500
        calculator = base.calculator(dtype="float64")
        assert np.linalg.norm(calculator.get_forces(found), axis=1).max() < FMAX
        assert np.abs(calculator.get_stress(found)).max() * found.get_volume() / len(found) < FMAX
        energy = calculator.get_potential_energy(found) / len(found)
        assert facts["energy_eV_per_atom"] == pytest.approx(energy, abs=2e-6)
        assert facts["energy_eV_per_atom"] < facts["energy_before_eV_per_atom"]
        lattice_only = base.relax_lattice(start)
        before = calculator.get_potential_energy(lattice_only) / len(found)
        assert facts["energy_before_eV_per_atom"] == pytest.approx(before, abs=2e-6)
        assert note(lattice_only)["status"] == facts["lattice_status"]
        assert facts["volume_ratio"] == pytest.approx(found.get_volume() / start.get_volume(), abs=1e-6)
        assert found.numbers.tolist() == start.numbers.tolist()


def test_any_batch_size_gives_the_same(base: AutoPeri) -> None:
    together = base.relax_lattice(crystals(), positions=True)
    for a, b in zip(together, base.relax_lattice(crystals(), positions=True, batch_size=2), strict=True):
        assert a.cell[:].tolist() == b.cell[:].tolist()
        assert a.get_scaled_positions().tolist() == b.get_scaled_positions().tolist()
        assert a.info == b.info


def test_fix_symmetry_keeps_the_group_of_the_crystal_that_was_given(base: AutoPeri) -> None:
    noisy = Structure.from_spacegroup(136, Lattice.tetragonal(4.8, 2.8), ["Ti", "O"], [[0, 0, 0], [0.29, 0.29, 0]])
    for k, shift in enumerate(np.random.default_rng(0).uniform(-0.001, 0.001, (6, 3))):
        noisy.translate_sites([k], shift, frac_coords=False)

    def group(crystal: Structure) -> int:
        return analyse(crystal.lattice.matrix, crystal.frac_coords, [s.specie.Z for s in crystal], symprec=1e-6).number

    found = base.relax_lattice(noisy, positions=True, fix_symmetry=True)
    assert note(found)["status"] == "converged"
    assert group(found) == 136
    assert np.abs(found.frac_coords - noisy.frac_coords).max() > 1e-3
    assert group(base.relax_lattice(noisy, positions=True)) != 136


def test_steps_are_a_bound_and_none_leaves_the_lattice_pass(small: AutoPeri) -> None:
    (start, *_) = crystals()
    found = small.relax_lattice(start, positions=True, steps=2)
    assert (note(found)["status"], note(found)["steps"]) == ("max_steps", 2)
    untouched = small.relax_lattice(start, positions=True, steps=0)
    assert note(untouched)["steps"] == 0
    assert untouched.cell[:] == pytest.approx(small.relax_lattice(start).cell[:], abs=1e-7)
    for steps in (-1, 1.5, True):
        with pytest.raises(RequestError, match="steps="):
            small.relax_lattice(start, positions=True, steps=steps)


def test_kind_container_and_notes_come_back(small: AutoPeri) -> None:
    atoms = crystals()[0]
    atoms.info["mine"] = 1
    atoms.info["autoperi"] = {"seed": 3}
    structure = Structure(
        Lattice(atoms.cell[:]), atoms.numbers, atoms.get_scaled_positions(), site_properties={"tag": list(range(8))}
    )
    found = small.relax_lattice((structure, atoms), positions=True, steps=1)
    assert isinstance(found, tuple)
    assert isinstance(found[0], Structure)
    assert isinstance(found[1], Atoms)
    assert found[0].site_properties["tag"] == list(range(8))
    assert (found[1].info["mine"], found[1].info["autoperi"]["seed"]) == (1, 3)
    assert {"model", "sha256", "versions"} <= set(note(found[0]))
    assert "relaxation" not in atoms.info["autoperi"]
    series = small.relax_lattice(pd.Series([atoms], index=["x"]), positions=True, steps=1)
    assert series.index.tolist() == ["x"]
    assert isinstance(small.relax_lattice(atoms, positions=True, steps=0), Atoms)
    assert small.relax_lattice([], positions=True) == []


def test_a_crystal_that_fails_fails_alone_and_comes_back_as_it_was(small: AutoPeri) -> None:
    salt, close = (
        bulk("NaCl", "rocksalt", 5.6),
        Atoms("Fe2", positions=[[0, 0, 0], [0.05, 0, 0]], cell=[6, 6, 6], pbc=True),
    )
    found = small.relax_lattice([salt, crystals()[2], close], positions=True, steps=30)
    assert [note(f)["status"] for f in found][::2] == ["failed", "failed"]
    assert "never trained on Cl" in note(found[0])["reason"]
    assert "a force of" in note(found[2])["reason"]
    for given, back in ((salt, found[0]), (close, found[2])):
        assert back.cell[:] == pytest.approx(given.cell[:], abs=1e-12)
        assert back.positions == pytest.approx(given.positions, abs=1e-12)
    alone = small.relax_lattice(crystals()[2], positions=True, steps=30)
    assert alone.cell[:].tolist() == found[1].cell[:].tolist()


def test_what_cannot_be_honoured_is_refused_before_any_work(
    small: AutoPeri, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"positions=True needs a potential.*'tiny'"):
        AutoPeri(tiny_bundle, device="cpu").relax_lattice(crystals()[0], positions=True)
    monkeypatch.setattr(Potential, "forward", lambda *_, **__: pytest.fail("refused before any work"))
    held = crystals()[0]
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(RequestError, match="crystal 3 holds atoms fixed"):
        small.relax_lattice([*crystals()[:3], held], positions=True, batch_size=1)
    with pytest.raises(StructureError, match="crystal 3"):
        small.relax_lattice([*crystals()[:3], Atoms("Cu")], positions=True, batch_size=1)


@pytest.mark.parametrize("positions", [False, True])
def test_a_series_stays_one_whatever_its_labels_are(small: AutoPeri, positions: bool) -> None:
    given = pd.Series(crystals()[2:], index=["cell", "lattice"], name="mine", dtype=object)
    found = small.relax_lattice(given, positions=positions, steps=1)
    assert isinstance(found, pd.Series)
    assert (found.index.tolist(), found.name) == (["cell", "lattice"], "mine")
    assert [len(c) for c in found] == [len(c) for c in given]
    assert small.score(given, properties=["formula"]).index.tolist() == ["cell", "lattice"]


@pytest.mark.parametrize("positions", [False, True])
def test_an_empty_container_comes_back_as_its_kind(small: AutoPeri, positions: bool) -> None:
    assert small.relax_lattice((), positions=positions) == ()
    assert small.relax_lattice([], positions=positions) == []
    empty = small.relax_lattice(pd.Series([], dtype=object, name="none"), positions=positions)
    assert isinstance(empty, pd.Series)
    assert (len(empty), empty.name) == (0, "none")


@pytest.mark.parametrize("positions", [False, True])
def test_without_a_space_group_to_keep_a_crystal_fails_alone(small: AutoPeri, positions: bool) -> None:
    same = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 0]], cell=[6, 6, 6], pbc=True)
    found = small.relax_lattice([same, crystals()[2]], positions=positions, fix_symmetry=True, steps=1)
    assert [note(f)["status"] == "failed" for f in found] == [True, False]
    assert "no space group" in note(found[0])["reason"]
    assert "on_failure" not in note(found[0])["reason"]
    assert note(found[0])["volume_ratio"] == 1
    assert found[0].cell[:].tolist() == same.cell[:].tolist()
    assert found[0].positions.tolist() == same.positions.tolist()


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("fix_symmetry", [False, True])
def test_labels_charge_and_images_survive(small: AutoPeri, positions: bool, fix_symmetry: bool) -> None:
    atoms = crystals()[0]
    shifts = np.random.default_rng(0).integers(-3, 4, (8, 3))
    frac = atoms.get_scaled_positions() + shifts
    labels = [f"site{k}" for k in range(8)]
    structure = Structure(Lattice(atoms.cell[:]), atoms.numbers, frac, charge=2, labels=labels)
    atoms.positions = frac @ atoms.cell[:]
    atoms.set_velocities(np.ones((8, 3)))
    atoms.set_celldisp([0.1, 0.2, 0.3])
    wrapped = Structure(structure.lattice, structure.species, frac - shifts)
    options: dict[str, Any] = {"positions": positions, "fix_symmetry": fix_symmetry, "steps": 3}
    found, found_atoms, reference = small.relax_lattice([structure, atoms, wrapped], **options)
    assert (found.labels, found._charge) == (labels, 2)
    assert found.frac_coords - shifts == pytest.approx(reference.frac_coords, abs=1e-6)
    assert (np.abs(found.frac_coords - frac).max() > 1e-5) == positions
    assert found.lattice.matrix == pytest.approx(reference.lattice.matrix, abs=1e-6)
    assert found_atoms.positions == pytest.approx(found.frac_coords @ found_atoms.cell[:], abs=1e-5)
    assert found_atoms.get_velocities() == pytest.approx(1.0)
    assert found_atoms.get_celldisp().ravel().tolist() == [0.1, 0.2, 0.3]
    assert "autoperi" not in structure.properties
    assert "autoperi" not in atoms.info


def test_an_interruption_keeps_what_is_finished(small: AutoPeri, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoperi.relax.positions as module

    calls = []

    def stopped(*args: Any, **options: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 4:  # the first call checks settings, two batches pass
            raise KeyboardInterrupt
        return real(*args, **options)

    real = module.relax
    monkeypatch.setattr(module, "relax", stopped)
    with pytest.raises(RelaxationInterrupted, match="2 of 4") as caught:
        small.relax_lattice(crystals(), positions=True, steps=1, batch_size=1, progress=False)
    assert calls == [0, 1, 1, 1]
    assert [len(s) for s in caught.value.finished] == [8, 2]
    assert all("status" in s.info["autoperi"]["relaxation"] for s in caught.value.finished)
