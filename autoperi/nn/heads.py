"""Heads: what a model reads from the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.nn.backbone import BackboneOutput


def sum_per_crystal(values: Tensor, batch: CrystalBatch) -> Tensor:
    """Sum node values ``[N, ...]`` over each crystal, ``[B, ...]``."""
    out = torch.zeros(len(batch), *values.shape[1:], dtype=values.dtype, device=values.device)
    return out.index_add(0, batch.batch, values)


class ScalarHead(nn.Module):
    """Invariant quantities per atom, ``[N, outputs]``; a crystal's value is their sum or mean."""

    def __init__(self, channels: int, outputs: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, output: BackboneOutput) -> Tensor:
        """Backbone features to ``[N, outputs]``."""
        return self.net(output.scalars)
