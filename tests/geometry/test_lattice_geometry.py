"""Laws of lattices: log-metric coordinates, cell parameters, reduction, changes of basis."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry import lattice as lat
from autoperi.geometry import reduction

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)


def cells(seed: int, n: int = 8, dtype: torch.dtype = F64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    strain = lat.random_strain(g, 0.3, n)
    rotation = torch.linalg.qr(torch.randn(n, 3, 3, generator=g, dtype=F64))[0]
    return (4.5 * lat.symmetric_exp(strain) @ rotation).to(dtype)


def crystal(seed: int, n_atoms: int = 5) -> CrystalBatch:
    g = torch.Generator().manual_seed(seed)
    frac = torch.rand(3, n_atoms, 3, generator=g, dtype=F64)
    return CrystalBatch.from_list(
        [(c, x, torch.arange(1, n_atoms + 1)) for c, x in zip(cells(seed, 3), frac, strict=True)]
    )


def distances(batch: CrystalBatch, reach: int) -> list[torch.Tensor]:
    """The shortest distances from the first atom to any image of any atom, sorted: the same for every basis."""
    steps = torch.arange(-reach, reach + 1, dtype=F64)
    images = torch.cartesian_prod(steps, steps, steps)
    found = []
    for cell, x, _ in batch.unbatch():
        d = ((x - x[0])[:, None] + images) @ cell
        found.append(torch.linalg.vector_norm(d, dim=-1).flatten().sort().values[:12])
    return found


SPECIAL = torch.stack(
    [
        4 * torch.eye(3, dtype=F64),
        torch.diag(torch.tensor([3.0, 3.0, 5.0], dtype=F64)),
        torch.tensor([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]], dtype=F64),
        torch.tensor([[3.0, 0, 0], [-1.5, 1.5 * math.sqrt(3), 0], [0, 0, 5]], dtype=F64),
        torch.diag(torch.tensor([3.0, 3.0 + 1e-7, 5.0], dtype=F64)),
        torch.tensor([[3.0, 0.2, 0.1], [0.4, 4.1, 0.3], [0.5, 0.7, 5.3]], dtype=F64),
    ]
)


# --- log-metric coordinates


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_log_metric_round_trip(seed: int) -> None:
    cell = cells(seed)
    k = lat.to_log_metric(cell)
    back = lat.from_log_metric(k)
    torch.testing.assert_close(lat.metric(back), lat.metric(cell), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lat.to_log_metric(back), k, rtol=0, atol=1e-10)
    torch.testing.assert_close(back, back.mT)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_log_metric_volume_and_rotations(seed: int) -> None:
    cell = cells(seed)
    k = lat.to_log_metric(cell)
    torch.testing.assert_close(torch.exp(math.sqrt(3) * k[:, 0]), torch.linalg.det(cell).abs(), rtol=1e-10, atol=0)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64))[0]
    torch.testing.assert_close(lat.to_log_metric(cell @ q), k, rtol=0, atol=1e-10)


def test_log_metric_shape_of_a_cube_is_zero() -> None:
    k = lat.to_log_metric(SPECIAL[:1])
    torch.testing.assert_close(k[:, 1:], torch.zeros(1, 5, dtype=F64), rtol=0, atol=1e-12)


def test_basis_is_orthonormal_and_coordinates_invert() -> None:
    basis = lat.log_metric_basis()
    torch.testing.assert_close(torch.einsum("kij,lij->kl", basis, basis), torch.eye(6, dtype=F64))
    torch.testing.assert_close(basis[0], torch.eye(3, dtype=F64) / math.sqrt(3))
    assert basis[1:].diagonal(dim1=1, dim2=2).sum(-1).abs().max() < 1e-15
    k = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lat.to_symmetric_coords(lat.from_symmetric_coords(k)), k)


def test_float32_keeps_its_digits_and_dtype() -> None:
    cell = cells(3, dtype=torch.float32)
    k = lat.to_log_metric(cell)
    assert k.dtype == torch.float32
    torch.testing.assert_close(k.double(), lat.to_log_metric(cell.double()), rtol=0, atol=2e-6)
    back = lat.from_log_metric(k)
    assert back.dtype == torch.float32
    torch.testing.assert_close(lat.metric(back), lat.metric(cell), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("index", range(len(SPECIAL)))
def test_gradients_hold_at_equal_eigenvalues(index: int) -> None:
    cell = SPECIAL[index : index + 1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lat.to_log_metric, (cell,))
    assert torch.autograd.gradgradcheck(lat.to_log_metric, (cell,))
    k = lat.to_log_metric(cell).detach().requires_grad_()
    assert torch.autograd.gradcheck(lat.from_log_metric, (k,))
    assert torch.autograd.gradcheck(lat.lengths_angles, (cell,))


def test_both_backward_paths_agree() -> None:
    cell = torch.cat([SPECIAL, cells(5)]).requires_grad_()
    weight = torch.randn(len(cell), 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    (fast,) = torch.autograd.grad((lat.to_log_metric(cell) * weight).sum(), cell)
    (graph,) = torch.autograd.grad((lat.to_log_metric(cell) * weight).sum(), cell, create_graph=True)
    torch.testing.assert_close(fast, graph.detach(), rtol=1e-9, atol=1e-10)


def test_random_strain_is_symmetric_seeded_and_scaled() -> None:
    a = lat.random_strain(torch.Generator().manual_seed(1), 0.1, 4000)
    b = lat.random_strain(torch.Generator().manual_seed(1), 0.1, 4000)
    assert torch.equal(a, b)
    assert torch.equal(a, a.mT)
    assert (a.std(0) - 0.1).abs().max() < 0.01
    torch.testing.assert_close(torch.linalg.det(lat.symmetric_exp(a)), torch.exp(a.diagonal(dim1=1, dim2=2).sum(-1)))


# --- cell parameters


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_lengths_angles_round_trip(seed: int) -> None:
    cell = cells(seed)
    back = lat.from_lengths_angles(*lat.lengths_angles(cell))
    torch.testing.assert_close(lat.metric(back), lat.metric(cell), rtol=1e-9, atol=1e-9)
    assert (torch.linalg.det(back) > 0).all()


def test_angles_sit_where_they_are_named() -> None:
    lengths, angles = torch.tensor([[3.0, 4.0, 5.0]], dtype=F64), torch.tensor([[80.0, 95.0, 120.0]], dtype=F64)
    cell = lat.from_lengths_angles(lengths, angles)
    a, b, c = cell[0]
    assert math.isclose(float(b @ c), 20 * math.cos(math.radians(80)), abs_tol=1e-12)
    assert math.isclose(float(a @ c), 15 * math.cos(math.radians(95)), abs_tol=1e-12)
    assert math.isclose(float(a @ b), 12 * math.cos(math.radians(120)), abs_tol=1e-12)
    torch.testing.assert_close(lat.lengths_angles(cell)[1], angles)


@pytest.mark.parametrize(
    ("lengths", "angles"), [((3.0, 4.0, -5.0), (90.0, 90.0, 90.0)), ((3.0, 4.0, 5.0), (30.0, 30.0, 90.0))]
)
def test_impossible_cells_are_refused(lengths: tuple, angles: tuple) -> None:
    with pytest.raises(StructureError, match="angles"):
        lat.from_lengths_angles(torch.tensor([lengths]), torch.tensor([angles]))


# --- reduction and changes of basis


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_niggli_is_unimodular_and_forgets_the_basis(seed: int) -> None:
    cell = cells(seed)
    skew = lat.random_unimodular(torch.Generator().manual_seed(seed), len(cell), steps=8)
    reduced, transform = reduction.niggli_reduce(skew.to(F64) @ cell)
    assert transform.dtype == torch.long
    assert (torch.linalg.det(transform.to(F64)).round() == 1).all()
    torch.testing.assert_close(reduced, transform.to(F64) @ skew.to(F64) @ cell, rtol=1e-12, atol=1e-12)
    lengths, _ = lat.lengths_angles(reduced)
    torch.testing.assert_close(lengths, lat.lengths_angles(reduction.niggli_reduce(cell)[0])[0], rtol=1e-8, atol=1e-8)
    assert (lengths.diff(dim=-1) > -1e-8).all()


def test_niggli_of_extreme_cells_and_both_hands() -> None:
    cell = torch.tensor([[[1.0, 0, 0], [500.3, 1, 0], [-777.2, 345.1, 1]]], dtype=F64)
    for hand in (1.0, -1.0):
        reduced, transform = reduction.niggli_reduce(cell * torch.tensor([hand, 1, 1], dtype=F64)[:, None])
        assert torch.linalg.det(transform.to(F64)[0]).round() == 1
        assert torch.sign(torch.linalg.det(reduced[0])) == hand
        assert lat.lengths_angles(reduced)[0].max() < 2


def test_niggli_keeps_gradients_dtype_and_refuses_flat_cells() -> None:
    cell = cells(1, dtype=torch.float32).requires_grad_()
    reduced, transform = reduction.niggli_reduce(cell)
    assert reduced.dtype == torch.float32
    (grad,) = torch.autograd.grad(reduced.sum(), cell)
    torch.testing.assert_close(grad, transform.sum(1).to(grad)[..., None].expand_as(grad))
    assert reduction.niggli_reduce(torch.zeros(0, 3, 3))[0].shape == (0, 3, 3)
    for bad in (torch.zeros(1, 3, 3), torch.full((1, 3, 3), math.nan)):
        with pytest.raises(StructureError, match="lattice 0"):
            reduction.niggli_reduce(bad)


def test_minkowski_fallback_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    import spglib

    cell = cells(4)
    skewed = lat.random_unimodular(torch.Generator().manual_seed(4), len(cell), steps=8).to(F64) @ cell
    expected = lat.lengths_angles(reduction.niggli_reduce(cell)[0])[0]
    monkeypatch.setattr(spglib, "niggli_reduce", lambda *_, **__: None)
    reduced, transform = reduction.niggli_reduce(skewed)
    assert (torch.linalg.det(transform.to(F64)).round() == 1).all()
    torch.testing.assert_close(lat.lengths_angles(reduced)[0].sort().values, expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_change_basis_and_reduction_keep_the_crystal(seed: int) -> None:
    batch = crystal(seed)
    transform = lat.random_unimodular(torch.Generator().manual_seed(seed), 3, steps=3)
    moved = lat.change_basis(batch, transform)
    for a, b in zip(distances(batch, 4), distances(reduction.reduce_crystal(moved), 4), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    undone = lat.change_basis(moved, lat.inverse_unimodular(transform))
    torch.testing.assert_close(undone.lattice, batch.lattice)
    difference = undone.frac_coords - batch.frac_coords
    assert (difference - difference.round()).abs().max() < 1e-10


def test_random_unimodular_is_in_sl3z_and_seeded() -> None:
    a = lat.random_unimodular(torch.Generator().manual_seed(2), 200, steps=6)
    assert (torch.linalg.det(a.to(F64)).round() == 1).all()
    assert torch.equal(a, lat.random_unimodular(torch.Generator().manual_seed(2), 200, steps=6))
    assert torch.equal(lat.inverse_unimodular(a) @ a, torch.eye(3, dtype=torch.long).expand_as(a))
    with pytest.raises(StructureError, match="determinant 2"):
        lat.inverse_unimodular(torch.diag(torch.tensor([2, 1, 1])))


def test_supercell_repeats_atoms_and_volume() -> None:
    batch = crystal(7)
    large = lat.supercell(batch, (2, 1, 3))
    torch.testing.assert_close(large.volume, 6 * batch.volume)
    assert large.n_atoms.tolist() == [30, 30, 30]
    assert large.atomic_numbers[:5].tolist() == [1, 2, 3, 4, 5]
    for a, b in zip(distances(batch, 4), distances(large, 3), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    with pytest.raises(StructureError, match="below 1"):
        lat.supercell(batch, (0, 1, 1))
