"""Energies, forces and stresses of many crystals with a potential, in batches of bounded size."""

from __future__ import annotations

import math

import torch

from autoperi.data.checks import whole_number
from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.segments import chunks
from autoperi.models.potential import Evaluation, Potential

MAX_EDGES = 100_000
"""Estimated edges of one batch: some 300 MB in float32 with 64 channels, and no faster with more."""


def edge_batches(batch: CrystalBatch, cutoff: float, *, max_edges: int = MAX_EDGES) -> list[slice]:
    """Consecutive crystals whose edges, estimated from their densities, stay below ``max_edges`` together; at least one
    in a batch.

    Raises:
        RequestError: ``max_edges`` is not positive.
    """
    refusal = f"is not a positive whole number; give one, for example {MAX_EDGES}"
    whole_number(max_edges, "max_edges", refusal=refusal)
    volume = 4 / 3 * math.pi * cutoff**3
    edges = (batch.n_atoms * (1 + volume * batch.n_atoms / batch.volume.detach())).tolist()
    return chunks(edges, max_edges)


def evaluate(
    potential: Potential, batch: CrystalBatch, *, derivatives: bool = True, max_edges: int = MAX_EDGES
) -> Evaluation:
    """Evaluate a batch of any size without a graph of gradients; but for rounding, no crystal's result depends on the
    others.

    Args:
        potential: in any precision.
        batch: B crystals, in float64 where sums shall be.
        derivatives: give forces and stress.
        max_edges: bound of a batch, see :func:`edge_batches`.

    Raises:
        StructureError: an element that the potential was never trained on. RequestError: a bound that is not positive.
    """
    potential.check_elements(batch.atomic_numbers)
    parts = edge_batches(batch, potential.cutoff, max_edges=max_edges) or [slice(0, 0)]
    with torch.no_grad():
        found = [
            [None if x is None else x.detach() for x in potential(batch[part], derivatives=derivatives)]
            for part in parts
        ]
    return Evaluation._make(None if own[0] is None else torch.cat(own) for own in zip(*found, strict=True))
