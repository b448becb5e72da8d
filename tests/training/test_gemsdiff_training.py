"""The losses of GemsDiff: equations 15 and 20 of Klipfel et al. (AAAI 2024)."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import change_basis, random_unimodular
from autoperi.geometry.reduction import niggli_reduce
from autoperi.laws import random_orthogonal
from autoperi.models.gemsdiff import GemsDiff
from autoperi.processes.diffusion import Prediction
from autoperi.training.coupling import nearest_ways
from autoperi.training.data import TensorCrystals
from autoperi.training.tasks.gemsdiff import GemsDiffTask, in_niggli_cells, parameter_error

SMALL: dict[str, Any] = {"channels": 8, "encoder_layers": 1, "layers": 1, "hidden": 8, "knn": 8}
MODES = [{}, {"decode": "cell"}, {"lattice": "none"}, {"lattice": "log_metric", "decode": "cell"}]


def crystals(n: int = 6) -> CrystalBatch:
    g = torch.Generator().manual_seed(0)
    lattice = 4 * torch.eye(3) + 0.4 * torch.randn(n, 3, 3, generator=g)
    return CrystalBatch(lattice, torch.rand(3 * n, 3, generator=g), torch.full((3 * n,), 8), torch.full((n,), 3))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_network_that_knows_the_crystals_has_no_loss_and_another_has(mode: dict[str, str], weighted: bool) -> None:
    torch.manual_seed(0)
    network, batch = GemsDiff(**SMALL, **mode), crystals()
    task = GemsDiffTask(network, total_steps=10, weighted=weighted)
    unit = network.unit(batch).float()
    kept: dict[str, Any] = {}
    noised = network.process.noised

    def remembered(*args: Any) -> Any:
        kept["state"], kept["way"] = noised(*args)
        return kept["state"], kept["way"]

    def known(*_: Any) -> Prediction:
        return Prediction(batch.lattice / unit[:, None, None], kept["way"], unit)

    with patch.object(network.process, "noised", remembered), patch.object(network, "predict", known):
        for loss in task.losses(network, batch, torch.Generator().manual_seed(1)):
            assert float(loss.detach()) < 1e-6
    losses = task.losses(network, batch, torch.Generator().manual_seed(1))
    assert all(float(loss.detach()) > 1e-5 for loss in losses)
    sum(losses).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in network.field_head.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) and bool(g.any()) for g in gradients)


def test_the_loss_of_cells_knows_no_orientation() -> None:
    one, other = crystals().lattice.double(), crystals().lattice.double().flip(0)
    turn = random_orthogonal(torch.Generator().manual_seed(0))
    torch.testing.assert_close(parameter_error(one @ turn, other), parameter_error(one, other))
    assert float(parameter_error(one, other)) > 0.1
    assert float(parameter_error(one @ turn, one)) < 1e-12


def test_training_sees_niggli_cells_of_the_same_crystals() -> None:
    batch = crystals()
    other = change_basis(batch, random_unimodular(torch.Generator().manual_seed(0), len(batch), steps=6))
    found, again = (in_niggli_cells(TensorCrystals(b, {})).crystals for b in (batch, other))
    torch.testing.assert_close(found.lattice @ found.lattice.mT, again.lattice @ again.lattice.mT, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(niggli_reduce(found.lattice.double())[1], torch.eye(3).long().expand(len(batch), 3, 3))


def test_defaults_are_those_of_table_1() -> None:
    assert GemsDiffTask.defaults == {"epochs": 512, "batch_size": 128, "learning_rate": 1e-3, "ema": 0.995}
    config = GemsDiff(**{k: v for k, v in SMALL.items() if k != "knn"}).config
    assert (config["knn"], config["lattice_beta"], config["position_beta"]) == (32, [1e-5, 1e-1], [1e-6, 2e-3])
    assert config["lattice"] == "algebra"
    assert config["decode"] == "cube"


def test_nearest_ways_exchange_equal_atoms_and_shift_the_origin() -> None:
    g = torch.Generator().manual_seed(0)
    end, numbers, sizes = torch.rand(9, 3, generator=g), torch.tensor([8, 8, 8, 8, 3, 3, 8, 8, 8]), torch.tensor([6, 3])
    moved = (end + 0.3 + 0.01 * torch.randn(9, 3, generator=g)) % 1
    order = torch.tensor([2, 0, 3, 1, 5, 4, 8, 6, 7])
    way = nearest_ways(moved[order], end, numbers, sizes)
    assert float(way.abs().max()) < 0.05
    torch.testing.assert_close(way[:6].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    # the atoms arrive at the crystal, in another order and at another origin
    arrived = moved[order] + way
    for rows in (slice(0, 4), slice(4, 6), slice(6, 9)):
        shift = (arrived[rows][:, None] - end[rows][None] - 0.3 + 0.5) % 1 - 0.5
        assert float(shift.abs().amin(1).max()) < 0.05
    other = torch.where(torch.arange(9) == 4, 9, numbers)
    assert float(nearest_ways(moved[order], end, other, sizes).abs().max()) > 0.05  # unequal atoms are not exchanged


def test_other_ends_are_refused() -> None:
    with pytest.raises(RequestError, match="ends='far' is not known; choose given or nearest"):
        GemsDiffTask(GemsDiff(**SMALL), total_steps=1, ends="far")
