"""Wyckoff positions of the 230 space groups, and which compositions they can hold.

Coordinates are those of the default setting of :func:`autoperi.symmetry.spacegroup.space_group`, conventional cell
unless said otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from operator import mul, sub
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoperi.errors import RequestError, StructureError
from autoperi.symmetry.analysis import orbit, site_symmetry_projector, wrap_and_snap
from autoperi.symmetry.spacegroup import FloatArray, IntArray, check_number, primitive_transform, space_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

TABLE = "wyckoff_positions.json"
"""One representative of each of the 1731 Wyckoff positions of the 230 space groups, in the default settings: the
positions a, b, c … of each group in the order of the letters of International Tables A.

Each was found from the group's operations alone (as an intersection of fixed spaces) and given the letter that spglib
gives its atoms; the tests repeat both. The representative may be another point of the orbit than the one printed first
in International Tables.
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzA"
GENERIC = np.array([0.1362719, 0.2718431, 0.4159265])
"""Parameters s at which no orbit is special."""


@dataclass(frozen=True, eq=False)
class WyckoffPosition:
    """One Wyckoff position: a family of orbits, affine in its free parameters.

    Attributes:
        number: space group 1..230.
        letter: ``"a"`` … ``"z"``, ``"A"``.
        multiplicity: atoms in the conventional cell.
        primitive_multiplicity: atoms in the primitive cell.
        dof: free coordinates, 0 to 3.
        rotation: integer ``[3, 3]`` and translation ``[3]``: the representative is ``rotation @ s + translation`` for
            any s in [0, 1)³. Columns of ``rotation`` without a free parameter are zero, and the map leaves its own
            points in place.
    """

    number: int
    letter: str
    multiplicity: int
    primitive_multiplicity: int
    dof: int
    rotation: IntArray
    translation: FloatArray

    @property
    def label(self) -> str:
        """Multiplicity and letter, such as ``"4a"``."""
        return f"{self.multiplicity}{self.letter}"

    @cached_property
    def free_axes(self) -> tuple[int, ...]:
        """Which components of s matter, as indices 0..2; ``len(free_axes) == dof``."""
        return tuple(int(i) for i in np.nonzero(self.rotation.any(0))[0])

    @cached_property
    def maps(self) -> tuple[IntArray, FloatArray]:
        """A ``[m, 3, 3]`` and b ``[m, 3]``: the orbit in the conventional cell is A @ s + b modulo 1, representative
        first.
        """
        group = space_group(self.number)
        _, index = orbit(self.rotation @ GENERIC + self.translation, group)
        r = group.rotations[index]
        return r @ self.rotation, r @ self.translation + group.translations[index]

    @cached_property
    def primitive_maps(self) -> tuple[FloatArray, FloatArray]:
        """As :attr:`maps` for the primitive cell: A ``[p, 3, 3]``, b ``[p, 3]``, with the same parameters s."""
        group = space_group(self.number)
        to_primitive = np.linalg.inv(primitive_transform(group)).T
        _, index = orbit(to_primitive @ (self.rotation @ GENERIC + self.translation), group.primitive)
        r = group.primitive.rotations[index] @ to_primitive
        return r @ self.rotation, r @ self.translation + group.primitive.translations[index]

    def points(self, free: ArrayLike, *, primitive: bool = False) -> FloatArray:
        """The orbit ``[m, 3]`` in [0, 1) for parameters s ``[3]``; components of s that are not free are ignored."""
        a, b = self.primitive_maps if primitive else self.maps
        return wrap_and_snap(a @ np.asarray(free, dtype=np.float64).reshape(3) + b)


@lru_cache(maxsize=2)
def read_table(name: str) -> dict[str, list[str]]:
    """A table beside this file: words of each space group, by its number."""
    return json.loads(Path(__file__).with_name(name).read_text("utf-8"))


@lru_cache(maxsize=230)
def wyckoff_positions(number: int) -> tuple[WyckoffPosition, ...]:
    """The Wyckoff positions of a space group, from ``a`` (smallest multiplicity) to the general position (cached).

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    from pymatgen.core.operations import SymmOp

    group = space_group(check_number(number))
    found = []
    for letter, text in zip(LETTERS, read_table(TABLE)[str(group.number)], strict=False):
        representative = SymmOp.from_xyz_str(text)
        rotation = np.rint(representative.rotation_matrix).astype(np.int64)
        translation = representative.translation_vector
        for array in (rotation, translation):
            array.setflags(write=False)
        multiplicity = len(orbit(rotation @ GENERIC + translation, group)[0])
        dof = int(rotation.any(0).sum())
        found.append(
            WyckoffPosition(
                group.number, letter, multiplicity, multiplicity // group.n_centring, dof, rotation, translation
            )
        )
    return tuple(found)


def wyckoff_position(number: int, letter: str) -> WyckoffPosition:
    """The position ``letter`` of space group ``number``.

    Raises:
        RequestError: the group has no such letter.
    """
    positions = wyckoff_positions(number)
    index = LETTERS.find(letter) if len(letter) == 1 else -1
    if not 0 <= index < len(positions):
        raise RequestError(
            f"space group {number} has no Wyckoff letter {letter!r}; its letters are a to {positions[-1].letter}"
        )
    return positions[index]


def locate(point: ArrayLike, number: int, *, tolerance: float = 1e-4) -> tuple[WyckoffPosition, FloatArray]:
    """The Wyckoff position of ``point`` (conventional cell, default setting) and parameters s ``[3]`` whose orbit
    contains it.

    The point is first moved onto the special position within ``tolerance`` (fractional). Components of s that are not
    free are 0.

    Raises:
        StructureError: no position matches, which happens only for a tolerance so large that symmetric images merge.
    """
    group = space_group(number)
    x = np.asarray(point, dtype=np.float64).reshape(3)
    projector, offset = site_symmetry_projector(x, group, tolerance=tolerance)
    images, _ = orbit(projector @ x + offset, group, tolerance=min(tolerance, 1e-5))
    for position in wyckoff_positions(number):
        if position.multiplicity != len(images):
            continue
        # x lies on the representative manifold, modulo the lattice, where rotation @ x + translation returns it.
        back = images @ position.rotation.T + position.translation - images
        hits = np.nonzero((np.abs(back - np.rint(back)) < 1e-5).all(-1))[0]
        if len(hits):
            return position, np.where(position.rotation.any(0), images[hits[0]], 0.0)
    raise StructureError(
        f"point {x.tolist()} fits no Wyckoff position of space group {number}; use a tolerance below {tolerance}"
    )


# --- which compositions fit


@lru_cache(maxsize=230)
def _sizes(number: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Fixed positions as (size, how many), and the distinct sizes of those with free parameters; primitive cell."""
    positions = wyckoff_positions(number)
    fixed = Counter(p.primitive_multiplicity for p in positions if p.dof == 0)
    return tuple(sorted(fixed.items())), tuple(sorted({p.primitive_multiplicity for p in positions if p.dof}))


def can_fit(composition_counts: Sequence[int], group_number: int) -> bool:
    """Whether atoms of these counts, one an element, in one primitive cell, can fill whole orbits of the space group.

    A position without free parameters holds one orbit in all; one with free parameters holds any number. Exact: a
    dynamic programme over the elements whose state is how many fixed positions of each size are left.

    Raises:
        RequestError: a count that is not a positive integer, or a group outside 1..230.
    """
    counts = [int(c) for c in composition_counts]
    if not counts or min(counts) < 1 or counts != list(composition_counts):
        raise RequestError(
            f"counts {list(composition_counts)!r} are not positive integers; give the atoms of each element in one "
            "primitive cell"
        )
    fixed, movable = _sizes(check_number(group_number))
    reachable = np.zeros(max(counts) + 1, dtype=bool)
    reachable[0] = True
    for size in movable:
        for total in range(size, len(reachable)):
            reachable[total] |= reachable[total - size]
    sizes = [size for size, _ in fixed]
    states = {tuple(many for _, many in fixed)}
    # Large counts first: they are the likeliest to fail.
    for count in sorted(counts, reverse=True):
        following = set()
        for state in states:
            most = (min(left, count // size) for left, size in zip(state, sizes, strict=True))
            for used in product(*(range(n + 1) for n in most)):
                rest = count - sum(map(mul, used, sizes))
                if rest >= 0 and reachable[rest]:
                    following.add(tuple(map(sub, state, used)))
        states = following
        if not states:
            return False
    return True
