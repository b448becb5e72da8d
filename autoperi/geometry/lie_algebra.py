"""Lattices as vectors: the Lie algebra gl(3) = so(3) ⊕ shapes ⊕ volume (Klipfel et al., AAAI 2024, eqs. 12 and 13).

A cell is L = exp(π x) with x in R⁹ and π an orthonormal basis of gl(3): three antisymmetric matrices (rotations), five
traceless symmetric ones (shapes of unit volume), and the identity (volume). So unbounded noise in x is always a cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.geometry.lattice import log_metric_basis, matrix_exp, to_log_metric

ROTATION, SHAPE, VOLUME = slice(0, 3), slice(3, 8), slice(8, 9)
"""Where the three parts of the sum lie among the nine coordinates."""


def algebra_basis(*, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
    """Orthonormal basis π of gl(3), ``[9, 3, 3]``, in the order of :data:`ROTATION`, :data:`SHAPE`, :data:`VOLUME`."""
    symmetric = log_metric_basis(dtype=dtype, device=device)
    turns = torch.zeros(3, 3, 3, dtype=dtype, device=device)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        turns[k, i, j], turns[k, j, i] = 0.5**0.5, -(0.5**0.5)
    return torch.cat([turns, symmetric[1:], symmetric[:1]])


def from_algebra(x: Tensor) -> Tensor:
    """The lattices exp(π x), ``[B, 3, 3]``, of coordinates x, ``[B, 9]``; their volume is exp(√3 x₈)."""
    return matrix_exp(torch.einsum("...k,kij->...ij", x, algebra_basis(dtype=x.dtype, device=x.device)))


def to_algebra(lattice: Tensor) -> Tensor:
    """Coordinates π⁻¹ log L, ``[B, 9]``, of lattices ``[B, 3, 3]`` turned so that L is symmetric and positive.

    That is the orientation in which a logarithm exists for every lattice and only one is real and symmetric, so the
    rotation is 0. Differentiable also where eigenvalues coincide.
    """
    k = to_log_metric(lattice)
    return torch.cat([torch.zeros_like(k[..., :3]), k[..., 1:], k[..., :1]], -1)
