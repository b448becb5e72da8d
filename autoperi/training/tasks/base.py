"""What all Lightning tasks share: optimiser, schedule and averaged weights, so that a checkpoint holds all that a
resume needs; and what several of them do to crystals and labels.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.geometry.lattice import symmetric_exp, symmetric_matrix
from autoperi.training.data import Rows
from autoperi.training.optimizer import muon
from autoperi.training.prepare import LABEL, training_crystals
from autoperi.training.request import Sources, TrainingRequest, check_optimizer, keywords

Batch = tuple[CrystalBatch, dict[str, Tensor]]


class CrystalTask(lightning.LightningModule):
    """Optimiser, cosine schedule with warm-up, and averaged weights, shared by all tasks.

    Args:
        model: the network to train.
        total_steps: optimiser steps of the whole run, where the cosine ends.
        learning_rate, weight_decay, warmup, ema: of the optimiser, the schedule and the average.
        optimizer: ``adamw``, or ``muon`` (:mod:`autoperi.training.optimizer`).
        seed: of the noise that a task draws.

    Attributes:
        labelled: whether it needs labels of formation energies.
        defaults: settings of its own where nothing is said, beside or instead of
            :data:`~autoperi.training.request.DEFAULTS`.
        holds_out: whether it sets a part of the data aside where no validation data are given.
    """

    labelled: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {}
    holds_out: ClassVar[bool] = False

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """The crystals that a run learns from, read from its tables.

        Raises:
            DataError: a table that cannot be read, or has nothing to learn from.
        """
        assert request.val is not None
        train, val = (
            training_crystals(path, label=request.label or LABEL, required=cls.labelled, max_atoms=request.max_atoms)
            for path in (request.data, request.val)
        )
        return Sources(train, val)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """What this task has to choose beside what all tasks have, with defaults."""
        shared = keywords(CrystalTask)
        return {name: value for name, value in keywords(cls).items() if name not in shared}

    @classmethod
    def check_options(cls, options: dict[str, Any], request: TrainingRequest) -> dict[str, Any]:  # noqa: ARG003
        """Options of this task, checked before any work, with those that follow from the request.

        Raises:
            RequestError: a value that makes no run.
        """
        return options

    def finish(self, data: Rows) -> None:
        """Told what it was trained on, after the last epoch."""

    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-3,
        warmup: int = 300,
        ema: float = 0.999,
        seed: int = 0,
        optimizer: str = "adamw",
    ) -> None:
        super().__init__()
        check_optimizer(optimizer)
        self.optimizer_name = optimizer
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)).requires_grad_(False)
        self.total_steps, self.warmup, self.seed = total_steps, warmup, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    @property
    def learning(self) -> nn.Module:
        """What the optimiser moves: the network, and with it any that only the training needs."""
        return self.model

    @property
    def processes(self) -> int:
        """Processes that train together, one a device."""
        return 1 if self._trainer is None else self.trainer.world_size

    def configure_optimizers(self) -> Any:  # noqa: D102
        optimizer: torch.optim.Optimizer
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer_name == "muon":
            optimizer = muon(self.learning, learning_rate=rate, weight_decay=decay)
        else:
            optimizer = torch.optim.AdamW(self.learning.parameters(), lr=rate, weight_decay=decay)

        def scale(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = min(1.0, (step - self.warmup) / max(1, self.total_steps - self.warmup))
            return 0.5 * (1 + math.cos(math.pi * done)) * 0.995 + 0.005

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002, D102
        # dropout draws from the global generator: seeded batch by batch, a resumed run draws what a straight one does
        torch.manual_seed(self.generator(batch_idx, self.current_epoch).initial_seed())

    def on_before_zero_grad(self, optimizer: Any) -> None:  # noqa: ARG002, D102
        # called once after each optimiser step
        if self.global_step > 0:
            self.average.update_parameters(self.model)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002, D102
        return batch[0].to(device=device), {k: v.to(device) for k, v in batch[1].items()}

    def place(self, batch_idx: int) -> int:
        """Place in the epoch, over all processes, of this one's batch."""
        return batch_idx if self.processes == 1 else batch_idx * self.processes + self.global_rank

    def generator(self, batch_idx: int, epoch: int) -> torch.Generator:
        """Noise of one batch: depends on seed, epoch and the batch's place alone."""
        return torch_generator(self.seed, epoch, self.place(batch_idx))

    def log(self, name: str, value: Any, **options: Any) -> None:
        """As Lightning's, a mean over the epoch, and over all processes where there are several."""
        options = {"on_step": False, "on_epoch": True, **options}
        if self.processes > 1:
            # weighted by crystals; whole numbers would be rounded when they are averaged
            options |= {"sync_dist": True, "batch_size": float(options["batch_size"])}
        super().log(name, value, **options)


def weighted_error(predicted: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """Mean absolute error of formation energies predicted for a batch, ``[B]``, by ``label_weight``; a label that is
    NaN does not count.
    """
    target, weight = labels["formation_energy_per_atom"], labels["label_weight"]
    known = torch.isfinite(target)
    error = (predicted - target.nan_to_num(0.0)).abs() * weight * known
    return error.sum() / (weight * known).sum().clamp(min=1e-6)


def deform(
    crystals: CrystalBatch, sigma: Tensor, rattle: Tensor, generator: torch.Generator
) -> tuple[CrystalBatch, Tensor]:
    """Strain L̃ = L·exp(A) with symmetric A of entries N(0, σ_b), after rattling atoms by N(0, rattle_b) Å.

    Args:
        crystals: B crystals.
        sigma: standard deviation of A's entries per crystal, ``[B]``.
        rattle: standard deviation of Cartesian displacements per crystal in Å, ``[B]``.
        generator: CPU generator.

    Returns:
        The deformed crystals and A, ``[B, 3, 3]``.
    """
    b, n = len(crystals), len(crystals.atomic_numbers)
    entries = torch.randn(b, 6, generator=generator).to(crystals.lattice) * sigma.unsqueeze(-1)
    strain = symmetric_matrix(entries)
    moves = torch.randn(n, 3, generator=generator).to(crystals.lattice) * rattle[crystals.batch].unsqueeze(-1)
    fractional = torch.einsum("ni,nij->nj", moves, torch.linalg.inv(crystals.lattice)[crystals.batch])
    moved = crystals.replace(
        lattice=crystals.lattice @ symmetric_exp(strain), frac_coords=crystals.frac_coords + fractional
    )
    return moved, strain
