"""Losses between a predicted and the true lattice (EMPNN, section 5.3; compared in Table 1 of the paper).

With L' the predicted and L the true lattice of one crystal, rows a, b, c, in the same basis; V = |det L|, G = L Lᵀ the
metric tensor:

    parameters_mae   1/6 Σ_k |p'_k - p_k|,      p = (a, b, c) / V^(1/3), (α, β, γ) in radians
    parameters_mse   1/6 Σ_k (p'_k - p_k)²
    metric_mae       1/9 Σ_ij |G'_ij - G_ij|                             Å²
    metric_mse       1/9 Σ_ij (G'_ij - G_ij)²                            Å⁴
    riemann          ‖log(G^(-1/2) G' G^(-1/2))‖_F

The last is the affine-invariant distance of positive matrices. All are invariant under O(3) on either side, for they
see lengths, angles or metric tensors only. The first four depend on the basis; ``riemann`` does not: it is the same in
every basis that both share, because G → T G Tᵀ is an isometry of this metric. The paper normalises parameters in an
appendix that is not at hand; lengths over V^(1/3) and angles in radians have about the ratio of weights that their
standard deviations over a training set would give.

Every loss is differentiable where eigenvalues coincide, as they do in cubic crystals, and has the gradient zero at L' =
L, where the absolute values and the distance have a corner.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autoperi.errors import RequestError
from autoperi.geometry.lattice import lengths_angles, metric, symmetric_log


def normalised_parameters(lattice: Tensor, volume: Tensor) -> Tensor:
    """(a, b, c) / V^(1/3) and (α, β, γ) in radians, ``[B, 6]``, of lattices ``[B, 3, 3]`` in Å and volumes ``[B]`` in
    Å³.
    """
    lengths, angles = lengths_angles(lattice)
    return torch.cat([lengths / volume.pow(1 / 3).unsqueeze(-1), torch.deg2rad(angles)], -1)


def parameters_mae(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of the normalised parameters, 1/6 Σ_k |p'_k - p_k|, ``[B]``, of lattices ``[B, 3, 3]`` in
    Å.
    """
    return _parameter_errors(predicted, true).abs().mean(-1)


def parameters_mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of the normalised parameters, 1/6 Σ_k (p'_k - p_k)², ``[B]``, of lattices ``[B, 3, 3]`` in
    Å.
    """
    return _parameter_errors(predicted, true).square().mean(-1)


def metric_mae(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of the metric tensor, 1/9 Σ_ij |G'_ij - G_ij| in Å², ``[B]``, of lattices ``[B, 3, 3]`` in
    Å.
    """
    return (metric(predicted) - metric(true)).abs().mean((-1, -2))


def metric_mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of the metric tensor, 1/9 Σ_ij (G'_ij - G_ij)² in Å⁴, ``[B]``, of lattices ``[B, 3, 3]`` in
    Å.
    """
    return (metric(predicted) - metric(true)).square().mean((-1, -2))


def riemann(predicted: Tensor, true: Tensor) -> Tensor:
    """Affine-invariant distance d(G', G) = ‖log(G^(-1/2) G' G^(-1/2))‖_F, no unit, ``[B]``, of lattices ``[B, 3, 3]``
    in Å.

    With W = L⁻¹ L' it is ‖log(W Wᵀ)‖_F: W Wᵀ is G^(-1/2) G' G^(-1/2) up to a rotation. For L' = L exp(A) with A
    symmetric and L a cube it is 2‖A‖_F.
    """
    relative = torch.linalg.solve(true, predicted)
    log = symmetric_log(relative @ relative.mT)
    # vector_norm has the gradient zero at zero, where a square root of a sum has none
    return torch.linalg.vector_norm(log.flatten(-2), dim=-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "parameters_mae": parameters_mae,
    "parameters_mse": parameters_mse,
    "metric_mae": metric_mae,
    "metric_mse": metric_mse,
    "riemann": riemann,
}
"""By name: functions of predicted and true lattices ``[B, 3, 3]`` in Å that give one number a crystal, ``[B]``."""


def lattice_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in LOSSES:
        raise RequestError(f"loss {name!r} is not known; choose of {', '.join(LOSSES)}")
    return LOSSES[name]


def _parameter_errors(predicted: Tensor, true: Tensor) -> Tensor:
    volume = torch.linalg.det(true).abs()
    return normalised_parameters(predicted, volume) - normalised_parameters(true, volume)
