"""Losses between lattices: invariances, closed forms, gradients against finite differences, safe corners."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_losses import (
    LOSSES,
    lattice_loss,
    metric_mae,
    metric_mse,
    parameters_mae,
    parameters_mse,
    riemann,
)

from autoperi.errors import RequestError
from autoperi.geometry.lattice import random_strain, random_unimodular, symmetric_exp, to_log_metric
from autoperi.laws import random_orthogonal

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)


def pair(seed: int, n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    turn = torch.stack([random_orthogonal(g) for _ in range(n)])
    true = 5 * symmetric_exp(random_strain(g, 0.2, n)) @ turn
    return true @ symmetric_exp(random_strain(g, 0.1, n)), true, g


@pytest.mark.parametrize("name", list(LOSSES))
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_orientation_does_not_matter(name: str, seed: int) -> None:
    predicted, true, g = pair(seed)
    found = LOSSES[name](predicted @ random_orthogonal(g), true @ random_orthogonal(g))
    torch.testing.assert_close(found, LOSSES[name](predicted, true), rtol=1e-9, atol=1e-9)
    assert bool((found > 1e-4).all())


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_riemann_is_a_metric_that_no_basis_changes(seed: int) -> None:
    predicted, true, g = pair(seed)
    t = random_unimodular(g, len(true)).to(F64)
    expected = riemann(predicted, true)
    torch.testing.assert_close(riemann(t @ predicted, t @ true), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(riemann(true, predicted), expected, rtol=1e-8, atol=1e-9)
    between = true @ symmetric_exp(random_strain(g, 0.2, len(true)))
    assert bool((expected <= riemann(predicted, between) + riemann(between, true) + 1e-9).all())
    # the other losses do see the basis, as the paper says
    assert not torch.allclose(metric_mae(t @ predicted, t @ true), metric_mae(predicted, true)) or bool(
        (t.abs().sum((1, 2)) == 3).all()
    )


def test_closed_forms() -> None:
    cube = 4 * torch.eye(3, dtype=F64).expand(1, 3, 3)
    grown = cube * 1.1
    torch.testing.assert_close(riemann(grown, cube), torch.tensor([2 * math.sqrt(3) * math.log(1.1)], dtype=F64))
    torch.testing.assert_close(
        parameters_mae(grown, cube), torch.tensor([0.05], dtype=F64)
    )  # three lengths by a tenth, no angle
    torch.testing.assert_close(parameters_mse(grown, cube), torch.tensor([0.005], dtype=F64))
    torch.testing.assert_close(metric_mae(grown, cube), torch.tensor([16 * 0.21 / 3], dtype=F64))
    torch.testing.assert_close(metric_mse(grown, cube), torch.tensor([(16 * 0.21) ** 2 / 3], dtype=F64))
    sheared = torch.tensor([[[4.0, 0, 0], [4 * math.cos(1.3), 4 * math.sin(1.3), 0], [0, 0, 4]]], dtype=F64)
    torch.testing.assert_close(parameters_mae(sheared, cube), torch.tensor([(math.pi / 2 - 1.3) / 6], dtype=F64))


def test_riemann_of_cells_is_the_distance_of_log_metrics_where_they_commute() -> None:
    a, b = (
        torch.diag(torch.tensor([3.0, 4, 5], dtype=F64))[None],
        torch.diag(torch.tensor([3.3, 3.9, 7], dtype=F64))[None],
    )
    torch.testing.assert_close(riemann(a, b), 2 * torch.linalg.vector_norm(to_log_metric(a) - to_log_metric(b), dim=-1))


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_equal_finite_differences(name: str) -> None:
    predicted, true, _ = pair(3, 2)
    cube = 4 * torch.eye(3, dtype=F64)[None]
    turned = cube @ random_orthogonal(torch.Generator().manual_seed(1))
    cells = torch.cat([predicted, 1.1 * turned, 0.8 * cube])  # the last two have three equal eigenvalues
    targets = torch.cat([true, cube, cube])
    if name == "parameters_mae":  # equal angles are a corner of the absolute value
        cells, targets = cells[:2], targets[:2]
    if name == "metric_mae":
        cells, targets = cells[:2], targets[:2]
    moving = cells.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, targets), (moving,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", list(LOSSES))
def test_zero_with_a_finite_gradient_at_the_answer(name: str, dtype: torch.dtype) -> None:
    cells = torch.cat([torch.eye(3)[None] * 4, torch.diag(torch.tensor([3.0, 3, 5]))[None], pair(5)[1].float()]).to(
        dtype
    )
    moving = cells.clone().requires_grad_()
    loss = LOSSES[name](moving, cells)
    assert float(loss.detach().abs().max()) < (1e-5 if dtype == F64 else 2e-5)
    loss.sum().backward()
    assert moving.grad is not None
    assert bool(torch.isfinite(moving.grad).all())
    cubic = torch.eye(3, dtype=dtype)[None] * 4
    start = cubic.clone().requires_grad_()
    LOSSES[name](start, cubic).sum().backward()
    assert start.grad is not None
    assert float(start.grad.abs().max()) == 0  # exactly representable, so exactly at the corner


@pytest.mark.parametrize("name", list(LOSSES))
def test_descent_finds_the_cell(name: str) -> None:
    predicted, true, _ = pair(11, 3)
    strain = torch.zeros(3, 3, 3, dtype=F64, requires_grad=True)
    optimiser = torch.optim.Adam([strain], lr=0.01)
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / 300)
        optimiser.zero_grad()
        LOSSES[name](predicted @ symmetric_exp(strain), true).sum().backward()
        optimiser.step()
    assert float(riemann((predicted @ symmetric_exp(strain)).detach(), true).max()) < 1e-2


def test_unknown_loss() -> None:
    with pytest.raises(RequestError, match=r"'rieman'.*riemann"):
        lattice_loss("rieman")
    assert lattice_loss("riemann") is riemann
