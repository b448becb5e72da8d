"""Lightning tasks: one a model. Each carries its averaged weights, so that a checkpoint holds all that a resume
needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.geometry.lattice import lengths_angles, symmetric_exp, symmetric_matrix
from autoperi.models.cgcnn import Cgcnn, Neighbours
from autoperi.models.crystal_transformer import CrystalTransformer
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.training.optimizer import muon

Batch = tuple[CrystalBatch, dict[str, Tensor]]


class CrystalTask(lightning.LightningModule):
    """Optimiser, cosine schedule with warm-up, and averaged weights, shared by all tasks.

    Args:
        model: the network to train.
        total_steps: optimiser steps of the whole run, where the cosine ends.
        learning_rate, weight_decay, warmup, ema: of the optimiser, the schedule and the average.
        optimizer: ``adamw``, or ``muon`` (:mod:`autoperi.training.optimizer`).
        seed: of the noise that a task draws.
    """

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
        if optimizer not in ("adamw", "muon"):
            raise RequestError(f"optimizer {optimizer!r} is not known; choose adamw or muon")
        self.optimizer_name = optimizer
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)).requires_grad_(False)
        self.total_steps, self.learning_rate, self.weight_decay, self.warmup, self.seed = (
            total_steps,
            learning_rate,
            weight_decay,
            warmup,
            seed,
        )

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
        if self.optimizer_name == "muon":
            optimizer = muon(self.learning, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.AdamW(
                self.learning.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )

        def scale(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = min(1.0, (step - self.warmup) / max(1, self.total_steps - self.warmup))
            return 0.5 * (1 + math.cos(math.pi * done)) * 0.995 + 0.005

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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
        """As Lightning's, a mean over all processes where there are several."""
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


class FormationEnergyTask(CrystalTask):
    """Formation energy in eV/atom: weighted mean absolute error.

    Half of the crystals are slightly rattled and strained and keep their label, so that the model reads the energy
    of the relaxed crystal from one that is nearly so (Gibson et al. 2022): that is what ranking candidates needs.
    """

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
        self.log("train_mae", error, on_step=False, on_epoch=True, batch_size=len(crystals))
        return loss

    def loss_of(self, moved: CrystalBatch, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of one batch, and its weighted mean absolute error, which is the loss here."""
        error = weighted_error(self.model(moved), labels)
        return error, error

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002, D102
        crystals, labels = batch
        error = (self.average(crystals) - labels["formation_energy_per_atom"]).abs()
        self.log("val_mae", error.nanmean(), batch_size=len(crystals), prog_bar=True)


class NeighbourTask(CrystalTask):
    """Formation energy in eV/atom by a network of nearest neighbours: weighted mean absolute error on the crystals as
    they are.

    The crystals never change, so the edges of each are found in the first epoch and kept (about 6 kB a crystal).
    """

    def __init__(self, model: Cgcnn | CrystalTransformer, **options: Any) -> None:
        super().__init__(model, **options)
        self._edges: dict[tuple[str, int], Neighbours] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002, D102
        crystals, labels = batch
        loss = weighted_error(self.model(crystals, self._neighbours("train", *batch)), labels)
        self.log("train_mae", loss, on_step=False, on_epoch=True, batch_size=len(crystals))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002, D102
        crystals, labels = batch
        error = (self.average(crystals, self._neighbours("val", *batch)) - labels["formation_energy_per_atom"]).abs()
        self.log("val_mae", error.nanmean(), batch_size=len(crystals), prog_bar=True)

    def _neighbours(self, stage: str, crystals: CrystalBatch, labels: dict[str, Tensor]) -> Neighbours:
        keys = [(stage, row) for row in labels["row"].tolist()]
        if any(key not in self._edges for key in keys):
            found: Neighbours = self.model.neighbours(crystals)  # type: ignore[operator]
            sizes = torch.bincount(crystals.batch[found.centre], minlength=len(crystals)).tolist()
            start = crystals.offsets[crystals.batch[found.centre]]
            local = found._replace(centre=(found.centre - start).short(), neighbour=(found.neighbour - start).short())
            parts = zip(*(column.cpu().split(sizes) for column in local), strict=True)
            # clones, because a view would keep the whole batch alive
            self._edges |= {key: Neighbours(*(t.clone() for t in part)) for key, part in zip(keys, parts, strict=True)}
        every = [self._edges[key] for key in keys]
        device = crystals.lattice.device
        shift = torch.repeat_interleave(crystals.offsets, torch.tensor([len(e.centre) for e in every], device=device))
        joined = Neighbours(*(torch.cat(column).to(device) for column in zip(*every, strict=True)))
        return joined._replace(centre=joined.centre.long() + shift, neighbour=joined.neighbour.long() + shift)


class CgcnnTask(NeighbourTask):
    """The same for CGCNN.

    After the last epoch the statistics of batch normalisation are taken anew over the training crystals with the
    averaged weights: those gathered on the way belong to the last few batches and to other weights.
    """

    def on_train_end(self) -> None:  # noqa: D102
        fit_statistics(
            self.average.module,
            ((crystals.to(device=self.device), labels) for crystals, labels in self.trainer.train_dataloader),
        )


def fit_statistics(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Put the mean statistics of ``batches`` into every batch normalisation of ``model`` (Izmailov et al. 2018, for
    averaged weights).
    """
    update_bn(((crystals,) for crystals, _ in batches), model)


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
        noisy, strain = deform(
            crystals, sigma, rattle * (torch.rand(len(crystals), generator=generator) < 0.5), generator
        )
        predicted = self.model(noisy)
        exponent = (predicted + strain).abs().mean()
        lengths, angles = lengths_angles(noisy.lattice @ symmetric_exp(predicted))
        true_lengths, true_angles = lengths_angles(crystals.lattice)
        size = crystals.volume.pow(1 / 3).unsqueeze(-1)
        parameters = ((lengths - true_lengths).abs() / size).mean() + torch.deg2rad((angles - true_angles).abs()).mean()
        loss = exponent + parameters
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(crystals))
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
