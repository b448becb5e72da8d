"""Baselines to stand beside: what a mean and a formula alone can say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.nn.heads import sum_per_crystal
from autoperi.nn.mlp import mlp
from autoperi.units import MAX_ATOMIC_NUMBER


class CompositionNetwork(nn.Module):
    """A property from the composition alone: element embeddings, their weighted mean and spread, and a network.

    It sees no positions and no lattice, so polymorphs get one answer.
    """

    def __init__(self, *, channels: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.pair = nn.Linear(channels, channels, bias=False)
        self.net = mlp(3 * channels, hidden, hidden, hidden, 1)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """One value per crystal, ``[B]``."""
        elements = self.embedding(batch.atomic_numbers)
        n = batch.n_atoms.unsqueeze(-1).to(elements.dtype)
        mean = sum_per_crystal(elements, batch) / n
        spread = sum_per_crystal((elements - mean[batch.batch]) ** 2, batch) / n
        mixed = sum_per_crystal(torch.tanh(self.pair(elements) * self.pair(mean)[batch.batch]), batch) / n
        return self.net(torch.cat([mean, spread, mixed], -1)).squeeze(-1)


def fit_composition_network(
    crystals: CrystalBatch, target: Tensor, *, epochs: int = 40, seed: int = 0, batch_size: int = 256
) -> CompositionNetwork:
    """Train on ``target`` ``[B]`` (finite values) by mean absolute error; deterministic for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompositionNetwork()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    steps = epochs * -(-len(crystals) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(crystals), generator=generator).split(batch_size):
            loss = (network(crystals[chosen]) - target[chosen]).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()
