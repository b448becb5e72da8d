"""Crystals read as Wyckoff orbits of their space groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from autoperi.errors import StructureError
from autoperi.symmetry.analysis import SYMPREC_LADDER, SymmetryInfo, analyse, symmetrize_lattice
from autoperi.symmetry.freedom import Orbit
from autoperi.symmetry.spacegroup import FloatArray, IntArray, primitive_transform, space_group
from autoperi.symmetry.wyckoff import LETTERS, locate

POSITION_TOLERANCE = 0.02
"""How far, in fractions, an atom may lie from its Wyckoff position; spglib's standard cells are exact to rounding."""


def orbits_of(info: SymmetryInfo) -> list[Orbit]:
    """The orbits of an analysed crystal, in the order of its standard primitive cell.

    Raises:
        StructureError: an atom that lies on no Wyckoff position of its group, or an orbit that is not whole.
    """
    transform = primitive_transform(space_group(info.number))
    found = []
    for first in np.unique(info.primitive_equivalent_atoms):
        point = info.primitive_frac_coords[first] @ transform
        position, s = locate(point, info.number, tolerance=POSITION_TOLERANCE)
        if position.primitive_multiplicity != int((info.primitive_equivalent_atoms == first).sum()):
            raise StructureError(
                f"an orbit of {info.symbol} has not the multiplicity of its position {position.label}; use a tighter "
                "tolerance"
            )
        found.append(Orbit(int(info.primitive_numbers[first]), position, s))
    return found


def read_orbits(
    lattice: FloatArray, frac_coords: FloatArray, numbers: IntArray, *, symprecs: Sequence[float] = SYMPREC_LADDER
) -> tuple[SymmetryInfo, list[Orbit]] | None:
    """Symmetry and orbits of a crystal at the first of ``symprecs`` (Å) that keeps its atoms; None where none of them
    does.
    """
    for symprec in symprecs:
        try:
            info = analyse(lattice, frac_coords, numbers, symprec=symprec)
            return info, orbits_of(info)
        except StructureError:
            continue
    return None


def primitive_lattice(info: SymmetryInfo) -> FloatArray:
    """The standard primitive cell of an analysed crystal, rows in Å, obeying its group exactly, ``[3, 3]``."""
    return symmetrize_lattice(info.primitive_lattice, space_group(info.number).primitive.rotations)


def contents_of(orbits: list[Orbit]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Letters (as indices) of each element's orbits, and its atoms in the primitive cell, by atomic number."""
    letters: dict[int, list[int]] = {}
    content: Counter[int] = Counter()
    for o in orbits:
        letters.setdefault(o.element, []).append(LETTERS.index(o.position.letter))
        content[o.element] += o.position.primitive_multiplicity
    return letters, dict(content)
