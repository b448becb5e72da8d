"""Anonymous fingerprints: partial radial distributions of a crystal at unit volume per atom.

Two crystals of one structure type have nearly equal fingerprints whatever their elements, volume, cell choice or
origin, so structure types can be clustered by array arithmetic. A *slot* stands for an element: slots are numbered
0..S-1, and slots of equal count are interchangeable (:func:`tie_permutations`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.geometry.segments import segment_sum

CUTOFF = 2.0
"""Reach in units of (V/N)^(1/3): two to three coordination shells."""
CENTRES = np.linspace(0.45, 1.95, 21)
WIDTH = 0.09
MAX_PERMUTATIONS = 720
BLOCK = 256
"""Rows of a table of distances that are worked out together, so that temporaries stay small."""


def slot_order(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Elements sorted by count then atomic number, each atom's slot ``[n]``, and the counts."""
    elements, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.lexsort((elements, counts))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return elements[order], rank[inverse], tuple(int(c) for c in counts[order])


def tie_permutations(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """All renumberings of slots that keep the counts, the identity first, at most :data:`MAX_PERMUTATIONS`."""
    groups = [list(g) for _, g in itertools.groupby(range(len(counts)), key=lambda s: counts[s])]
    product = itertools.product(*(itertools.permutations(g) for g in groups))
    return [tuple(itertools.chain.from_iterable(p)) for p in itertools.islice(product, MAX_PERMUTATIONS)]


def fingerprints(
    crystals: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n_slots: Sequence[int]
) -> list[np.ndarray]:
    """Partial radial distributions of ``(lattice, frac_coords, slots)`` triples, each ``[S, S, bins]`` float32.

    Entry (a, b) is the density of slot-b neighbours around the mean slot-a atom, smoothed by a Gaussian, times 1/r²,
    so that a far shell weighs no more than a near one.
    """
    out: list[np.ndarray] = []
    centres = torch.as_tensor(CENTRES)
    for start in range(0, len(crystals), 256):
        chunk = crystals[start : start + 256]
        batch = CrystalBatch.from_list([(np.array(c[0]), np.array(c[1]), np.array(c[2]) + 1) for c in chunk])
        scale = (batch.volume / batch.n_atoms) ** (-1 / 3)
        batch = batch.replace(lattice=batch.lattice * scale[:, None, None])
        graph = radius_graph(batch, CUTOFF)
        r = torch.linalg.vector_norm(edge_vectors(batch, graph), dim=-1)
        values = torch.exp(-0.5 * ((r[:, None] - centres) / WIDTH) ** 2) / (r[:, None] ** 2).clamp(min=0.1)
        values = values * (0.5 + 0.5 * torch.cos(torch.pi * r / CUTOFF))[:, None]
        slots = batch.atomic_numbers - 1
        crystal = batch.batch[graph.edge_index[0]]
        most = max(n_slots[start : start + len(chunk)])
        # crystal, slot of the centre and slot of the neighbour as one number, so that one index_add fills all tables
        key = (crystal * most + slots[graph.edge_index[0]]) * most + slots[graph.edge_index[1]]
        table = segment_sum(values, key, len(chunk) * most * most)
        counts = torch.bincount(batch.batch * most + slots, minlength=len(chunk) * most).to(values.dtype)
        table = table.view(len(chunk), most, most, -1) / counts.view(len(chunk), most, 1, 1).clamp(min=1)
        out += [table[k, :s, :s].numpy().astype(np.float32) for k, s in enumerate(n_slots[start : start + len(chunk)])]
    return out


def renumbered_distances(one: np.ndarray, many: np.ndarray, counts: Sequence[int], p: Sequence[int]) -> np.ndarray:
    """Root mean square differences ``[M]`` of ``one``, its slots renumbered by p, to ``many``."""
    weight = (np.asarray(counts, float) / sum(counts))[:, None, None] / len(CENTRES)
    return np.sqrt((weight * (many - one[np.ix_(p, p)]) ** 2).sum((1, 2, 3)))


def distances(one: np.ndarray, many: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distance of a fingerprint to many, minimised over interchangeable slots.

    Args:
        one: ``[S, S, bins]``.
        many: ``[M, S, S, bins]``.
        counts: atoms per slot.

    Returns:
        Root mean square differences ``[M]`` and, for each, the index into :func:`tie_permutations` of the renumbering
        of ``one`` that reaches it: slot s of ``many`` is slot p[s] of ``one``.
    """
    best, which = np.full(len(many), np.inf), np.zeros(len(many), int)
    for k, p in enumerate(tie_permutations(counts)):
        d = renumbered_distances(one, many, counts, p)
        which[d < best], best = k, np.minimum(d, best)
    return best, which


def all_distances(many: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """:func:`distances` of each of M fingerprints to all of them, by matrix products: for thousands of crystals of many
    interchangeable slots.

    Returns:
        Distances ``[M, M]`` and indices ``[M, M]``; where renumberings are as good as each other to 1e-5 it is the
        first of them.
    """
    n = len(many)
    weight = np.sqrt(np.asarray(counts, float) / sum(counts) / len(CENTRES))[:, None, None]
    flat = (weight * many).reshape(n, -1)  # in float64: squares of distances are small differences of large numbers
    square = (flat**2).sum(1)
    best, which = np.full((n, n), np.inf), np.zeros((n, n), np.int16)
    for k, p in enumerate(tie_permutations(counts)):
        own = (weight * many[:, p][:, :, p]).reshape(n, -1)
        for rows in np.split(np.arange(n), range(BLOCK, n, BLOCK)):
            found = square[rows, None] + square - 2 * own[rows] @ flat.T
            better = found < best[rows] - 1e-10
            best[rows] = np.where(better, found, best[rows])
            which[rows] = np.where(better, k, which[rows])
    return np.sqrt(np.clip(best, 0, None)), which
