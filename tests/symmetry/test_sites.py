"""Sites and the crystals that symmetry makes of them (Sultanov et al. 2023, sections 2 and 4.1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher

from autoperi.data.convert import to_arrays, to_structures
from autoperi.errors import StructureError
from autoperi.geometry.lattice import lengths_angles
from autoperi.geometry.multigraph import radius_graph
from autoperi.geometry.torus import wrap_centered
from autoperi.symmetry.analysis import analyse
from autoperi.symmetry.sites import MAX_EDGES, Sites, inverse_softplus, sites_of, softplus
from autoperi.symmetry.spacegroup import space_group
from autoperi.symmetry.wyckoff import wyckoff_positions
from autoperi.testing import tiny_crystals
from autoperi.training.site_data import site_crystals


def random_crystals(groups: list[int], seed: int, *, bound: bool = True) -> tuple[Sites, torch.Tensor, torch.Tensor]:
    """Two sites in each of the groups, on positions drawn at random or on none, with cells about the natural ones."""
    rng = np.random.default_rng(seed)
    members = []
    for number in groups:
        positions = [p for p in wyckoff_positions(number) if p.dof] or list(wyckoff_positions(number))
        chosen = [positions[int(k)] for k in rng.integers(len(positions), size=2)]
        members.append([(11, chosen[0] if bound else None), (17, chosen[1] if bound else None)])
    sites = sites_of(groups, members, rng.uniform(80, 400, len(groups)))
    frac = torch.as_tensor(rng.random((2 * len(groups), 3)))
    parameters = sites.natural() + 0.3 * sites.free(torch.as_tensor(rng.normal(size=(len(groups), 6))))
    return sites, sites.placed(frac), parameters


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 230), min_size=1, max_size=4), st.integers(0, 10**6))
def test_crystals_obey_their_groups(groups: list[int], seed: int) -> None:
    """Every operation maps the cell onto itself and atoms onto atoms of the same element."""
    sites, frac, parameters = random_crystals(groups, seed)
    for number, (lattice, x, z) in zip(groups, sites.crystals(frac, parameters).unbatch(), strict=True):
        group = space_group(number).primitive
        metric = (lattice @ lattice.T).numpy()
        for r, t in zip(group.rotations, group.translations, strict=True):
            np.testing.assert_allclose(r.T @ metric @ r, metric, rtol=1e-6, atol=1e-6 * metric.max())
            moved = torch.as_tensor(x.numpy() @ r.T + t)
            apart = torch.einsum("abi,ij->abj", wrap_centered(moved[:, None] - x[None]), lattice)
            same = torch.linalg.vector_norm(apart, dim=-1) < 1e-6
            assert bool((same & (z[:, None] == z[None])).any(1).all())


@pytest.mark.parametrize("number", range(1, 231))
def test_a_bound_site_has_the_multiplicity_of_its_position(number: int) -> None:
    position = wyckoff_positions(number)[0]
    sites = sites_of([number], [[(14, position)]], [4000.0])
    frac = sites.placed(torch.tensor([[0.137, 0.271, 0.416]], dtype=torch.float64))
    crystals = sites.crystals(frac, sites.natural())
    assert int(crystals.n_atoms) == position.primitive_multiplicity
    conventional = sites.conventional(sites.natural())
    assert float(torch.linalg.det(conventional).abs()) == pytest.approx(4000.0)
    assert float(crystals.volume) == pytest.approx(4000.0 / space_group(number).n_centring)


def test_angles_are_those_of_the_family_and_lengths_are_tied() -> None:
    groups = [2, 14, 62, 129, 166, 194, 225]
    sites, _, parameters = random_crystals(groups, 3)
    (a, b, c), (alpha, beta, gamma) = (x.T for x in lengths_angles(sites.conventional(parameters)))
    torch.testing.assert_close(alpha[1:], torch.full((6,), 90.0).double())
    torch.testing.assert_close(beta[2:], torch.full((5,), 90.0).double())
    torch.testing.assert_close(gamma[1:], torch.tensor([90, 90, 90, 120, 120, 90]).double())
    torch.testing.assert_close(a[3:], b[3:])
    torch.testing.assert_close(b[-1], c[-1])
    assert abs(float(alpha[0]) - 90) > 1e-3
    assert abs(float(beta[1]) - 90) > 1e-3
    assert (sites.ties.abs().sum(-1) > 0).sum(-1).tolist() == [6, 4, 3, 2, 2, 2, 1]
    torch.testing.assert_close(sites.parameters(sites.conventional(parameters)), parameters)


def test_slopes_of_cells_are_derivatives() -> None:
    sites, _, parameters = random_crystals([2, 14, 62, 194, 225], 4)
    slopes = sites.lattice_slopes(parameters)
    leaf = parameters.clone().requires_grad_()
    for k in range(6):
        (gradient,) = torch.autograd.grad((sites.lattice(leaf) * slopes[:, k]).sum(), leaf)
        along = torch.einsum("bj,bj->b", gradient, sites.ties[:, k])
        torch.testing.assert_close(along, (slopes[:, k] ** 2).sum((-1, -2)), rtol=1e-5, atol=1e-9)
    assert not slopes[4, 1:].any()


@given(st.floats(0.2, 60.0))
def test_phi_is_a_length_for_every_number(length: float) -> None:
    x = torch.tensor(length, dtype=torch.float64)
    assert float(softplus(inverse_softplus(x))) == pytest.approx(length, rel=1e-9)
    assert float(softplus(torch.tensor(-30.0))) > 0


def test_images_within_the_merging_distance_are_one_atom() -> None:
    sites = sites_of([225], [[(11, None)]], [180.0])
    parameters = sites.natural()
    edge = 180 ** (1 / 3)
    on, near, off = (torch.tensor([[d, 0.0, 0.0]]).double() for d in (0.0, 0.1 / edge, 0.5 / edge))
    counts = [
        int(sites.crystals(x @ torch.linalg.inv(sites.transform[0]), parameters).n_atoms) for x in (on, near, off)
    ]
    assert counts == [1, 1, 6]


def test_the_projector_of_what_is_seen_is_how_the_centroid_of_images_moves() -> None:
    groups = [25, 99, 194, 225]
    sites = sites_of(groups, [[(11, None), (17, None)]] * 4, [300.0] * 4)
    parameters = sites.natural()
    lattice = sites.lattice(parameters)
    inverse = torch.linalg.inv(lattice)[sites.crystal]
    near = 0.05 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    frac = torch.einsum("si,sij->sj", near, inverse)  # about the origin, a special position of all of them
    seen = sites.seen(frac, lattice)
    batch, _, first = sites.images(frac, lattice)
    assert int(batch.n_atoms.sum()) < int(sites.operations[sites.crystal].sum())
    push = 1e-4 * torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved, _, _ = sites.images(frac + torch.einsum("si,sij->sj", push, inverse), lattice)
    found = wrap_centered(moved.frac_coords[first] - batch.frac_coords[first])
    found = torch.einsum("si,sij->sj", found, lattice[sites.crystal])
    torch.testing.assert_close(found, torch.einsum("sij,sj->si", seen, push), atol=1e-12, rtol=1e-6)
    torch.testing.assert_close(seen @ seen, seen)
    assert sorted(seen.diagonal(dim1=1, dim2=2).sum(-1).round().int().tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sites_know_whether_they_are_bound(dtype: torch.dtype) -> None:
    sites = sites_of([225, 62], [[(11, wyckoff_positions(225)[0]), (17, None)], [(8, None)]], [180.0, 200.0])
    sites = sites.to(dtype=dtype)
    assert sites.unbound.tolist() == [False, True, True]
    assert sites.freed(sites.volume).unbound.all()


def test_textbook_crystals_come_back_from_their_sites() -> None:
    crystals = tiny_crystals()
    data = site_crystals([to_arrays(c) for c in crystals])
    batch, _ = data.take(torch.arange(len(data)))
    sites = batch.sites.to(dtype=torch.float64)
    found = to_structures(sites.crystals(batch.frac_coords.double(), batch.parameters.double()))
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.5, scale=False)
    assert all(matcher.fit(a, b) for a, b in zip(found, crystals, strict=True))
    for a, number in zip(found, data.group.tolist(), strict=True):
        assert analyse(a.lattice.matrix, a.frac_coords, np.array(a.atomic_numbers), symprec=0.01).number == number


def test_the_graph_of_sites_has_the_edges_of_the_crystal() -> None:
    sites, frac, parameters = random_crystals([14, 62, 139, 194, 216], 5)
    batch, owner, first = sites.images(frac, sites.lattice(parameters))
    graph, vectors, fractional = sites.graph(batch, owner, first, 5.0)
    whole = radius_graph(batch, 5.0)
    few = whole.degrees()[first] <= MAX_EDGES
    assert bool(few.any())
    assert torch.equal(graph.degrees()[few], whole.degrees()[first][few])
    assert bool((graph.degrees()[~few] >= MAX_EDGES).all())
    lengths = torch.einsum("ei,eij->ej", fractional, batch.lattice[sites.crystal[graph.edge_index[0]]])
    torch.testing.assert_close(lengths, vectors)
    # equivalent atoms have equal surroundings, so nothing is lost by looking at one of them
    for site in range(len(frac)):
        assert len(set(whole.degrees()[owner == site].tolist())) == 1


def test_a_crystal_without_sites_is_refused() -> None:
    with pytest.raises(StructureError, match="has no site"):
        sites_of([1], [[]], [10.0])
