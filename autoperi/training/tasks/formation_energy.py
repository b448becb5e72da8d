"""Training of the formation energy: labels of relaxed crystals, half of them read from slightly deformed ones."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.models.formation_energy import FormationEnergy
from autoperi.training.tasks.base import Batch, CrystalTask, deform, weighted_error


class FormationEnergyTask(CrystalTask):
    """Formation energy in eV/atom: weighted mean absolute error.

    Half of the crystals are slightly rattled and strained and keep their label, so that the model reads the energy
    of the relaxed crystal from one that is nearly so (Gibson et al. 2022): that is what ranking candidates needs.
    """

    labelled: ClassVar[bool] = True

    def __init__(self, model: FormationEnergy, *, rattle: float = 0.03, strain: float = 0.01, **options: Any) -> None:
        super().__init__(model, **options)
        self.rattle, self.strain = rattle, strain

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        crystals, labels = batch
        generator = self.generator(batch_idx, self.current_epoch)
        noisy = torch.rand(len(crystals), generator=generator) < 0.5
        scale = noisy.to(crystals.lattice)
        moved, _ = deform(crystals, self.strain * scale, self.rattle * scale, generator)
        loss, error = self.loss_of(moved, labels)
        self.log("train_mae", error, batch_size=len(crystals))
        return loss

    def loss_of(self, moved: CrystalBatch, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of one batch, and its weighted mean absolute error, which is the loss here."""
        error = weighted_error(self.model(moved), labels)
        return error, error

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002, D102
        crystals, labels = batch
        error = (self.average(crystals) - labels["formation_energy_per_atom"]).abs()
        self.log("val_mae", error.nanmean(), batch_size=len(crystals), prog_bar=True)
