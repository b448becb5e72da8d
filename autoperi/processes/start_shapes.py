"""The cells from which a lattice relaxation starts again where the cell that was given says nothing of the lattice."""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.geometry.lattice import from_lengths_angles


def _around(first: float, second: float) -> list[tuple[float, ...]]:
    """Cells whose three angles all lie ``first`` from 90°, signs as in the four bases of one rhombohedral lattice, and
    so for ``second``.
    """
    signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    return [(1, 1, 1, *(90 - x * s for s in sign)) for sign in signs for x in (first, second)]


def _on_axis(k: int) -> list[tuple[float, ...]]:
    """Hexagonal, flat, long, and body-centred cells whose axis is the k-th."""

    def cell(length: float, own: float, others: tuple[float, float]) -> tuple[float, ...]:
        lengths, angles = [1.0] * 3, [0.0] * 3
        lengths[k], angles[k] = length, own
        angles[(k + 1) % 3], angles[(k + 2) % 3] = others
        return (*lengths, *angles)

    centred = [cell(1.25, 90, (90 + 24 * s, 90 + 24 * t)) for s in (-1, 1) for t in (-1, 1)]
    return [
        cell(1, 60, (90, 90)),
        cell(1, 120, (90, 90)),
        cell(0.5, 90, (90, 90)),
        cell(2, 90, (90, 90)),
        *centred,
        cell(1, 50, (145, 145)),
    ]


SHAPES = [*_around(30, -19.5), *_on_axis(0), *_on_axis(1), *_on_axis(2)]
"""(a, b, c, α, β, γ) of the cells from which an uncertain reconstruction is tried again: the primitive cells of the
centred lattices, and long, flat and hexagonal ones, in each of their orientations to the axes.
"""


def unit_cells(like: Tensor) -> list[Tensor]:
    """The lattices ``[3, 3]`` of :data:`SHAPES` at unit volume, of the dtype and device of ``like``."""
    rows = torch.tensor(SHAPES, dtype=torch.float64)
    lattices = from_lengths_angles(rows[:, :3], rows[:, 3:])
    lattices = lattices / torch.linalg.det(lattices).abs().pow(1 / 3)[:, None, None]
    return list(lattices.to(like))
