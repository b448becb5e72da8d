"""Which crystals share a batch."""

from __future__ import annotations

import itertools

import torch

from autoperi.data.convert import to_batch
from autoperi.geometry.multigraph import radius_graph
from autoperi.testing import tiny_crystals
from autoperi.training.data import Batches, TensorCrystals, widths


def data() -> TensorCrystals:
    crystals = to_batch(tiny_crystals())
    return TensorCrystals(crystals, {"energy": torch.arange(len(crystals), dtype=torch.float32)})


def test_width_is_the_largest_number_of_neighbours():
    crystals = data().crystals
    found = widths(crystals, 5.0, chunk=2)
    for b in range(len(crystals)):
        graph = radius_graph(crystals[[b]], 5.0)
        assert int(found[b]) == int(torch.bincount(graph.edge_index[0], minlength=1).max())


def test_every_row_once_in_an_epoch_and_like_widths_together():
    crystals = data()
    width = widths(crystals.crystals, 5.0)
    batches = Batches(crystals, 2, seed=1, width=width)
    rows = [labels["row"].tolist() for _, labels in batches]
    assert sorted(r for batch in rows for r in batch) == list(range(len(crystals)))
    # one pool holds them all, so the batches cut the sorted widths into intervals
    spans = sorted(sorted(int(width[r]) for r in batch) for batch in rows)
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(spans))
    batches.set_epoch(1)
    again = [labels["row"].tolist() for _, labels in batches]
    assert again != rows
