"""The torus of fractional coordinates: wrapping and geodesics.

Fractional coordinates live on T³ = R³/Z³. Its exponential map is exp_x(v) = (x + v) mod 1 and, away from the cut locus,
its logarithm is log_x(y) = y − x − ⌊y − x + ½⌋, in [−½, ½) (Klipfel et al., AAAI 2024, "Torus Diffusion": diffusion on
R³ induces diffusion on T³ through this quotient). These maps do not know the lattice: in a skewed cell the shortest
displacement in fractions need not be the shortest in Å.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def wrap(x: Tensor) -> Tensor:
    """x mod 1 in [0, 1), any shape. The gradient is the identity; a tiny negative number, which rounds to 1, becomes
    0.
    """
    y = x - torch.floor(x).detach()
    return torch.where(y >= 1, y - 1, y)


def wrap_centered(d: Tensor) -> Tensor:
    """d − ⌊d + ½⌋ in [−½, ½), any shape. The gradient is the identity."""
    y = d - torch.floor(d + 0.5).detach()
    return torch.where(y >= 0.5, y - 1, y)


def geodesic(x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
    """exp_x(t log_x(y)): x at t = 0, y at t = 1; ``t`` is a number or broadcasts against ``[N, 3]``."""
    return wrap(x + t * wrap_centered(y - x))


@dataclass(frozen=True, eq=False)
class Space:
    """The coordinates of B crystals, padded to D.

    Attributes:
        present: which coordinates a crystal has, ``[B, D]``.
        circular: which of them live on the circle [0, 1), ``[B, D]``; the others on a line.
    """

    present: Tensor
    circular: Tensor

    @property
    def dimensions(self) -> Tensor:
        """Coordinates of each crystal, ``[B]``."""
        return self.present.sum(1)

    def wrap(self, y: Tensor) -> Tensor:
        """Circular coordinates brought to [0, 1), absent ones to 0, ``[B, D]``."""
        return torch.where(self.circular, wrap(y), y) * self.present

    def difference(self, start: Tensor, end: Tensor) -> Tensor:
        """The shortest displacement from ``start`` to ``end``, ``[B, D]``."""
        step = end - start
        return torch.where(self.circular, wrap_centered(step), step) * self.present

    def __getitem__(self, rows: Tensor | slice) -> Space:
        return Space(self.present[rows], self.circular[rows])
