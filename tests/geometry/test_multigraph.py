"""The multigraph against ASE's neighbour list, and its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.lattice import change_basis, random_unimodular
from autoperi.geometry.multigraph import (
    LARGE_CELL,
    edge_vectors,
    nearest_images_graph,
    radius_graph,
    triplets,
)
from autoperi.geometry.reduction import reduce_basis


def batch_of(*atoms: Atoms) -> CrystalBatch:
    return CrystalBatch.from_list(
        [(a.cell[:].copy(), a.get_scaled_positions(wrap=False), a.numbers.copy()) for a in atoms]
    )


def random_cell(seed: int, n: int) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 2 + 3 * np.eye(3)
    while abs(np.linalg.det(cell)) < 10:
        cell = rng.normal(size=(3, 3)) * 2 + 3 * np.eye(3)
    return Atoms(numbers=rng.integers(1, 90, n), scaled_positions=rng.random((n, 3)) * 3 - 1, cell=cell, pbc=True)


def edges_of_ase(atoms: Atoms, cutoff: float) -> list[tuple[int, ...]]:
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    return sorted(map(tuple, np.column_stack([i, j, shift]).tolist()))


def edges_of(batch: CrystalBatch, cutoff: float) -> list[tuple[int, ...]]:
    graph = radius_graph(batch, cutoff)
    return sorted(map(tuple, torch.cat([graph.edge_index.T, graph.edge_shift], 1).tolist()))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(1.0, 7.0))
def test_equals_ase_for_skewed_cells(seed: int, n: int, cutoff: float) -> None:
    atoms = random_cell(seed, n)
    assert edges_of(batch_of(atoms), cutoff) == edges_of_ase(atoms, cutoff)


def test_batch_is_the_union_of_its_crystals() -> None:
    many = [random_cell(k, n) for k, n in enumerate((1, 4, 2))]
    graph = radius_graph(batch_of(*many), 5.0)
    alone = [radius_graph(batch_of(a), 5.0) for a in many]
    assert graph.n_edges == sum(g.n_edges for g in alone)
    distances = torch.linalg.vector_norm(edge_vectors(batch_of(*many), graph), dim=-1)
    assert float(distances.max()) < 5.0


def test_large_cell_goes_through_the_cell_list_and_agrees() -> None:
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    atoms.rattle(0.1, seed=1)
    assert len(atoms) >= LARGE_CELL
    assert edges_of(batch_of(atoms), 4.0) == edges_of_ase(atoms, 4.0)
    mixed = radius_graph(batch_of(bulk("NaCl", "rocksalt", 5.6), atoms), 4.0)
    assert mixed.n_edges == len(edges_of_ase(atoms, 4.0)) + len(edges_of_ase(bulk("NaCl", "rocksalt", 5.6), 4.0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_lattice_basis_does_not_change_distances(seed: int) -> None:
    batch = batch_of(random_cell(seed, 3))
    other = change_basis(batch, random_unimodular(torch.Generator().manual_seed(seed), 1))

    def spectrum(b: CrystalBatch) -> torch.Tensor:
        return torch.linalg.vector_norm(edge_vectors(b, radius_graph(b, 4.0)), dim=-1).sort().values

    assert torch.allclose(spectrum(batch), spectrum(other), atol=1e-8)


def test_reduced_basis_is_unimodular_and_no_longer() -> None:
    g = torch.Generator().manual_seed(0)
    lattice = random_unimodular(g, 20).double() @ (torch.eye(3, dtype=torch.float64) * 4)
    transform = reduce_basis(lattice)
    assert torch.allclose(torch.linalg.det(transform).abs(), torch.ones(20, dtype=torch.float64))
    assert (
        torch.linalg.vector_norm(transform @ lattice, dim=-1).max()
        <= torch.linalg.vector_norm(lattice, dim=-1).max() + 1e-9
    )


@pytest.mark.parametrize(("name", "structure", "shell"), [("Cu", "fcc", 12), ("Fe", "bcc", 8), ("Po", "sc", 6)])
def test_nearest_images_keep_whole_shells(name: str, structure: str, shell: int) -> None:
    batch = batch_of(bulk(name, structure, 3.4))
    for k in (1, shell - 1, shell):
        assert nearest_images_graph(batch, k).n_edges == shell


def test_triplets_share_their_centre_and_differ() -> None:
    graph = radius_graph(batch_of(bulk("NaCl", "rocksalt", 5.6)), 3.0)
    first, second = triplets(graph)
    assert len(first) == 2 * 6 * 5
    assert torch.equal(graph.edge_index[0, first], graph.edge_index[0, second])
    assert bool((first != second).all())


def test_no_edges_is_an_answer_and_bad_radii_are_not() -> None:
    alone = batch_of(Atoms("He", cell=np.eye(3) * 20, pbc=True))
    graph = radius_graph(alone, 5.0)
    assert graph.n_edges == 0
    assert edge_vectors(alone, graph).shape == (0, 3)
    assert triplets(graph).shape == (2, 0)
    with pytest.raises(StructureError, match="cutoff=0"):
        radius_graph(alone, 0)
    with pytest.raises(StructureError, match="k=0"):
        nearest_images_graph(alone, 0)


def test_vectors_are_differentiable_in_lattice_and_coordinates() -> None:
    batch = batch_of(random_cell(3, 2))
    graph = radius_graph(batch, 4.0)

    def lengths(lattice: torch.Tensor, frac: torch.Tensor) -> torch.Tensor:
        return edge_vectors(CrystalBatch(lattice, frac, batch.atomic_numbers, batch.n_atoms), graph).square().sum(-1)

    assert torch.autograd.gradcheck(
        lengths, (batch.lattice.clone().requires_grad_(), batch.frac_coords.clone().requires_grad_())
    )
