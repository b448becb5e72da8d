"""How near atoms come to one another: nearest distances, absolute and relative to covalent radii.

Every pair of atoms and images counts, an atom and its own images included, so that a cell too small for its only atom
is seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import covalent_radii
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.geometry.reduction import reduce_basis
from autoperi.geometry.segments import segment_max

MIN_DISTANCE_RATIO = 0.55
"""Smallest admissible distance over the sum of covalent radii; 99.9 % of training crystals lie above
(benchmarks/prior).
"""
_MARGIN = 1.0 + 1e-6


def minimum_distances(batch: CrystalBatch) -> Tensor:
    """Smallest distance in Å between two atoms or images of each crystal, ``[B]``; differentiable.

    Always finite: an atom has its own images, and N balls in a volume V cannot all be further apart than in the densest
    packing, d ≤ (√2 V / N)^(1/3).

    Raises:
        StructureError: a crystal without geometry, see :meth:`CrystalBatch.validate`.
    """
    batch.validate()
    distance, owner, _ = _pairs(batch, _nearest_bound(batch))
    return _smallest(distance, owner, batch)


def minimum_distance_ratios(batch: CrystalBatch) -> Tensor:
    """Smallest d_ij / (r_i + r_j) of each crystal over all atoms and images, r covalent radii, ``[B]``; differentiable.

    About 1 where atoms are bonded as usual. Exact for any crystal, however sparse: the nearest pair bounds the ratio,
    and with it the distance of every pair that can have a smaller one.

    Raises:
        StructureError: a crystal without geometry, see :meth:`CrystalBatch.validate`.
    """
    batch.validate()
    radii = torch.tensor(covalent_radii(), dtype=torch.float64, device=batch.lattice.device)[batch.atomic_numbers]
    largest = segment_max(radii, batch.batch, len(batch))
    with torch.no_grad():
        nearest = _nearest_bound(batch)
        distance, owner, (i, j) = _pairs(batch, nearest)
        bound = _smallest(distance / (radii[i] + radii[j]), owner, batch)
        # overlapping atoms bound the ratio by zero, and a radius must be positive
        reach = torch.maximum(2 * largest * bound, 1e-3 * nearest) * _MARGIN
    distance, owner, (i, j) = _pairs(batch, reach)
    return _smallest(distance / (radii[i] + radii[j]).to(distance.dtype), owner, batch)


def _nearest_bound(batch: CrystalBatch) -> Tensor:
    """A radius in Å that reaches the nearest pair of each crystal, ``[B]``, float64."""
    lattice = batch.lattice.detach().to(torch.float64)
    packing = (2**0.5 * torch.linalg.det(lattice).abs() / batch.n_atoms) ** (1 / 3)
    shortest = torch.linalg.vector_norm(reduce_basis(lattice) @ lattice, dim=-1).amin(-1)
    return torch.minimum(packing, shortest) * _MARGIN


def _pairs(batch: CrystalBatch, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances in Å ``[E]`` of all pairs within each crystal's own ``reach`` ``[B]``, their crystals ``[E]`` and atoms
    ``[2, E]``.
    """
    # Crystals are scaled to a common reach of 1, so that a sparse one does not widen the search in a dense one.
    lattice, frac = (x.detach().to(torch.float64) for x in (batch.lattice, batch.frac_coords))
    unit = CrystalBatch(lattice / reach[:, None, None], frac, batch.atomic_numbers, batch.n_atoms)
    graph = radius_graph(unit, 1.0)
    distance = torch.linalg.vector_norm(edge_vectors(batch, graph), dim=-1)
    return distance, batch.batch[graph.edge_index[0]], graph.edge_index


def _smallest(values: Tensor, owner: Tensor, batch: CrystalBatch) -> Tensor:
    start = torch.full((len(batch),), torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, owner, values, "amin")
