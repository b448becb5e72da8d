"""The torus of fractional coordinates: wrapping, geodesics, nearest images, translations.

Fractional coordinates live on T³ = R³/Z³. Its exponential map is exp_x(v) = (x + v) mod 1 and, away from the cut locus,
its logarithm is log_x(y) = y − x − ⌊y − x + ½⌋, in [−½, ½) (seed 2, "Torus Diffusion": diffusion on R³ induces
diffusion on T³ through this quotient). These maps do not know the lattice; :func:`minimum_image` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoperi.geometry.lattice import inverse_unimodular, niggli_reduce


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


def log_map(x: Tensor, y: Tensor) -> Tensor:
    """log_x(y): the shortest fractional displacement, component by component, from x to y, ``[N, 3]``."""
    return wrap_centered(y - x)


def exp_map(x: Tensor, v: Tensor) -> Tensor:
    """exp_x(v) = (x + v) mod 1: where the displacement v takes x, ``[N, 3]``."""
    return wrap(x + v)


def geodesic(x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
    """exp_x(t log_x(y)): x at t = 0, y at t = 1; ``t`` is a number or broadcasts against ``[N, 3]``."""
    return exp_map(x, t * log_map(x, y))


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


def minimum_image(frac_diff: Tensor, lattice: Tensor, *, batch: Tensor | None = None, reduce: bool = True) -> Tensor:
    """The representative d + n, n ∈ Z³, of each fractional difference that is shortest in Å, ``[E, 3]``; true for
    skewed cells too.

    Wrapping each component is right for near-cubic cells only. Here the cell is Niggli-reduced first; there the nearest
    image of a wrapped difference is among its 27 neighbours, and the winner is carried back to the basis given.

    Args:
        frac_diff: fractional differences, ``[E, 3]``.
        lattice: ``[3, 3]``, one a difference ``[E, 3, 3]``, or one a crystal ``[B, 3, 3]`` with ``batch``; rows in Å.
        batch: crystal of each difference, ``[E]``.
        reduce: False when the cells are known to be reduced already.

    Raises:
        StructureError: a cell without volume.
    """
    cells = lattice.reshape(-1, 3, 3)
    if batch is None:
        batch = torch.arange(len(cells), device=cells.device).expand(len(frac_diff)) if len(cells) != 1 else None
    index = torch.zeros(len(frac_diff), dtype=torch.long, device=cells.device) if batch is None else batch
    if reduce:
        reduced, transform = niggli_reduce(cells)
        forward, back = inverse_unimodular(transform).to(frac_diff), transform.to(frac_diff)
    else:
        reduced = cells
        forward = back = torch.eye(3, dtype=frac_diff.dtype, device=frac_diff.device).expand_as(cells)
    centred = wrap_centered(torch.einsum("ei,eij->ej", frac_diff, forward[index]))
    steps = torch.arange(-1, 2, dtype=frac_diff.dtype, device=frac_diff.device)
    images = centred.detach()[:, None] + torch.cartesian_prod(steps, steps, steps)
    squared = torch.einsum("esi,eij->esj", images, reduced.detach()[index].to(frac_diff)).square().sum(-1)
    best = images.gather(1, squared.argmin(1)[:, None, None].expand(-1, 1, 3)).squeeze(1)
    # Only whole numbers separate the winner from the input, so the gradient is the identity.
    shift = torch.round(torch.einsum("ei,eij->ej", best, back[index]) - frac_diff.detach())
    return frac_diff + shift


def mean_free(v: Tensor, batch: Tensor, *, n_crystals: int | None = None) -> Tensor:
    """v − mean(v) over the atoms of each crystal, ``[N, 3]``: displacements without the translation that moves nothing.

    Args:
        v: displacements or velocities, ``[N, 3]``.
        batch: crystal of each atom, ``[N]``.
        n_crystals: B, read from ``batch`` when None (which waits for the device).
    """
    b = int(batch.max()) + 1 if n_crystals is None and len(batch) else (n_crystals or 0)
    return v - _segment_mean(v, batch, b)[batch]


def _segment_mean(v: Tensor, batch: Tensor, b: int) -> Tensor:
    total = v.new_zeros(b, *v.shape[1:]).index_add(0, batch, v)
    count = v.new_zeros(b).index_add(0, batch, v.new_ones(len(batch))).clamp_min(1)
    return total / count.reshape(-1, *([1] * (v.dim() - 1)))


def circular_mean(x: Tensor, batch: Tensor, *, n_crystals: int | None = None) -> Tensor:
    """arg Σ exp(2πi x) / 2π in [0, 1), ``[B, 3]``: a mean of coordinates ``[N, 3]`` that moves with a translation of
    the crystal.

    Meaningless, though finite, where the sum vanishes, as it does for atoms spread evenly along an axis.
    """
    b = int(batch.max()) + 1 if n_crystals is None and len(batch) else (n_crystals or 0)
    angle = 2 * math.pi * x
    return wrap(
        torch.atan2(_segment_mean(torch.sin(angle), batch, b), _segment_mean(torch.cos(angle), batch, b))
        / (2 * math.pi)
    )
