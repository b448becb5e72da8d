"""ASE ⇄ pymatgen ⇄ :class:`~autoperi.data.crystal.CrystalBatch`: the one module that knows all three.

pymatgen ``Structure`` and ASE ``Atoms`` share a cell, positions, elements, per-site and per-crystal properties; these
survive ``structure_to_atoms`` and ``atoms_to_structure`` in both directions:

==============================================  ===========================================
pymatgen                                        ASE
==============================================  ===========================================
``lattice.matrix`` (bit for bit)                ``cell``
``frac_coords`` (not wrapped)                   ``positions``
``site_properties["magmom"]``, ``["charge"]``   initial magnetic moments, initial charges
``site_properties["selective_dynamics"]``       ``FixAtoms`` and ``FixCartesian`` constraints
oxidation states, spins of the species          arrays ``oxi_states``, ``species_spin``
other site properties                           arrays of the same name
``properties``                                  ``info`` (deep copy)
==============================================  ===========================================

What only one of them has stays behind: site labels and total charge of a ``Structure``; calculator, ``celldisp`` and
other constraints of ``Atoms``. Deuterium and tritium are read as hydrogen: the models know elements, not isotopes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    Crystal: TypeAlias = Structure | Atoms
    Arrays: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]

# ASE's own names for what pymatgen keeps as a site property.
_ASE_ARRAY = {"magmom": "initial_magmoms", "charge": "initial_charges"}
_SITE_PROPERTY = {array: name for name, array in _ASE_ARRAY.items()}
MIN_VOLUME_PER_ATOM = 0.005
"""Å³, below which no crystal is: a lattice in nanometres, or in units of itself."""
_FLAT_CELL = 1e-6
"""A cell is flat where its volume is less than this part of the product of its edges, as in
``CrystalBatch.validate``.
"""


def kind_of(crystal: object, *, name: str = "the crystal") -> Literal["structure", "atoms"]:
    """Whether ``crystal`` is a pymatgen ``Structure`` or ASE ``Atoms``; ``name`` is what an error calls it.

    Raises:
        StructureError: it is neither.
    """
    from ase import Atoms
    from pymatgen.core import IStructure

    if isinstance(crystal, IStructure):
        return "structure"
    if isinstance(crystal, Atoms):
        return "atoms"
    raise StructureError(f"{name} is of type {type(crystal).__name__}; give a pymatgen Structure or ASE Atoms")


def as_list(crystals: Crystal | Iterable[Crystal]) -> list[Crystal]:
    """One crystal or several, as a list.

    Raises:
        StructureError: neither a crystal nor an iterable.
    """
    from ase import Atoms
    from pymatgen.core import SiteCollection

    # Structure, Molecule and Atoms are themselves sequences (of sites), and a string of characters.
    if isinstance(crystals, (Atoms, SiteCollection, str, bytes, Mapping)) or not isinstance(crystals, Iterable):
        kind_of(crystals)
        return [crystals]
    return list(crystals)


def to_arrays(crystal: Crystal, *, name: str = "the crystal") -> Arrays:
    """Lattice ``[3, 3]`` in Å, fractional coordinates ``[n, 3]`` (as given, not wrapped) and atomic numbers ``[n]`` of
    one crystal.

    Raises:
        StructureError: wrong type, no atoms, disordered, not periodic, an unknown element, NaN or infinity, a cell
            without volume.
    """
    kind = kind_of(crystal, name=name)
    if kind == "structure":
        lattice, pbc = np.array(crystal.lattice.matrix, dtype=np.float64), crystal.lattice.pbc
        numbers = _structure_numbers(crystal, name)
        positions = np.array(crystal.frac_coords, dtype=np.float64).reshape(-1, 3)
    else:
        lattice, pbc = np.array(crystal.cell[:], dtype=np.float64), crystal.pbc
        numbers = np.array(crystal.numbers, dtype=np.int64)
        positions = np.array(crystal.positions, dtype=np.float64).reshape(-1, 3)
    if len(numbers) == 0:
        raise StructureError(f"{name} has no atoms; remove it or give it at least one")
    _check_periodic(pbc, name)
    _check_cell(lattice, name)
    if not np.isfinite(positions).all():
        raise StructureError(f"{name} has NaN or infinity in its coordinates; give finite numbers")
    unknown = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)]
    if len(unknown):
        raise StructureError(f"{name} holds atomic number {unknown[0]}; elements are 1 to {MAX_ATOMIC_NUMBER}")
    if abs(np.linalg.det(lattice)) < MIN_VOLUME_PER_ATOM * len(numbers):
        raise StructureError(
            f"{name} has {abs(np.linalg.det(lattice)):.3g} Å³ for {len(numbers)} atoms, less than "
            f"{MIN_VOLUME_PER_ATOM} each; check the unit of its lattice"
        )
    return lattice, (positions if kind == "structure" else _fractional(positions, lattice)), numbers


def to_batch(
    crystals: Crystal | Iterable[Crystal],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CrystalBatch:
    """Batch one crystal or several, pymatgen and ASE mixed as they come; coordinates are wrapped into [0, 1).

    Oxidation states and isotopes are ignored, the element counts.

    Raises:
        StructureError: see :func:`to_arrays`; the message names the position of the first bad crystal.
    """
    arrays = [to_arrays(c, name=f"crystal {i}") for i, c in enumerate(as_list(crystals))]
    return batch_arrays(
        [a[0] for a in arrays], [a[1] for a in arrays], [a[2] for a in arrays], dtype=dtype, device=device
    )


def batch_arrays(
    lattice: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    frac_coords: Sequence[NDArray[np.float64]],
    atomic_numbers: Sequence[NDArray[np.integer]],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CrystalBatch:
    """Batch arrays: lattices ``[B, 3, 3]`` in Å, and for each crystal coordinates ``[n, 3]`` (wrapped here) and atomic
    numbers ``[n]``.

    Raises:
        StructureError: NaN, infinity, a cell without volume, no atoms, an unknown element, lengths that do not agree.
    """
    counts = [len(z) for z in atomic_numbers]
    batch = CrystalBatch(
        lattice=torch.as_tensor(np.asarray(lattice, dtype=np.float64).reshape(-1, 3, 3)),
        frac_coords=torch.as_tensor(np.concatenate([np.zeros((0, 3)), *frac_coords])),
        atomic_numbers=torch.as_tensor(np.concatenate([np.zeros(0, np.int64), *atomic_numbers]).astype(np.int64)),
        n_atoms=torch.as_tensor(counts, dtype=torch.long),
    ).validate()
    # Wrapping in double precision and then rounding to the wanted one can still land on 1, which is 0.
    x = (batch.frac_coords - torch.floor(batch.frac_coords)).to(dtype)
    x = torch.where(x >= 1, torch.zeros_like(x), x)
    return CrystalBatch(batch.lattice.to(dtype), x, batch.atomic_numbers, batch.n_atoms).to(device=device)


def to_structures(batch: CrystalBatch, *, properties: Sequence[Mapping[str, Any]] | None = None) -> list[Structure]:
    """pymatgen structures (double precision) of a batch, with ``properties``, one mapping a crystal, as their
    ``.properties``.

    Raises:
        StructureError: not one mapping of properties for each crystal.
    """
    return arrays_to_structures(_numpy_crystals(batch), properties=properties)


def arrays_to_structures(
    crystals: Sequence[Arrays], *, properties: Sequence[Mapping[str, Any]] | None = None
) -> list[Structure]:
    """pymatgen structures of ``(lattice [3, 3] in Å, frac_coords [n, 3], atomic_numbers [n])`` triples, the inverse of
    :func:`to_arrays`.

    Raises:
        StructureError: not one mapping of properties for each crystal.
    """
    from pymatgen.core import Composition, Element, Lattice, Structure

    if properties is not None and len(properties) != len(crystals):
        raise StructureError(
            f"{len(properties)} properties for {len(crystals)} crystals; give one mapping for each crystal"
        )
    # Handing over a ready composition instead of a number halves the time of building a structure.
    present = {int(z) for _, _, numbers in crystals for z in np.unique(numbers)}
    species: dict[int, Any] = {z: Composition({Element.from_Z(z): 1}) for z in present}
    return [
        Structure(
            Lattice(lattice),
            [species[int(z)] for z in numbers],
            coords,
            properties=deepcopy(dict(properties[i])) if properties is not None else {},
        )
        for i, (lattice, coords, numbers) in enumerate(crystals)
    ]


def structure_to_atoms(structure: Structure, *, name: str = "the structure") -> Atoms:
    """ASE atoms with all that the two classes share (the table at the top of this module); an error calls the crystal
    ``name``.

    Raises:
        StructureError: disordered, dummy species, not periodic, or a site property named like an array of ASE's own.
    """
    from ase import Atoms

    numbers = _structure_numbers(structure, name)
    _check_periodic(structure.lattice.pbc, name)
    lattice = np.array(structure.lattice.matrix, dtype=np.float64)
    frac = np.array(structure.frac_coords, dtype=np.float64).reshape(-1, 3)
    atoms = Atoms(
        numbers=numbers, positions=frac @ lattice, cell=lattice, pbc=True, info=deepcopy(dict(structure.properties))
    )
    _revive_spacegroup(atoms.info)
    for key, values in structure.site_properties.items():
        if key in ("numbers", "positions"):
            raise StructureError(f"site property {key!r} would overwrite ASE's own {key}; rename it")
        if key == "selective_dynamics" and all(v is not None for v in values):
            atoms.set_constraint(_constraints(np.asarray(values, dtype=bool)))
            continue
        array = _site_array(values)
        # Moments with gaps, or as Magmom objects, are no numbers for ASE: they travel under pymatgen's name.
        atoms.set_array(_ASE_ARRAY.get(key, key) if array.dtype.kind in "iuf" else key, array)
    for key, attribute in (("oxi_states", "oxi_state"), ("species_spin", "spin")):
        values = [getattr(site.specie, attribute, None) for site in structure]
        if any(v is not None for v in values):
            atoms.set_array(key, np.array([np.nan if v is None else float(v) for v in values]))
    return atoms


def atoms_to_structure(atoms: Atoms, *, name: str = "the atoms object") -> Structure:
    """pymatgen structure with all that the two classes share (the table at the top of this module); an error calls it
    ``name``.

    Raises:
        StructureError: as :func:`to_arrays`.
    """
    from pymatgen.core import Element, Lattice, Species, Structure

    lattice, frac, numbers = to_arrays(atoms, name=name)
    arrays = dict(atoms.arrays)
    oxidation, spins = (arrays.pop(k, np.full(len(atoms), np.nan)) for k in ("oxi_states", "species_spin"))
    own = ("numbers", "positions")
    site_properties: dict[str, Any] = {
        _SITE_PROPERTY.get(str(k), str(k)): a.tolist() for k, a in arrays.items() if k not in own
    }
    mobile = _selective_dynamics(atoms)
    if not mobile.all():
        site_properties["selective_dynamics"] = mobile.tolist()
    species = []
    for z, oxi, spin in zip(numbers, oxidation, spins, strict=True):
        element, state, moment = Element.from_Z(int(z)), _number_or_none(oxi), _number_or_none(spin)
        species.append(element if state is None and moment is None else Species(element.symbol, state, spin=moment))
    properties = deepcopy(dict(atoms.info))
    # What ase.spacegroup.crystal leaves behind cannot be serialised.
    if hasattr(properties.get("spacegroup"), "todict"):
        properties["spacegroup"] = properties["spacegroup"].todict()
    return Structure(Lattice(lattice), species, frac, site_properties=site_properties or None, properties=properties)


def as_structure(crystal: Crystal, *, name: str = "the crystal") -> Structure:
    """``crystal`` itself if it is a ``Structure``, its conversion if it is ``Atoms``; an error calls it ``name``.

    Raises:
        StructureError: it is neither, or as :func:`atoms_to_structure`.
    """
    return crystal if kind_of(crystal, name=name) == "structure" else atoms_to_structure(crystal, name=name)


def _structure_numbers(structure: Any, name: str) -> NDArray[np.int64]:
    """Atomic numbers of a structure whose every site is one whole atom of a known element."""
    from pymatgen.core import DummySpecies

    numbers = np.zeros(len(structure), dtype=np.int64)
    for i, site in enumerate(structure):
        if not site.is_ordered:
            raise StructureError(
                f"{name} is disordered: site {i} holds {site.species_string}; order it first, e.g. with "
                "pymatgen's OrderDisorderedStructureTransformation"
            )
        if isinstance(site.specie, DummySpecies):
            raise StructureError(
                f"{name} holds the dummy species {site.specie.symbol!r} on site {i}; replace it with an element"
            )
        numbers[i] = site.specie.Z
    return numbers


def _check_periodic(pbc: Iterable[bool], name: str) -> None:
    axes = [bool(p) for p in pbc]
    if not all(axes):
        raise StructureError(f"{name} is not periodic, its pbc is {axes}; set pbc to True along all three axes")


def _check_cell(lattice: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(lattice).all():
        raise StructureError(f"{name} has NaN or infinity in its lattice; give finite lengths in Å")
    volume = abs(float(np.linalg.det(lattice)))
    if not _FLAT_CELL * float(np.prod(np.linalg.norm(lattice, axis=1))) < volume < np.inf:
        raise StructureError(f"{name} has a cell volume of {volume:.3g} Å³; give three lattice vectors that span space")


def _fractional(positions: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    # Solving is more accurate than multiplying with the inverse where the cell is skewed.
    return np.asarray(np.linalg.solve(lattice.T, positions.T).T, dtype=np.float64)


def _numpy_crystals(batch: CrystalBatch) -> list[Arrays]:
    detached = CrystalBatch(batch.lattice.detach(), batch.frac_coords.detach(), batch.atomic_numbers, batch.n_atoms)
    crystals = detached.to(device="cpu").to(dtype=torch.float64).unbatch()
    return [(lattice.numpy().copy(), coords.numpy().copy(), numbers.numpy()) for lattice, coords, numbers in crystals]


def _site_array(values: Sequence[Any]) -> NDArray[Any]:
    """Site values as a numeric, boolean or string array where they are that, else as an array of objects."""
    try:
        array = np.asarray(values)
    except ValueError:  # values of different lengths
        array = np.empty(0, dtype=object)
    if len(array) == len(values) and (array.dtype.kind in "biuf" or all(isinstance(v, str) for v in values)):
        return array
    objects = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        objects[i] = value
    return objects


def _constraints(mobile: NDArray[np.bool_]) -> list[Any]:
    """ASE constraints of pymatgen's selective dynamics ``[n, 3]``, where True means free to move."""
    from ase.constraints import FixAtoms, FixCartesian

    fixed = [FixAtoms(indices=np.flatnonzero(~mobile.any(axis=1)))] if (~mobile.any(axis=1)).any() else []
    partly = ~mobile.all(axis=1) & mobile.any(axis=1)
    masks = np.unique(mobile[partly], axis=0)
    return fixed + [FixCartesian(np.flatnonzero((mobile == m).all(axis=1)), mask=~m) for m in masks]


def _selective_dynamics(atoms: Atoms) -> NDArray[np.bool_]:
    from ase.constraints import FixAtoms, FixCartesian

    mobile = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mobile[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            mobile[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
    return mobile


def _revive_spacegroup(info: dict[str, Any]) -> None:
    """Turn the serialised space group of :func:`atoms_to_structure` back into ASE's object, in place."""
    group = info.get("spacegroup")
    if isinstance(group, dict) and set(group) == {"number", "setting"}:
        from ase.spacegroup import Spacegroup

        info["spacegroup"] = Spacegroup(group["number"], setting=group["setting"])


def _number_or_none(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
