"""Laws of the torus: wrapping, geodesics, nearest images, translations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.geometry import lattice as lat
from autoperi.geometry import torus

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)


def noise(seed: int, *shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def on_torus(d: torch.Tensor) -> torch.Tensor:
    return (d - d.round()).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_wrap_stays_inside_even_for_tiny_negatives(dtype: torch.dtype) -> None:
    x = torch.cat(
        [noise(0, 1000, dtype=dtype) * 5, torch.tensor([-1e-20, -1e-9, 1.0, -1.0, 0.0, 0.5, -0.5, 1.5], dtype=dtype)]
    )
    w, c = torus.wrap(x), torus.wrap_centered(x)
    assert ((w >= 0) & (w < 1)).all()
    assert ((c >= -0.5) & (c < 0.5)).all()
    assert on_torus(w - x) < 1e-6
    assert on_torus(c - x) < 1e-6
    assert torch.equal(torus.wrap(w), w)
    assert torch.equal(torus.wrap_centered(c), c)


def test_gradient_of_wrapping_is_the_identity() -> None:
    x = (noise(1, 20) * 3).requires_grad_()
    for wrap in (torus.wrap, torus.wrap_centered):
        (grad,) = torch.autograd.grad(wrap(x).sum(), x)
        assert torch.equal(grad, torch.ones_like(x))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_geodesics(seed: int) -> None:
    x, y = torus.wrap(noise(seed, 20, 3)), torus.wrap(noise(seed + 1, 20, 3))
    v = torus.log_map(x, y)
    assert on_torus(torus.exp_map(x, v) - y) < 1e-12
    torch.testing.assert_close(torus.log_map(x, torus.exp_map(x, v * 0.99)), v * 0.99)
    assert on_torus(torus.geodesic(x, y, 0.0) - x) < 1e-12
    assert on_torus(torus.geodesic(x, y, 1.0) - y) < 1e-12
    middle = torus.geodesic(x, y, torch.full((20, 1), 0.3, dtype=F64))
    torch.testing.assert_close(torus.log_map(x, middle), 0.3 * v)
    # A translation of both ends moves the whole path.
    shift = noise(seed + 2, 3)
    assert (
        on_torus(torus.geodesic(torus.wrap(x + shift), torus.wrap(y + shift), 0.3) - torus.wrap(middle + shift)) < 1e-9
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_minimum_image_is_the_nearest_in_any_basis(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    cell = 4 * lat.symmetric_exp(lat.random_strain(g, 0.4, 4))
    skew = lat.random_unimodular(g, 4, steps=5)
    batch = torch.arange(4).repeat_interleave(10)
    d = noise(seed, 40, 3) * 2
    nearest = torus.minimum_image(d, cell, batch=batch)
    steps = torch.arange(-4, 5, dtype=F64)
    reduced, transform = lat.niggli_reduce(cell)
    centred = torus.wrap_centered(torch.einsum("ei,eij->ej", d, lat.inverse_unimodular(transform).to(F64)[batch]))
    images = centred[:, None] + torch.cartesian_prod(steps, steps, steps)
    brute = torch.linalg.vector_norm(torch.einsum("esi,eij->esj", images, reduced[batch]), dim=-1).min(1).values
    length = torch.linalg.vector_norm(torch.einsum("ei,eij->ej", nearest, cell[batch]), dim=-1)
    torch.testing.assert_close(length, brute, rtol=1e-9, atol=1e-9)
    assert on_torus(nearest - d) < 1e-9
    in_skewed = torch.einsum("ei,eij->ej", d, lat.inverse_unimodular(skew).to(F64)[batch])
    skewed_cell = skew.to(F64) @ cell
    other = torch.einsum("ei,eij->ej", torus.minimum_image(in_skewed, skewed_cell, batch=batch), skewed_cell[batch])
    torch.testing.assert_close(torch.linalg.vector_norm(other, dim=-1), brute, rtol=1e-8, atol=1e-8)


def test_minimum_image_of_a_skewed_cell_beats_wrapping() -> None:
    cell = torch.tensor([[1.0, 0, 0], [4.4, 1, 0], [0, 0, 1]], dtype=F64)
    d = torch.tensor([[0.3, 0.45, 0.1]], dtype=F64, requires_grad=True)
    best = torus.minimum_image(d, cell)
    assert torch.linalg.vector_norm(best @ cell) < torch.linalg.vector_norm(torus.wrap_centered(d) @ cell) - 0.5
    (grad,) = torch.autograd.grad(best.sum(), d)
    assert torch.equal(grad, torch.ones_like(d))
    assert torus.minimum_image(torch.zeros(0, 3, dtype=F64), cell).shape == (0, 3)
    per_edge = torus.minimum_image(d.detach().repeat(3, 1), cell.expand(3, 3, 3))
    torch.testing.assert_close(per_edge, best.detach().repeat(3, 1))
    cube = torch.eye(3, dtype=torch.float32)
    torch.testing.assert_close(
        torus.minimum_image(torch.tensor([[0.7, -0.6, 2.2]]), cube, reduce=False), torch.tensor([[-0.3, 0.4, 0.2]])
    )


def test_mean_free_removes_each_crystal_s_translation() -> None:
    batch = torch.tensor([0, 0, 0, 2, 2])
    v = noise(3, 5, 3)
    w = torus.mean_free(v, batch, n_crystals=3)
    assert w[:3].mean(0).abs().max() < 1e-14
    assert w[3:].mean(0).abs().max() < 1e-14
    torch.testing.assert_close(torus.mean_free(v + torch.tensor([1.0, 2, 3], dtype=F64), batch), w)
    assert torus.mean_free(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0, 3)


def test_circular_mean_follows_translations() -> None:
    batch = torch.tensor([0, 0, 0, 1, 1])
    x = torus.wrap(0.02 * noise(4, 5, 3))
    mean = torus.circular_mean(x, batch)
    shift = noise(5, 3)
    moved = torus.circular_mean(torus.wrap(x + shift), batch, n_crystals=2)
    assert on_torus(moved - mean - shift) < 1e-12
    assert on_torus(mean) < 0.1
