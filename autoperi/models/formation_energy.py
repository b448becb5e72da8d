"""Invariant property models on the shared backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.nn.backbone import Backbone, BackboneOutput
from autoperi.nn.config import config_of
from autoperi.nn.heads import ScalarHead, sum_per_crystal
from autoperi.units import MAX_ATOMIC_NUMBER


class FormationEnergy(nn.Module):
    """PBE(+U) formation energy in eV/atom: a reference per element plus a sum of atomic terms, divided by the atoms.

    Args:
        channels, layers, cutoff, n_radial, l_max: of the shared :class:`~autoperi.nn.backbone.Backbone`.
    """

    def __init__(
        self, *, channels: int = 64, layers: int = 3, cutoff: float = 5.0, n_radial: int = 8, l_max: int = 2
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.head = ScalarHead(channels)
        self.reference = nn.Parameter(torch.zeros(MAX_ATOMIC_NUMBER + 1))

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Formation energy of each crystal in eV/atom, ``[B]``."""
        return self.read(self.backbone(batch), batch)

    def read(self, output: BackboneOutput, batch: CrystalBatch) -> Tensor:
        """Formation energy of each crystal in eV/atom from the features of the backbone, ``[B]``."""
        atomic = self.head(output).squeeze(-1) + self.reference[batch.atomic_numbers]
        return sum_per_crystal(atomic, batch) / batch.n_atoms.to(atomic.dtype)
