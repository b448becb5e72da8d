"""EMPNN: equivariant message passing that acts on the lattice (Klipfel et al., AAAI 2023).

One pass reads a crystal and predicts a symmetric A; the relaxed lattice is ρ' = exp(A)·ρ (eq. 10a) with fractional
coordinates unchanged. With rows as lattice vectors this is L' = L·exp(A), since A is symmetric.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoperi.crystal import CrystalBatch
from autoperi.nn.backbone import Backbone
from autoperi.nn.heads import LatticeField
from autoperi.nn.radial import polynomial_envelope


class Empnn(nn.Module):
    """One-shot lattice relaxer with the edge ket-bra field.

    Args:
        channels, layers, cutoff, n_radial, l_max: of the shared :class:`~autoperi.nn.backbone.Backbone`.
        max_strain: bound on each eigenvalue of A, reached smoothly, so that no input can explode.
    """

    def __init__(
        self, *, channels: int = 64, layers: int = 2, cutoff: float = 5.0, n_radial: int = 8, l_max: int = 2, max_strain: float = 1.0
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "layers": layers,
            "cutoff": cutoff,
            "n_radial": n_radial,
            "l_max": l_max,
            "max_strain": max_strain,
        }
        self.max_strain = max_strain
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.field = LatticeField(channels, n_radial)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """The exponent A of eq. 10a, symmetric, ``[B, 3, 3]``: O(3) acts on it by conjugation, SL3(Z) not at all."""
        output = self.backbone(batch)
        envelope = polynomial_envelope(output.geometry.distances / self.backbone.cutoff)
        strain = self.field(output, batch, envelope)
        # scaling by the norm keeps the direction of A, hence equivariance, and bounds its eigenvalues
        norm = torch.sqrt((strain**2).sum((-1, -2), keepdim=True) + 1e-12)
        return strain * (self.max_strain * torch.tanh(norm / self.max_strain) / norm)
