"""Radial bases and cutoff envelopes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def polynomial_envelope(x: Tensor, p: int = 6) -> Tensor:
    """Smooth cutoff of x = r/r_c: 1 at 0, and 0 with two vanishing derivatives at 1 (DimeNet, Gasteiger 2020, eq.
    8).
    """
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    return torch.where(x < 1, 1 + a * x**p + b * x ** (p + 1) + c * x ** (p + 2), torch.zeros_like(x))


class BesselBasis(nn.Module):
    """Spherical Bessel functions sqrt(2/r_c) sin(nπ r/r_c)/r, n = 1..N, times the envelope (DimeNet, eq. 7).

    Args:
        n: number of functions.
        cutoff: r_c in Å.
    """

    def __init__(self, n: int, cutoff: float) -> None:
        super().__init__()
        self.n, self.cutoff = n, cutoff

    def forward(self, r: Tensor) -> Tensor:
        """Distances in Å ``[E]`` to features ``[E, n]``; smooth, and zero at the cutoff."""
        frequency = torch.arange(1, self.n + 1, dtype=r.dtype, device=r.device) * torch.pi
        x = (r / self.cutoff).clamp(min=1e-9).unsqueeze(-1)
        # sinc form: no division by a vanishing distance
        return (2.0 / self.cutoff) ** 0.5 * torch.sin(frequency * x) / (x * self.cutoff) * polynomial_envelope(x)
