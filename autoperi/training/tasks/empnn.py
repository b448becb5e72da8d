"""Training of EMPNN: lattice denoising (Klipfel et al., AAAI 2023, section 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoperi.data.random import torch_generator
from autoperi.geometry.lattice import lengths_angles, symmetric_exp
from autoperi.models.empnn import Empnn
from autoperi.training.tasks.base import Batch, CrystalTask, deform


class EmpnnTask(CrystalTask):
    """Lattice denoising (EMPNN, section 6): L̃ = L·exp(A), A symmetric with entries N(0, σ), σ uniform in (0, σ_max].

    Because A is symmetric, the exact answer to L̃ is the exponent -A. The loss is the mean absolute error of that
    exponent plus that of the normalised lattice parameters (lengths over (V)^(1/3), angles in radians; Table 1).
    """

    def __init__(self, model: Empnn, *, sigma_max: float = 0.2, rattle: float = 0.05, **options: Any) -> None:
        super().__init__(model, **options)
        self.sigma_max, self.rattle = sigma_max, rattle

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        crystals, _ = batch
        generator = self.generator(batch_idx, self.current_epoch)
        sigma = self.sigma_max * torch.rand(len(crystals), generator=generator).to(crystals.lattice)
        rattle = self.rattle * torch.rand(len(crystals), generator=generator).to(crystals.lattice)
        rattled = torch.rand(len(crystals), generator=generator) < 0.5
        noisy, strain = deform(crystals, sigma, rattle * rattled, generator)
        predicted = self.model(noisy)
        exponent = (predicted + strain).abs().mean()
        lengths, angles = lengths_angles(noisy.lattice @ symmetric_exp(predicted))
        true_lengths, true_angles = lengths_angles(crystals.lattice)
        size = crystals.volume.pow(1 / 3).unsqueeze(-1)
        parameters = ((lengths - true_lengths).abs() / size).mean() + torch.deg2rad((angles - true_angles).abs()).mean()
        loss = exponent + parameters
        self.log("train_loss", loss, batch_size=len(crystals))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        crystals, _ = batch
        sigma = torch.full((len(crystals),), 0.1).to(crystals.lattice)
        noisy, _ = deform(crystals, sigma, 0 * sigma, torch_generator(self.seed, 2**31, self.place(batch_idx)))
        true = lengths_angles(crystals.lattice)
        before = lengths_angles(noisy.lattice)
        after = lengths_angles(noisy.lattice @ symmetric_exp(self.average(noisy)))
        for name, k in (("lengths", 0), ("angles", 1)):
            ratio = (after[k] - true[k]).abs().mean() / (before[k] - true[k]).abs().mean()
            self.log(f"val_{name}_left", ratio, batch_size=len(crystals), prog_bar=True)
