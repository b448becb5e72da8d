"""A velocity of the whole crystal, read from its atoms: displacements and a strain rate that turn with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.nn.backbone import BackboneOutput
from autoperi.nn.heads import sum_per_crystal
from autoperi.nn.mlp import mlp


class NodeField(nn.Module):
    """Displacements dx_i = Σ_c α_c(h_i) A_i^{1,c} and a strain rate of isotropic part Σ_i φ(h_i) and deviatoric part
    Σ_i Σ_c β_c(h_i) A_i^{2,c}.

    A^{l,c} are the last layer's equivariant features: sums over neighbours of radial functions and harmonics of the
    edges, so that both parts lie in the span of the edges' directions u and of |u⟩⟨u| (EMPNN eq. 2 and Definition 8)
    and no further work on edges is needed.

    Args:
        channels: of the backbone, whose l_max is at least 2.
        hidden: width of the head.
    """

    def __init__(self, channels: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.net = mlp(channels, hidden, 2 * channels + 1, norm=True)

    def forward(self, output: BackboneOutput, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Cartesian displacements ``[N, 3]`` and symmetric strain rates ``[B, 3, 3]``, per unit of time."""
        alpha, beta, phi = self.net(output.scalars).split([self.channels, self.channels, 1], -1)
        displacements = (output.equivariant[1] * alpha.unsqueeze(1)).sum(-1)  # e3nn orders l = 1 as x, y, z
        shape = (output.equivariant[2] * beta.unsqueeze(1)).sum(-1)
        means = sum_per_crystal(torch.cat([phi, shape], -1), batch) / batch.n_atoms.to(phi.dtype).unsqueeze(-1)
        one = torch.eye(3, dtype=phi.dtype, device=phi.device) / 3**0.5
        strain = means[:, :1, None] * one + torch.einsum("bm,mij->bij", means[:, 1:], traceless_basis(phi))
        return displacements, strain


def traceless_basis(like: Tensor) -> Tensor:
    """Orthonormal traceless symmetric matrices ``[5, 3, 3]``, turning as the harmonics of l = 2 in e3nn's order: xz,
    xy, yy, yz, zz - xx.
    """
    s2, s6 = 0.5**0.5, 6**-0.5
    basis = like.new_zeros(5, 3, 3)
    for m, (i, j) in ((0, (0, 2)), (1, (0, 1)), (3, (1, 2))):
        basis[m, i, j] = basis[m, j, i] = s2
    basis[2] = torch.diag(like.new_tensor([-s6, 2 * s6, -s6]))
    basis[4] = torch.diag(like.new_tensor([-s2, 0.0, s2]))
    return basis
