"""The cells from which a lattice relaxation starts again where the cell that was given says nothing of the lattice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoperi.geometry.lattice import from_lengths_angles

# length of an axis, where the others are 1, and the angles opposite to it and to the axes that follow
_OF_AN_AXIS = [
    *[(1, (60, 90, 90)), (1, (120, 90, 90)), (0.5, (90, 90, 90)), (2, (90, 90, 90))],  # hexagonal, flat, long
    *((1.25, (90, 90 + 24 * s, 90 + 24 * t)) for s in (-1, 1) for t in (-1, 1)),  # body-centred
    (1, (50, 145, 145)),
]
# all three angles lie 30° from 90°, or -19.5°, signs as in the four bases of one rhombohedral lattice
_RHOMBOHEDRAL = [
    tuple(90 - x * s for s in signs)
    for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    for x in (30, -19.5)
]
SHAPES = [
    *((1, 1, 1, *angles) for angles in _RHOMBOHEDRAL),
    *((*np.roll((a, 1, 1), k), *np.roll(angles, k)) for k in range(3) for a, angles in _OF_AN_AXIS),
]
"""(a, b, c, α, β, γ) of the cells from which an uncertain reconstruction is tried again: the primitive cells of the
centred lattices, and long, flat and hexagonal ones, in each of their orientations to the axes.
"""


def unit_cells(like: Tensor) -> list[Tensor]:
    """The lattices ``[3, 3]`` of :data:`SHAPES` at unit volume, of the dtype and device of ``like``."""
    rows = torch.tensor(SHAPES, dtype=torch.float64)
    lattices = from_lengths_angles(rows[:, :3], rows[:, 3:])
    lattices = lattices / torch.linalg.det(lattices).abs().pow(1 / 3)[:, None, None]
    return list(lattices.to(like))
