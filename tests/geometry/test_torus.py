"""Laws of the torus: wrapping and geodesics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    v = torus.wrap_centered(y - x)
    assert on_torus(torus.wrap(x + v) - y) < 1e-12
    torch.testing.assert_close(torus.wrap_centered(torus.wrap(x + v * 0.99) - x), v * 0.99)
    assert on_torus(torus.geodesic(x, y, 0.0) - x) < 1e-12
    assert on_torus(torus.geodesic(x, y, 1.0) - y) < 1e-12
    middle = torus.geodesic(x, y, torch.full((20, 1), 0.3, dtype=F64))
    torch.testing.assert_close(torus.wrap_centered(middle - x), 0.3 * v)
    # A translation of both ends moves the whole path.
    shift = noise(seed + 2, 3)
    assert (
        on_torus(torus.geodesic(torus.wrap(x + shift), torus.wrap(y + shift), 0.3) - torus.wrap(middle + shift)) < 1e-9
    )
