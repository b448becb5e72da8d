"""Heads: what a model reads from the backbone."""

from __future__ import annotations

from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import BackboneOutput
from autoperi.nn.mlp import mlp


def sum_per_crystal(values: Tensor, batch: CrystalBatch) -> Tensor:
    """Sum node values ``[N, ...]`` over each crystal, ``[B, ...]``."""
    return segment_sum(values, batch.batch, len(batch))


class ScalarHead(nn.Module):
    """Invariant quantities per atom, ``[N, outputs]``; a crystal's value is their sum or mean."""

    def __init__(self, channels: int, outputs: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.net = mlp(channels, hidden, outputs, norm=True)

    def forward(self, output: BackboneOutput) -> Tensor:
        """Backbone features to ``[N, outputs]``."""
        return self.net(output.scalars)
