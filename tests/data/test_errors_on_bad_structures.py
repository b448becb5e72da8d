"""Crystals that no model can read: every one is refused in one line that says which, why, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase.build
import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

from autoperi.data.convert import (
    as_list,
    as_structure,
    atoms_to_structure,
    kind_of,
    structure_to_atoms,
    to_arrays,
    to_batch,
)
from autoperi.errors import AutoPeriError, StructureError

if TYPE_CHECKING:
    from collections.abc import Callable

CUBE = Lattice.cubic(4)
ORIGIN = [[0.0, 0.0, 0.0]]


def atoms(**changes: Any) -> Atoms:
    return Atoms(**{"numbers": [3], "positions": ORIGIN, "cell": [4, 4, 4], "pbc": True, **changes})


# what is wrong -> the crystal, and words that its message must hold
BAD: dict[str, tuple[Callable[[], object], list[str]]] = {
    "mixed species": (
        lambda: Structure(CUBE, [{"Fe": 0.5, "Mn": 0.5}], ORIGIN),
        ["disordered", "site 0", "Fe", "Mn", "0.5", "order it"],
    ),
    "vacancies": (
        lambda: Structure(CUBE, ["Li", {"O": 0.9}], [*ORIGIN, [0.5, 0.5, 0.5]]),
        ["disordered", "site 1", "0.9", "order it"],
    ),
    "dummy species": (
        lambda: Structure(CUBE, [DummySpecies("Xa")], ORIGIN),
        ["dummy species 'Xa'", "site 0", "replace"],
    ),
    "X in pymatgen": (lambda: Structure(CUBE, ["X"], ORIGIN), ["dummy species 'X'", "replace"]),
    "no sites": (lambda: Structure(CUBE, [], []), ["no atoms", "at least one"]),
    "slab lattice": (
        lambda: Structure(Lattice(np.eye(3) * 4, pbc=(True, True, False)), ["Li"], ORIGIN),
        ["pbc", "[True, True, False]"],
    ),
    "NaN coordinate": (lambda: Structure(CUBE, ["Li"], [[0, np.nan, 0]]), ["NaN", "coordinates", "finite"]),
    "infinite coordinate": (lambda: Structure(CUBE, ["Li"], [[0, np.inf, 0]]), ["infinity", "coordinates", "finite"]),
    "NaN lattice": (lambda: Structure(Lattice(np.full((3, 3), np.nan)), ["Li"], ORIGIN), ["NaN", "lattice", "Å"]),
    "flat lattice": (
        lambda: Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Li"], ORIGIN),
        ["volume of 0", "span space"],
    ),
    "molecule of ASE": (lambda: ase.build.molecule("H2O"), ["not periodic", "[False, False, False]", "set pbc"]),
    "surface of ASE": (
        lambda: ase.build.fcc111("Cu", (1, 1, 3), vacuum=5),
        ["not periodic", "[True, True, False]", "set pbc"],
    ),
    "no atoms in ASE": (lambda: Atoms(cell=[4, 4, 4], pbc=True), ["no atoms", "at least one"]),
    "X in ASE": (lambda: atoms(numbers=[0]), ["atomic number 0", "1 to 118"]),
    "beyond oganesson": (lambda: atoms(numbers=[119]), ["atomic number 119", "1 to 118"]),
    "NaN position": (lambda: atoms(positions=[[0, 0, np.nan]]), ["NaN", "coordinates"]),
    "infinite position": (lambda: atoms(positions=[[np.inf, 0, 0]]), ["infinity", "coordinates"]),
    "NaN cell": (lambda: atoms(cell=[4, 4, np.nan]), ["NaN", "lattice"]),
    "no cell": (lambda: atoms(cell=None), ["volume of 0", "span space"]),
    "infinite volume": (lambda: atoms(cell=[1e200, 1e200, 1e200]), ["volume", "span space"]),
    "two equal cell vectors": (lambda: atoms(cell=[[4, 0, 0], [4, 0, 0], [0, 0, 4]]), ["volume of 0", "span space"]),
    "molecule of pymatgen": (
        lambda: Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.7]]),
        ["type Molecule", "Structure or ASE Atoms"],
    ),
    "a string": (lambda: "LiFePO4", ["type str", "Structure or ASE Atoms"]),
    "a dict": (lambda: {"lattice": 1}, ["type dict", "Structure or ASE Atoms"]),
    "a number": (lambda: 3, ["type int", "Structure or ASE Atoms"]),
    "nothing": (lambda: None, ["type NoneType", "Structure or ASE Atoms"]),
}
CASES = pytest.mark.parametrize(("make", "words"), list(BAD.values()), ids=list(BAD))


def message(call: Callable[[], object], kind: type[AutoPeriError] = StructureError) -> str:
    with pytest.raises(kind) as error, np.errstate(all="ignore"):
        call()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


@CASES
def test_a_batch_names_the_crystal_the_value_and_the_remedy(make, words):
    text = message(lambda: to_batch([ase.build.bulk("Cu"), make()]))
    assert "crystal 1 " in text
    assert all(word in text for word in words), text


@CASES
def test_alone_it_is_refused_too(make, words):
    assert all(word in message(lambda: to_batch(make())) for word in words)
    assert all(word in message(lambda: to_arrays(make())) for word in words)


@pytest.mark.parametrize("name", ["mixed species", "vacancies", "dummy species", "slab lattice"])
def test_what_ase_cannot_hold_is_refused_before_ase_sees_it(name):
    make, words = BAD[name]
    assert all(word in message(lambda: structure_to_atoms(make())) for word in words)


@pytest.mark.parametrize(
    "name", ["molecule of ASE", "surface of ASE", "X in ASE", "beyond oganesson", "NaN position", "no cell"]
)
def test_what_pymatgen_cannot_hold_is_refused_before_pymatgen_sees_it(name):
    make, words = BAD[name]
    assert all(word in message(lambda: atoms_to_structure(make())) for word in words)
    assert all(word in message(lambda: as_structure(make())) for word in words)


@pytest.mark.parametrize("name", ["a string", "a dict", "a number", "nothing", "molecule of pymatgen"])
@pytest.mark.parametrize("function", [kind_of, as_list, as_structure])
def test_other_types_are_named_everywhere(name, function):
    make, words = BAD[name]
    assert all(word in message(lambda: function(make())) for word in words)


def test_every_error_is_an_autoperi_error_and_a_value_error():
    assert issubclass(StructureError, AutoPeriError)
    assert issubclass(AutoPeriError, ValueError)


def test_odd_but_sound_crystals_pass():
    needle = Structure(Lattice.from_parameters(1, 1, 400, 90, 90, 90), ["H"], ORIGIN)
    skewed = Structure(Lattice([[3, 0, 0], [300, 3, 0], [-500, 200, 3]]), ["H", "Og"], [*ORIGIN, [0.5, 0.5, 0.5]])
    touching = Structure(CUBE, ["Li", "Li"], ORIGIN * 2)
    left_handed = Structure(Lattice(-np.eye(3) * 4), ["Li"], ORIGIN)
    big = ase.build.bulk("Cu", cubic=True) * (7, 6, 6)
    assert to_batch([needle, skewed, touching, left_handed, big]).n_atoms.tolist() == [1, 2, 2, 1, 1008]
