from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.geometry.lattice import metric
from autoperi.geometry.lie_algebra import ROTATION, SHAPE, VOLUME, algebra_basis, from_algebra, to_algebra
from autoperi.laws import random_orthogonal

vectors = st.lists(st.floats(-1.2, 1.2), min_size=9, max_size=9).map(lambda x: torch.tensor([x], dtype=torch.float64))


def test_the_basis_is_orthonormal_and_has_three_parts() -> None:
    basis = algebra_basis()
    torch.testing.assert_close(torch.einsum("aij,bij->ab", basis, basis), torch.eye(9, dtype=torch.float64))
    assert torch.equal(basis[ROTATION], -basis[ROTATION].mT)
    assert torch.equal(basis[SHAPE], basis[SHAPE].mT)
    torch.testing.assert_close(basis[SHAPE].diagonal(dim1=1, dim2=2).sum(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(basis[VOLUME][0], torch.eye(3, dtype=torch.float64) / 3**0.5)


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_every_vector_is_a_cell_of_the_volume_that_it_says(x: torch.Tensor) -> None:
    volume = torch.linalg.det(from_algebra(x))
    torch.testing.assert_close(volume, torch.exp(3**0.5 * x[:, 8]), rtol=1e-9, atol=0)


@settings(max_examples=50, deadline=None)
@given(vectors, st.integers(0, 10**6))
def test_a_cell_comes_back_but_for_its_orientation(x: torch.Tensor, seed: int) -> None:
    lattice = from_algebra(x)
    again = to_algebra(lattice)
    torch.testing.assert_close(metric(from_algebra(again)), metric(lattice), rtol=1e-8, atol=1e-8)
    assert not again[:, ROTATION].any()
    turned = lattice @ random_orthogonal(torch.Generator().manual_seed(seed))
    torch.testing.assert_close(to_algebra(turned), again, rtol=1e-7, atol=1e-7)


def test_a_rotation_alone_is_orthogonal() -> None:
    x = torch.zeros(1, 9, dtype=torch.float64)
    x[:, ROTATION] = torch.tensor([0.3, -1.0, 0.7])
    turn = from_algebra(x)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logarithm_of_a_cube_has_a_gradient(dtype: torch.dtype) -> None:
    cube = (4.0 * torch.eye(3, dtype=dtype)[None]).requires_grad_()
    to_algebra(cube)[:, 8].sum().backward()
    assert cube.grad is not None
    torch.testing.assert_close(cube.grad, torch.eye(3, dtype=dtype)[None] / (4 * 3**0.5))


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.tensor([[0.1, -0.2, 0.3, 0.2, -0.1, 0.3, 0.0, 0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: to_algebra(from_algebra(v)), (x,))
