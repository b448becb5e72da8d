"""Lattices: cell parameters, log-metric coordinates, reduction and changes of basis.

A lattice is a matrix L whose rows are a, b, c in Å. Rotating a crystal is L → L Q, changing the basis of the same
lattice is L → T L with T in SL3(Z), and a homogeneous strain is L → L exp(S) with S symmetric (Klipfel et al., AAAI
2023, Definition 8; Klipfel et al., AAAI 2024, equation 13).

Everything is batched and works in float32 and float64. Spectral steps run in float64 inside, where the device has it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.autograd.function import FunctionCtx

_SHEARS = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))


def _wide(x: Tensor) -> Tensor:
    """``x`` in float64, except on devices that have none."""
    return x if x.device.type == "mps" else x.to(torch.float64)


# --- cell parameters


def lengths_angles(lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Cell lengths (a, b, c) in Å, ``[B, 3]``, and angles (α, β, γ) in degrees, ``[B, 3]``, of lattices ``[B, 3, 3]``.

    α lies between b and c, β between c and a, γ between a and b. Angles come from ``atan2(|u × v|, u · v)``, which
    keeps its digits and a finite gradient near 0°, 90° and 180°, where ``acos`` does not.
    """
    following, last = lattice[..., [1, 2, 0], :], lattice[..., [2, 0, 1], :]
    sine = torch.linalg.vector_norm(torch.linalg.cross(following, last), dim=-1)
    return torch.linalg.vector_norm(lattice, dim=-1), torch.rad2deg(torch.atan2(sine, (following * last).sum(-1)))


def from_lengths_angles(lengths: Tensor, angles: Tensor) -> Tensor:
    """Lattices ``[B, 3, 3]`` from lengths in Å ``[B, 3]`` and angles (α, β, γ) in degrees ``[B, 3]``: a along x, b in
    the xy plane.

    Raises:
        StructureError: a length that is not positive, or three angles that no cell can have.
    """
    cos = torch.cos(torch.deg2rad(angles))
    ca, cb, cg = cos.unbind(-1)
    sg = torch.sin(torch.deg2rad(angles[..., 2]))
    cy = (ca - cb * cg) / sg
    height_squared = 1 - cb**2 - cy**2
    bad = ~(height_squared > 0) | ~(lengths > 0).all(-1) | ~(sg > 0)
    if bool(bad.any()):
        i = int(bad.reshape(-1).nonzero()[0])
        raise StructureError(
            f"no cell has lengths {lengths.reshape(-1, 3)[i].tolist()} Å and angles "
            f"{angles.reshape(-1, 3)[i].tolist()}°; "
            "give positive lengths, and angles each less than the sum of the other two, with a sum under 360°"
        )
    zero, one = torch.zeros_like(ca), torch.ones_like(ca)
    rows = (
        torch.stack((one, zero, zero), -1),
        torch.stack((cg, sg, zero), -1),
        torch.stack((cb, cy, torch.sqrt(height_squared)), -1),
    )
    return torch.stack(rows, -2) * lengths.unsqueeze(-1)


def metric(lattice: Tensor) -> Tensor:
    """Metric tensors G = L Lᵀ in Å², ``[B, 3, 3]``: all that is left of a lattice once its orientation is forgotten."""
    return lattice @ lattice.mT


# --- logarithm and exponential of matrices


_SQUARINGS, _TAYLOR_TERMS = 6, 10


def matrix_exp(matrix: Tensor) -> Tensor:
    """Matrix exponential of any ``[B, 3, 3]``, differentiable everywhere.

    Scaling and squaring with a fixed number of terms, to rounding for norms up to about 4. ``torch.linalg.matrix_exp``
    chooses its terms by the largest norm of the batch, so that a result would depend on its batchmates in the tenth
    digit.
    """
    scaled = matrix / 2**_SQUARINGS
    one = torch.eye(3, dtype=matrix.dtype, device=matrix.device).expand_as(scaled)
    result = one
    for k in range(_TAYLOR_TERMS, 0, -1):  # Horner
        result = one + scaled @ result / k
    for _ in range(_SQUARINGS):
        result = result @ result
    return result


def symmetric_exp(matrix: Tensor) -> Tensor:
    """Matrix exponential of (the symmetric part of) ``[B, 3, 3]``: symmetric, positive definite, as :func:`matrix_exp`
    otherwise.
    """
    result = matrix_exp(0.5 * (matrix + matrix.mT))
    return 0.5 * (result + result.mT)


class _SymmetricLog(torch.autograd.Function):
    """log of symmetric positive matrices whose derivatives hold where eigenvalues coincide, as they do for every cubic
    cell.

    First derivatives use the Daleckii–Krein theorem, D log(A)[H] = V (F ∘ VᵀHV) Vᵀ with F the divided differences of
    log. Where a graph of the backward pass is wanted, the same linear map is written as the inverse of D exp at log A,
    which autograd can follow to any order.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        values = values.clamp_min(torch.finfo(matrix.dtype).tiny)
        log = (vectors * values.log().unsqueeze(-2)) @ vectors.mT
        ctx.save_for_backward(values, vectors, log)
        return log

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        values, vectors, log = ctx.saved_tensors  # type: ignore[attr-defined]
        grad = 0.5 * (grads[0] + grads[0].mT)
        if torch.is_grad_enabled():
            return _inverse_dexp(log, grad)
        x, y = values.unsqueeze(-1), values.unsqueeze(-2)
        # (log x - log y) / (x - y) through atanh keeps its digits for x ≈ y.
        ratio = (x - y) / (x + y)
        series = 1 + ratio**2 * (1 / 3 + ratio**2 * (1 / 5 + ratio**2 / 7))
        small = ratio.abs() < 1e-2
        safe = torch.where(small, torch.full_like(ratio, 0.5), ratio)
        divided = torch.where(small, series, 0.5 * (x / y).log() / safe) * 2 / (x + y)
        return vectors @ (divided * (vectors.mT @ grad @ vectors)) @ vectors.mT


def _inverse_dexp(log: Tensor, direction: Tensor) -> Tensor:
    """X with D exp(log)[X] = direction, for symmetric ``[..., 3, 3]``, read off exp [[S, E], [0, S]]."""
    basis = log_metric_basis(dtype=log.dtype, device=log.device)
    s = log.unsqueeze(-3).expand(*log.shape[:-2], 6, 3, 3)
    e = basis.expand_as(s)
    block = torch.cat((torch.cat((s, e), -1), torch.cat((torch.zeros_like(s), s), -1)), -2)
    images = torch.linalg.matrix_exp(block)[..., :3, 3:]
    jacobian = torch.einsum("...kij,lij->...lk", images, basis)
    coefficients = torch.linalg.solve(jacobian, torch.einsum("...ij,lij->...l", direction, basis).unsqueeze(-1))
    return torch.einsum("...l,lij->...ij", coefficients.squeeze(-1), basis)


def symmetric_log(matrix: Tensor) -> Tensor:
    """Matrix logarithm of symmetric positive definite ``[B, 3, 3]``, with correct first and second derivatives at equal
    eigenvalues.
    """
    symmetric = 0.5 * (_wide(matrix) + _wide(matrix).mT)
    return _SymmetricLog.apply(symmetric).to(matrix.dtype)


def log_metric_basis(*, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
    """Orthonormal basis of the symmetric 3×3 matrices, ``[6, 3, 3]``: identity/√3 (volume), then five traceless ones
    (shape).

    In order: the volume 1/√3; diag(1, −1, 0)/√2 and diag(1, 1, −2)/√6; then the xy, xz and yz shears, each over √2.
    """
    s2, s3, s6 = 1 / math.sqrt(2), 1 / math.sqrt(3), 1 / math.sqrt(6)
    basis = torch.zeros(6, 3, 3, dtype=torch.float64)
    for k, diagonal in enumerate(((s3, s3, s3), (s2, -s2, 0.0), (s6, s6, -2 * s6))):
        basis[k] = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2)), start=3):
        basis[k, i, j] = basis[k, j, i] = s2
    return basis.to(dtype=dtype, device=device)


def to_log_metric(lattice: Tensor) -> Tensor:
    """Log-metric coordinates k ``[B, 6]`` of lattices ``[B, 3, 3]``: ½ log(L Lᵀ) in :func:`log_metric_basis`
    (Klipfel et al., AAAI 2024, equation 13).

    Invariant under rotations and reflections of the crystal. k[0] = log(volume)/√3 with the volume in Å³; k[1:6] is the
    shape, zero for a cubic cell.
    """
    return to_symmetric_coords(0.5 * symmetric_log(metric(_wide(lattice)))).to(lattice.dtype)


def from_log_metric(k: Tensor) -> Tensor:
    """The symmetric positive lattice ``[B, 3, 3]`` with log-metric coordinates k ``[B, 6]``; volume = exp(√3 k[0])."""
    return symmetric_exp(from_symmetric_coords(k))


def to_symmetric_coords(matrix: Tensor) -> Tensor:
    """Coordinates ``[B, 6]`` of symmetric matrices ``[B, 3, 3]`` (a strain, a stress, a metric) in
    :func:`log_metric_basis`.
    """
    return torch.einsum("...ij,kij->...k", matrix, log_metric_basis(dtype=matrix.dtype, device=matrix.device))


def from_symmetric_coords(k: Tensor) -> Tensor:
    """Symmetric matrices ``[B, 3, 3]`` with coordinates ``[B, 6]`` in :func:`log_metric_basis`."""
    return torch.einsum("...k,kij->...ij", k, log_metric_basis(dtype=k.dtype, device=k.device))


def exponent_to(lattice: Tensor, target: Tensor) -> Tensor:
    """The symmetric A with metric(L·exp(A)) = metric(target), ``[B, 3, 3]``: ½ log(L⁻¹ G Lᵀ⁻¹), the exact answer of
    eq. 10a of Klipfel et al. (AAAI 2023).
    """
    inverse = torch.linalg.inv(lattice.double())
    return (0.5 * symmetric_log(inverse @ metric(target.double()) @ inverse.mT)).to(lattice.dtype)


VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Rows and columns of the six entries xx yy zz yz xz xy of a symmetric matrix."""


def symmetric_matrix(entries: Tensor) -> Tensor:
    """Symmetric ``[n, 3, 3]`` from entries in the order of :data:`VOIGT`, ``[n, 6]``; differentiable, exactly
    symmetric.
    """
    rows, columns = (list(axis) for axis in VOIGT)
    matrix = torch.zeros(len(entries), 3, 3, dtype=entries.dtype, device=entries.device)
    matrix[:, rows, columns] = entries
    matrix[:, columns, rows] = entries
    return matrix


def random_strain(generator: torch.Generator, sigma: float, n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """``n`` symmetric matrices ``[n, 3, 3]`` whose six entries are drawn from N(0, ``sigma``²); apply as L @
    symmetric_exp(S).
    """
    entries = torch.randn(n, 6, generator=generator, dtype=torch.float64) * sigma
    # drawn row by row of the upper triangle: xx xy xz yy yz zz
    return symmetric_matrix(entries[:, [0, 3, 5, 4, 2, 1]]).to(dtype)


# --- changes of basis


def inverse_unimodular(transform: Tensor) -> Tensor:
    """Exact integer inverse ``[B, 3, 3]`` of integer matrices with determinant ±1.

    Raises:
        StructureError: a determinant other than ±1.
    """
    t = transform.to(torch.long)
    a, b, c = t.unbind(-2)
    adjugate = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), -1)
    determinant = (a * torch.linalg.cross(b, c)).sum(-1)
    if bool((determinant.abs() != 1).any()):
        value = determinant.reshape(-1)[determinant.reshape(-1).abs() != 1][0]
        raise StructureError(
            f"change of basis has determinant {int(value)}; give an integer matrix with determinant 1 or -1"
        )
    return adjugate * determinant[..., None, None]


def change_basis(batch: CrystalBatch, transform: Tensor) -> CrystalBatch:
    """The crystals in the basis T @ lattice, coordinates x T⁻¹, with T integer of det ±1, ``[3, 3]`` or ``[B, 3, 3]``
    (Klipfel et al., AAAI 2023, Proposition 2).

    Raises:
        StructureError: a determinant other than ±1.
    """
    t = torch.as_tensor(transform, device=batch.lattice.device).to(torch.long).expand(len(batch), 3, 3)
    inverse = inverse_unimodular(t).to(batch.frac_coords.dtype)
    frac = torch.einsum("ni,nij->nj", batch.frac_coords, inverse[batch.batch])
    return batch.replace(lattice=t.to(batch.lattice.dtype) @ batch.lattice, frac_coords=frac)


def random_unimodular(generator: torch.Generator, n: int, *, steps: int = 3) -> Tensor:
    """``n`` random integer matrices of SL3(Z), ``[n, 3, 3]``: products of ``steps`` shears by ±1 and cyclic
    permutations.
    """
    transform = torch.eye(3, dtype=torch.long).repeat(n, 1, 1)
    shears = torch.tensor(_SHEARS)
    rows = torch.arange(n)
    for _ in range(steps):
        i, j = shears[torch.randint(6, (n,), generator=generator)].unbind(-1)
        sign = 2 * torch.randint(2, (n,), generator=generator) - 1
        transform[rows, i] = transform[rows, i] + sign[:, None] * transform[rows, j]
        cycle = (torch.arange(3) + torch.randint(3, (n, 1), generator=generator)) % 3
        transform = transform[rows[:, None], cycle]
    return transform


def supercell(batch: CrystalBatch, multiples: Sequence[int] | Tensor) -> CrystalBatch:
    """Repeat each crystal ``multiples`` times along a, b, c: three positive integers, or one triple a crystal ``[B,
    3]``.

    Atoms are ordered image by image, c fastest; each image holds the atoms in their order.

    Raises:
        StructureError: a multiple smaller than one.
    """
    repeats = torch.as_tensor(multiples, dtype=torch.long).expand(len(batch), 3)
    if bool((repeats < 1).any()):
        raise StructureError(
            f"supercell multiples {repeats.tolist()[:4]} hold a number below 1; give three positive integers"
        )
    crystals = []
    for (lattice, frac, numbers), times in zip(batch.unbatch(), repeats.tolist(), strict=True):
        scale = torch.tensor(times, dtype=lattice.dtype, device=lattice.device)
        images = torch.cartesian_prod(*(torch.arange(t) for t in times)).to(frac)
        coords = ((frac[None] + images[:, None]) / scale).reshape(-1, 3)
        crystals.append((lattice * scale[:, None], coords, numbers.repeat(len(images))))
    return CrystalBatch.from_list(crystals, dtype=batch.lattice.dtype, device=batch.lattice.device)
