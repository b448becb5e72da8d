"""Muon and AdamW as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from autoperi.errors import RequestError
from autoperi.models.formation_energy import FormationEnergy
from autoperi.training.optimizer import Joined, Muon, muon, orthogonal
from autoperi.training.tasks.formation_energy import FormationEnergyTask


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1))


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    x = torch.tensor([0, 1, 2, 3, 4])
    y = torch.tensor([[0.3], [-1.0], [2.0], [0.0], [1.0]])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_every_parameter_has_one_optimiser_and_moves():
    model = network()
    optimizer = muon(model, learning_rate=1e-2, weight_decay=0.0)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    losses = descend(model, optimizer, 60)
    assert losses[-1] < 0.2 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_matrices_go_with_muon_the_rest_with_adamw():
    model = network()
    optimizer = muon(model, learning_rate=1e-2, weight_decay=0.0)
    assert isinstance(optimizer, Joined)
    first, second = optimizer.parts
    assert [tuple(p.shape) for g in first.param_groups for p in g["params"]] == [(8, 4)]
    assert len([p for g in second.param_groups for p in g["params"]]) == len(list(model.parameters())) - 1


def test_a_scheduler_reaches_both_parts():
    optimizer = muon(network(), learning_rate=1e-2, weight_decay=0.0)
    assert isinstance(optimizer, Joined)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    assert [g["lr"] for part in optimizer.parts for g in part.param_groups] == [5e-3, 5e-3]


def test_resumed_from_its_state_it_goes_on_the_same():
    model = network()
    optimizer = muon(model, learning_rate=1e-2, weight_decay=1e-3)
    descend(model, optimizer, 5)
    twin = network()
    twin.load_state_dict(model.state_dict())
    resumed = muon(twin, learning_rate=1.0, weight_decay=0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert descend(model, optimizer, 5) == descend(twin, resumed, 5)


def test_unknown_optimiser_is_refused():
    with pytest.raises(RequestError, match=r"'sgd'.*adamw or muon"):
        FormationEnergyTask(FormationEnergy(channels=8, layers=1), total_steps=1, optimizer="sgd")


def test_the_step_is_that_of_torch():
    """But for the bfloat16 that torch goes through; wide, high and square matrices, with weight decay."""
    reference = torch.optim.Muon
    torch.manual_seed(0)
    ours = [nn.Parameter(0.1 * torch.randn(shape)) for shape in ((16, 16), (16, 16), (8, 24), (24, 8))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    first = Muon(ours, lr=2e-2, weight_decay=1e-2)
    second = reference(theirs, lr=2e-2, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 0.02 * float((a - a.mean()).abs().max())


def test_orthogonal_up_to_the_iteration():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
