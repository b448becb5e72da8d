"""The ways to describe one crystal in its space group's setting with the lattice as it is: representatives of orbits,
and origins.

An orbit has as many parameters s as it has points on the manifold of its representative; the group's normaliser holds
translations that carry the crystal to itself with other letters and parameters (International Tables A, chapter 3.5). A
crystal is the same under all of them, and so is what an equivariant network says of it; a flow that is learned along
paths to the nearest description has the shortest way to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from autoperi.symmetry.normalizer import origin_shifts, polar_axes
from autoperi.symmetry.spacegroup import FloatArray, check_number, space_group
from autoperi.symmetry.wyckoff import GENERIC, WyckoffPosition, wyckoff_positions

SHIFTS_PER_POLAR_AXIS = (1, 6, 4, 3)
"""Shifts tried along each polar axis of a group with 0, 1, 2 or 3 of them: these may be any, so a grid stands for
them.
"""


@dataclass(frozen=True, eq=False)
class Description:
    """What one origin shift makes of the positions of a group.

    Attributes:
        letters: position (as an index) that each position becomes.
        maps: of each position, A ``[r, 3, 3]`` and b ``[r, 3]``: parameters s become A s + b, each of the r
            representatives of the new orbit.
    """

    letters: tuple[int, ...]
    maps: tuple[tuple[FloatArray, FloatArray], ...]


@lru_cache(maxsize=230)
def descriptions(number: int) -> tuple[Description, ...]:
    """What each origin shift of a group's normaliser makes of its positions, the zero shift first.

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    group = space_group(check_number(number))
    polar = np.nonzero(polar_axes(np.asarray(group.rotations)))[0]
    steps = SHIFTS_PER_POLAR_AXIS[len(polar)]
    found = []
    for shift in origin_shifts(number):
        for along in product(range(steps), repeat=len(polar)):
            moved = shift.copy()
            moved[polar] += np.array(along) / steps
            found.append(_description(wyckoff_positions(number), moved))
    return tuple(found)


def _description(positions: tuple[WyckoffPosition, ...], shift: FloatArray) -> Description:
    letters, maps = [], []
    for position in positions:
        a, b = position.maps
        points = a @ GENERIC + b + shift
        for k, target in enumerate(positions):
            if target.multiplicity != position.multiplicity or target.dof != position.dof:
                continue
            # on the representative's manifold its map returns every point, modulo the lattice
            back = points @ target.rotation.T + target.translation - points
            on = (np.abs(back - np.rint(back)) < 1e-6).all(1)
            if on.any():
                free = np.diag([float(axis in target.free_axes) for axis in range(3)])
                letters.append(k)
                maps.append((free @ a[on], (b[on] + shift) @ free))
                break
        else:
            raise AssertionError(f"shift {shift} moves {position.label} of group {position.number} to no position")
    return Description(tuple(letters), tuple(maps))
