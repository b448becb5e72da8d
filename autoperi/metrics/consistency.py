"""Whether a crystal can be written and read back, and whether its symmetry is consistent."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autoperi.chemistry.smact import Validity
from autoperi.data.convert import arrays_to_structures, kind_of, to_arrays
from autoperi.errors import StructureError
from autoperi.symmetry.analysis import SymmetryInfo, analyse, torus_difference
from autoperi.symmetry.spacegroup import primitive_transform
from autoperi.symmetry.wyckoff import wyckoff_position

CIF_CELL = 1e-4
"""Å and degrees; how far a cell may be from that of its CIF, which has eight digits."""
CIF_COORDINATE = 2e-4
"""Of a cell edge; how far an atom may be from that of its CIF: pymatgen reads 0.3333 as a third."""
IDEAL_SYMPREC = 1e-3
"""Å, at which the symmetrised cell must show its group."""


def cif_validity(structure: Any) -> Validity:
    """Whether pymatgen reads the CIF that it writes of a crystal (PGCGM's "readable"), and reads the same crystal.

    The same: cell lengths and angles to :data:`CIF_CELL`, every atom in its place to :data:`CIF_COORDINATE`.

    Raises:
        StructureError: see :func:`~autoperi.data.convert.to_arrays`.
    """
    lattice, coords, numbers = to_arrays(structure)
    written = arrays_to_structures([(lattice, coords, numbers)])[0]
    try:
        from pymatgen.core import Structure
        from pymatgen.io.cif import CifWriter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = Structure.from_str(str(CifWriter(written)), fmt="cif")
        _, read_coords, read_numbers = to_arrays(read)
    except Exception as error:
        text = " ".join(str(error).split())
        return Validity(False, f"its CIF cannot be read: {text[:120]}")
    if len(read_numbers) != len(numbers):
        return Validity(False, f"its CIF holds {len(read_numbers)} atoms of {len(numbers)}")
    if np.abs(np.subtract(read.lattice.parameters, written.lattice.parameters)).max() > CIF_CELL:
        return Validity(False, "its CIF has another cell")
    distance = np.abs(torus_difference(coords[:, None], read_coords[None])).max(-1)
    distance = np.where(numbers[:, None] != read_numbers[None], np.inf, distance)
    nearest = distance.argmin(1)
    if distance.min(1).max() > CIF_COORDINATE or len(set(nearest.tolist())) < len(numbers):
        return Validity(False, "its CIF has other atoms")
    return Validity(True, "its CIF gives the same crystal")


def recorded_group(crystal: Any) -> int | None:
    """The space group that ``generate`` recorded, ``.properties["autoperi"]["space_group"]``; None where there is
    none.
    """
    properties = crystal.properties if kind_of(crystal) == "structure" else crystal.info
    note = properties.get("autoperi")
    value = note.get("space_group") if isinstance(note, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def symmetry_of(
    lattice: ArrayLike, frac_coords: ArrayLike, numbers: ArrayLike, *, symprec: float
) -> tuple[Validity, int | None]:
    """Whether the symmetrised cell of a crystal is consistent, and the number of its space group.

    Consistent: spglib finds a group at ``symprec``, its operations permute the atoms of the standard cell, that cell is
    a whole fraction of the given one with the same composition, every orbit has as many atoms as its Wyckoff position
    says, and the standard cell, analysed again at 1e-3 Å, has the same group.

    Args:
        lattice: rows in Å, ``[3, 3]``.
        frac_coords: ``[n, 3]``.
        numbers: atomic numbers ``[n]``.
        symprec: Å.
    """
    z = np.asarray(numbers)
    try:
        info = analyse(lattice, frac_coords, z, symprec=symprec)
    except StructureError as error:
        return Validity(False, str(error)), None
    reason = _inconsistency(info, z, abs(float(np.linalg.det(np.asarray(lattice)))))
    return Validity(reason is None, reason or f"{info.symbol} ({info.number})"), info.number


def _inconsistency(info: SymmetryInfo, z: np.ndarray, volume: float) -> str | None:
    """Why the symmetrised cell is not consistent with the atomic numbers and the volume (Å³) given, or with itself."""
    copies = len(z) / len(info.primitive_numbers)
    volumes = volume / abs(float(np.linalg.det(info.primitive_lattice)))
    if copies != int(copies) or round(volumes) != copies:
        return f"{len(z)} atoms where the primitive cell has {len(info.primitive_numbers)} and {volumes:.3g} fit in"
    if _counts(z) != {element: n * int(copies) for element, n in _counts(info.primitive_numbers).items()}:
        return "the symmetrised cell has another composition"
    centring = conventional_cells(info)
    for first, size in Counter(info.primitive_equivalent_atoms.tolist()).items():
        position = wyckoff_position(info.number, info.primitive_wyckoffs[first])
        if size * centring != position.multiplicity:
            return f"an orbit of {size * centring} atoms on {position.label} of {info.symbol}"
    cell = info.primitive_lattice, info.primitive_frac_coords, info.primitive_numbers
    try:
        again: int | None = analyse(*cell, symprec=IDEAL_SYMPREC).number
    except StructureError:
        again = None
    return None if again == info.number else f"the symmetrised cell has space group {again}, not {info.number}"


def conventional_cells(info: SymmetryInfo) -> int:
    """How many primitive cells make the conventional one: 1, 2, 3 or 4."""
    return round(1 / abs(float(np.linalg.det(primitive_transform(info.group)))))


def reduced_formula(numbers: ArrayLike) -> str:
    """pymatgen's reduced formula of atomic numbers."""
    from pymatgen.core import Composition, Element

    return str(Composition({Element.from_Z(z): n for z, n in _counts(np.asarray(numbers)).items()}).reduced_formula)


def _counts(numbers: Any) -> dict[int, int]:
    elements, counts = np.unique(numbers, return_counts=True)
    return dict(zip(elements.tolist(), counts.tolist(), strict=True))
