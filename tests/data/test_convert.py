"""Round trips between ASE, pymatgen and CrystalBatch lose nothing that the two sides share."""

from __future__ import annotations

import functools
import subprocess
import sys

import ase.build
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms, FixCartesian
from ase.spacegroup import Spacegroup
from ase.spacegroup import crystal as ase_crystal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, IStructure, Lattice, Species, Structure

from autoperi.data.convert import (
    arrays_to_structures,
    as_list,
    as_structure,
    atoms_to_structure,
    batch_arrays,
    kind_of,
    structure_to_atoms,
    to_arrays,
    to_batch,
    to_structures,
)
from autoperi.data.elements import element_number
from autoperi.errors import RequestError, StructureError

LAWS = settings(max_examples=40, deadline=None)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Skewed cells of either handedness, one atom to many, coordinates outside of the cell, any element."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.sampled_from([1, 1, 2, 3, 5, 12, 40]))
    lattice = np.diag(rng.uniform(2, 12, 3)) + np.triu(rng.uniform(-20, 20, (3, 3)), 1)
    lattice = lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    numbers = [Element.from_Z(int(z)) for z in rng.integers(1, 119, n)]
    return Structure(Lattice(lattice), numbers, rng.uniform(-2, 3, (n, 3)))


@functools.cache
def _rock_salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rock_salt() -> Structure:
    return _rock_salt().copy()


def equal_mod_1(a: np.ndarray, b: np.ndarray, atol: float) -> bool:
    difference = np.asarray(a) - np.asarray(b)
    return bool(np.abs(difference - np.round(difference)).max() < atol)


# ---- through the batch


@LAWS
@given(st.lists(structures(), min_size=1, max_size=4), st.sampled_from([torch.float32, torch.float64]))
def test_structure_to_batch_and_back(originals, dtype):
    batch = to_batch(originals, dtype=dtype)
    assert batch.lattice.dtype == batch.frac_coords.dtype == dtype
    assert float(batch.frac_coords.min()) >= 0
    assert float(batch.frac_coords.max()) < 1
    for old, new in zip(originals, to_structures(batch), strict=True):
        if dtype == torch.float64:
            assert np.array_equal(old.lattice.matrix, new.lattice.matrix)
        assert np.allclose(old.lattice.matrix, new.lattice.matrix, rtol=1e-6)
        assert equal_mod_1(old.frac_coords, new.frac_coords, 1e-14 if dtype == torch.float64 else 1e-6)
        assert old.species == new.species


@LAWS
@given(st.lists(structures(), min_size=1, max_size=4))
def test_the_kind_of_crystal_does_not_matter(originals):
    from_structures = to_batch(originals, dtype=torch.float64)
    mixed = to_batch([s if i % 2 else structure_to_atoms(s) for i, s in enumerate(originals)], dtype=torch.float64)
    assert torch.equal(from_structures.lattice, mixed.lattice)
    assert torch.equal(from_structures.atomic_numbers, mixed.atomic_numbers)
    assert equal_mod_1(from_structures.frac_coords, mixed.frac_coords, 1e-11)
    for s in to_structures(from_structures):
        a = structure_to_atoms(s)
        assert a.pbc.all()
        assert np.array_equal(a.cell[:], s.lattice.matrix)
        assert np.allclose(a.positions, s.cart_coords, atol=1e-10)
        assert a.numbers.tolist() == list(s.atomic_numbers)


@LAWS
@given(st.lists(structures(), min_size=1, max_size=4))
def test_arrays_and_back_change_nothing(originals):
    again = arrays_to_structures([to_arrays(s) for s in originals])
    for old, new in zip(originals, again, strict=True):
        assert np.array_equal(old.lattice.matrix, new.lattice.matrix)
        assert np.array_equal(old.frac_coords, new.frac_coords)
        assert old.species == new.species


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("x", [-1e-30, -1e-9, 1 - 1e-9, 1.0, -1.0, 1e-30])
def test_wrapped_coordinates_never_reach_one(x, dtype):
    coords = to_batch(Structure(Lattice.cubic(3), ["H"], [[x, 0, 0]]), dtype=dtype).frac_coords
    assert 0 <= float(coords.min()) <= float(coords.max()) < 1


def test_one_crystal_is_a_batch_of_one_and_none_an_empty_batch():
    assert len(to_batch(rock_salt())) == len(to_batch(ase.build.bulk("Cu"))) == 1
    assert len(to_batch([])) == 0
    assert to_structures(to_batch([])) == []
    assert len(to_batch(s for s in [rock_salt(), rock_salt()])) == 2
    assert to_batch(rock_salt()).lattice.dtype == torch.float32


def test_properties_are_given_crystal_by_crystal_and_copied():
    batch = to_batch([rock_salt(), ase.build.bulk("Cu")])
    given = [{"autoperi": {"seed": 1}}, {"autoperi": {"seed": 2}}]
    crystals = [s.properties for s in to_structures(batch, properties=given)]
    assert crystals == given
    crystals[0]["autoperi"]["seed"] = 5
    assert given[0]["autoperi"]["seed"] == 1
    assert to_structures(batch)[0].properties == {}
    with pytest.raises(StructureError, match="for 2 crystals"):
        to_structures(batch, properties=given[:1])


def test_results_do_not_share_memory_with_the_batch():
    batch = to_batch([rock_salt()], dtype=torch.float64)
    structure = to_structures(batch)[0]
    atoms = structure_to_atoms(structure)
    before = batch.lattice.clone(), batch.frac_coords.clone(), batch.atomic_numbers.clone()
    atoms.positions += 1
    atoms.numbers[:] = 1
    structure.lattice.matrix.setflags(write=True)
    structure.lattice.matrix[:] = 0
    assert all(
        torch.equal(a, b) for a, b in zip(before, (batch.lattice, batch.frac_coords, batch.atomic_numbers), strict=True)
    )


def test_batches_with_gradients_convert():
    batch = to_batch([rock_salt()])
    moved = batch.replace(lattice=batch.lattice.clone().requires_grad_())
    assert len(to_structures(moved)[0]) == 8


def test_batch_arrays_is_to_batch_of_arrays():
    lattice, coords, numbers = to_arrays(rock_salt())
    batch = batch_arrays([lattice], [coords], [numbers])
    assert torch.equal(batch.lattice, to_batch(rock_salt()).lattice)
    assert torch.equal(batch.frac_coords, to_batch(rock_salt()).frac_coords)
    with pytest.raises(StructureError):
        batch_arrays([lattice], [coords[:3]], [numbers])


# ---- between ASE and pymatgen


@LAWS
@given(structures())
def test_structure_to_atoms_and_back(old):
    new = atoms_to_structure(structure_to_atoms(old))
    assert np.array_equal(old.lattice.matrix, new.lattice.matrix)
    assert np.allclose(old.frac_coords, new.frac_coords, rtol=0, atol=1e-11)  # not even wrapped
    assert old.species == new.species
    assert old.properties == new.properties == {}
    assert old.site_properties == new.site_properties == {}


@LAWS
@given(structures())
@example(Structure(Lattice.cubic(4), ["Fe"], [[0, 0, 0]]))
def test_atoms_to_structure_and_back(structure):
    n = len(structure)
    old = structure_to_atoms(structure)
    old.set_initial_magnetic_moments(np.linspace(-1, 1, n))
    old.set_initial_charges(np.linspace(0, 2, n))
    old.set_tags(range(n))
    old.set_array("my_vectors", np.arange(3.0 * n).reshape(n, 3))
    old.set_array("my_words", np.array([f"w{i}" for i in range(n)]))
    old.set_array("my_flags", np.arange(n) % 2 == 0)
    old.info = {"energy_note": "x", "autoperi": {"seed": 3, "list": [1, {"a": None}]}}
    new = structure_to_atoms(atoms_to_structure(old))
    assert np.array_equal(old.cell[:], new.cell[:])
    assert np.allclose(old.positions, new.positions, rtol=0, atol=1e-10)
    assert set(old.arrays) == set(new.arrays)
    for name in set(old.arrays) - {"positions"}:
        assert old.arrays[name].dtype == new.arrays[name].dtype
        assert np.array_equal(old.arrays[name], new.arrays[name])
    assert old.info == new.info
    assert old.info["autoperi"] is not new.info["autoperi"]


def test_site_properties_and_properties_cross_under_the_names_of_each_side():
    s = rock_salt()
    s.add_site_property("magmom", [float(i) for i in range(8)])
    s.add_site_property("charge", [1.0] * 4 + [-1.0] * 4)
    s.add_site_property("wyckoff", ["a"] * 4 + ["b"] * 4)
    s.add_site_property("gaps", [None, 1, "x", [1, 2], {"k": 1}, 2.5, True, None])
    s.properties = {"autoperi": {"seed": 0}, "array": np.arange(3)}
    atoms = structure_to_atoms(s)
    assert atoms.get_initial_magnetic_moments().tolist() == s.site_properties["magmom"]
    assert atoms.get_initial_charges().tolist() == s.site_properties["charge"]
    assert atoms.info["autoperi"] == {"seed": 0}
    back = atoms_to_structure(atoms)
    assert back.site_properties == s.site_properties
    assert back.properties["autoperi"] == s.properties["autoperi"]
    assert np.array_equal(back.properties["array"], np.arange(3))


def test_moments_with_gaps_or_directions_survive():
    for moments in ([1.0, None], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]):
        s = Structure(Lattice.cubic(3), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties={"magmom": moments})
        assert atoms_to_structure(structure_to_atoms(s)).site_properties["magmom"] == moments


def test_oxidation_states_and_spins_survive_and_are_ignored_by_the_batch():
    species = [Species("Fe", 3, spin=5), Species("Fe", 2), Element("O"), Species("O", 0)]
    s = Structure(Lattice.cubic(5), species, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    atoms = structure_to_atoms(s)
    assert atoms.get_chemical_symbols() == ["Fe", "Fe", "O", "O"]
    assert atoms_to_structure(atoms).species == species
    assert to_batch(s).atomic_numbers.tolist() == [26, 26, 8, 8]


def test_isotopes_of_hydrogen_are_hydrogen():
    s = Structure(Lattice.cubic(4), ["D", "T", "O"], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0.5]])
    assert to_batch(s).atomic_numbers.tolist() == structure_to_atoms(s).numbers.tolist() == [1, 1, 8]


def test_constraints_are_selective_dynamics():
    s = Structure(Lattice.cubic(4), ["Li"] * 4, np.random.default_rng(0).random((4, 3)))
    free = [[True] * 3, [False] * 3, [True, False, True], [True, False, True]]
    s.add_site_property("selective_dynamics", free)
    atoms = structure_to_atoms(s)
    assert {type(c) for c in atoms.constraints} == {FixAtoms, FixCartesian}
    moved = atoms.copy()
    moved.set_positions(atoms.positions + 1)
    assert np.allclose(moved.positions - atoms.positions, np.asarray(free, dtype=float))
    assert atoms_to_structure(atoms).site_properties == {"selective_dynamics": free}
    s.add_site_property("selective_dynamics", [[True] * 3] * 4)
    assert structure_to_atoms(s).constraints == []


def test_the_space_group_that_ase_leaves_in_info_survives():
    atoms = ase_crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3)
    structure = atoms_to_structure(atoms)
    assert structure.properties["spacegroup"] == {"number": 225, "setting": 1}
    assert structure_to_atoms(structure).info["spacegroup"] == Spacegroup(225)
    other = {"number": 225, "symbol": "Fm-3m"}  # as the Materials Project writes it: not ours to interpret
    assert (
        structure_to_atoms(Structure(structure.lattice, ["Na"], [[0, 0, 0]], properties={"spacegroup": other})).info[
            "spacegroup"
        ]
        == other
    )


def test_a_site_property_that_would_overwrite_ase_is_refused():
    s = Structure(Lattice.cubic(4), ["Li"], [[0, 0, 0]], site_properties={"positions": [[1, 2, 3]]})
    with pytest.raises(StructureError, match="'positions'"):
        structure_to_atoms(s)


# ---- one and many, and element symbols


def test_kinds_are_told_apart():
    s, a = rock_salt(), ase.build.bulk("NaCl", "rocksalt", a=5.64)
    assert kind_of(s) == kind_of(IStructure.from_sites(s)) == "structure"
    assert kind_of(a) == "atoms"
    assert as_structure(s) is s
    assert isinstance(as_structure(a), Structure)


def test_as_list_knows_one_from_many():
    s, a = rock_salt(), ase.build.bulk("Cu")
    assert as_list(s) == [s]
    assert as_list(a)[0] is a
    assert as_list((s, a))[1] is a
    assert as_list([]) == []


def test_element_numbers():
    assert [element_number(e) for e in ("H", "D", "Fe", "Og")] == [1, 1, 26, 118]
    for wrong in ("X", "fe", "Xx", ""):
        with pytest.raises(StructureError, match="not a chemical element"):
            element_number(wrong)
    with pytest.raises(RequestError, match=r"'Xe2' is not a chemical element; did you mean Xe"):
        element_number("Xe2", error=RequestError)


def test_importing_the_module_imports_neither_ase_nor_pymatgen():
    heavy = ["ase", "pymatgen", "pymatgen.core", "pandas", "pyarrow"]
    code = f"import sys, autoperi.data.convert, autoperi.data.io; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
