"""Neighbour lists with a skin give exactly the edges of a fresh search, and search only when they must."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.geometry.neighbours import NeighbourLists


def crystals() -> CrystalBatch:
    made = [
        bulk("NaCl", "rocksalt", 5.6),
        bulk("Ti", "hcp", a=2.9, c=4.6),
        bulk("Si", "diamond", 5.4, cubic=True) * (3, 3, 3),
    ]
    return to_batch(made, dtype=torch.float64)


def moved(batch: CrystalBatch, seed: int, shake: float, strain: float) -> CrystalBatch:
    """The same crystals, coordinates not wrapped."""
    generator = torch.Generator().manual_seed(seed)
    frac = (
        batch.frac_coords + shake * torch.randn(batch.frac_coords.shape, generator=generator, dtype=torch.float64) / 5
    )
    lattice = batch.lattice @ (
        torch.eye(3) + strain * torch.randn(len(batch), 3, 3, generator=generator, dtype=torch.float64)
    )
    return CrystalBatch(lattice, frac, batch.atomic_numbers, batch.n_atoms)


def lengths(batch: CrystalBatch, cutoff: float) -> torch.Tensor:
    return torch.linalg.vector_norm(edge_vectors(batch, radius_graph(batch, cutoff)), dim=-1).sort().values


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.02, 0.3, 2.0]),
    st.sampled_from([0.0, 0.01, 0.08]),
    st.sampled_from([0.0, 0.5, 1.5]),
)
def test_edges_are_those_of_a_fresh_search_along_a_walk(seed: int, shake: float, strain: float, skin: float) -> None:
    batch, lists = crystals(), NeighbourLists(4.0, skin=skin)
    for step in range(4):
        graph, vectors = lists.edges(batch)
        expected = radius_graph(batch, 4.0)
        assert graph.n_edges == expected.n_edges
        assert torch.equal(graph.degrees(), expected.degrees())
        assert torch.allclose(torch.linalg.vector_norm(vectors, dim=-1).sort().values, lengths(batch, 4.0), atol=1e-12)
        assert torch.allclose(vectors, edge_vectors(batch, graph), atol=1e-12)
        assert bool((graph.edge_index[0].diff() >= 0).all())
        batch = moved(batch, seed + step, shake, strain)


def test_searches_only_when_an_atom_has_gone_half_the_skin() -> None:
    batch, lists = crystals()[2], NeighbourLists(4.0, skin=1.0)
    lists.edges(batch)
    atom = torch.zeros_like(batch.frac_coords)
    atom[0, 0] = 1 / float(batch.lattice[0, 0, 0])
    for distance, searches in ((0.45, 1), (0.49, 1), (0.52, 2)):
        lists.edges(
            CrystalBatch(batch.lattice, batch.frac_coords + distance * atom, batch.atomic_numbers, batch.n_atoms)
        )
        assert lists.searches == searches
    lists.edges(CrystalBatch(batch.lattice, batch.frac_coords + 0.52 * atom + 3.3, batch.atomic_numbers, batch.n_atoms))
    assert lists.searches == 2  # all atoms together go nowhere
    lists.edges(CrystalBatch(batch.lattice * 0.9, batch.frac_coords + 0.52 * atom, batch.atomic_numbers, batch.n_atoms))
    assert lists.searches == 2  # 10 % of 4 Å fit into the skin
    lists.edges(
        CrystalBatch(batch.lattice * 0.78, batch.frac_coords + 0.52 * atom, batch.atomic_numbers, batch.n_atoms)
    )
    assert lists.searches == 3


def test_only_the_crystals_that_moved_are_searched_and_the_kept_ones_stay() -> None:
    batch, lists = crystals(), NeighbourLists(4.0, skin=0.5)
    lists.edges(batch)
    frac = batch.frac_coords.clone()
    frac[0] += 0.2
    changed = CrystalBatch(batch.lattice, frac, batch.atomic_numbers, batch.n_atoms)
    lists.edges(changed)
    assert lists.searches == len(batch) + 1
    lists.keep(changed, [2, 0])
    rest = changed[[2, 0]]
    graph, _ = lists.edges(rest)
    assert lists.searches == len(batch) + 1
    assert torch.equal(graph.degrees(), radius_graph(rest, 4.0).degrees())


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 1.0), (5.0, -0.1), (5.0, float("nan")), (float("nan"), 0.5)])
def test_nonsense_is_refused(cutoff: float, skin: float) -> None:
    with pytest.raises(RequestError, match="skin"):
        NeighbourLists(cutoff, skin=skin)
