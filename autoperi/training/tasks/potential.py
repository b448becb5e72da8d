"""Training of the potential: frames with energies, forces and stresses, from the teacher and from DFT sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.models.potential import Potential
from autoperi.training.data import Rows, TensorCrystals
from autoperi.training.frames import ENERGY, FORCES, STRESS, frames
from autoperi.training.request import Sources, TrainingRequest
from autoperi.training.tasks.base import Batch, CrystalTask
from autoperi.units import EV_PER_A3_IN_GPA, MAX_ATOMIC_NUMBER


class PotentialTask(CrystalTask):
    """Energies, forces and stresses: weighted mean absolute errors.

    loss = w_E mean|ΔE|/N + w_F mean‖ΔF‖ + w_σ mean|Δσ|, energies in eV/atom, forces in eV/Å, stresses in eV/Å³.

    All energies must be on one scale; :func:`element_constants` of the differences brings another source onto it.
    """

    def __init__(
        self,
        model: Potential,
        *,
        energy_weight: float = 2.0,
        force_weight: float = 1.0,
        stress_weight: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.weights = (energy_weight, force_weight, stress_weight)

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Frames with forces, and the constants of the elements that explain their energies best."""
        assert request.val is not None
        train, val = (frames(path, max_atoms=request.max_atoms) for path in (request.data, request.val))
        return Sources(train, val, {"reference": element_constants(train.crystals, train.labels[ENERGY]).float()})

    def finish(self, data: Rows) -> None:
        """The network knows the elements of these frames and no others."""
        assert isinstance(data, TensorCrystals)
        for network in (self.model, self.average.module):
            assert isinstance(network, Potential)
            network.set_seen(data.crystals.atomic_numbers)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002, D102
        crystals, labels = batch
        found = self.model(crystals, create_graph=True)
        sizes = crystals.n_atoms.to(found.energy.dtype)
        energy = ((found.energy - labels[ENERGY].to(found.energy.dtype)) / sizes).abs()
        energy = energy.nansum() / torch.isfinite(energy).sum().clamp(min=1)
        forces = torch.linalg.vector_norm(found.forces - labels[FORCES], dim=-1).mean()
        stress = (found.stress - labels[STRESS]).abs()
        stress = stress.nansum() / torch.isfinite(stress).sum().clamp(min=1)
        loss = self.weights[0] * energy + self.weights[1] * forces + self.weights[2] * stress
        self.log("train_loss", loss, batch_size=len(crystals))
        self.log("train_energy_meV", 1000 * energy, batch_size=len(crystals))
        self.log("train_force_meV_A", 1000 * forces / 3**0.5, batch_size=len(crystals))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002, D102
        crystals, labels = batch
        found = self.average(crystals)
        energy = ((found.energy.detach() - labels[ENERGY].to(found.energy.dtype)) / crystals.n_atoms).abs().mean()
        self.log("val_energy_meV", 1000 * energy, batch_size=len(crystals), prog_bar=True)
        forces = (found.forces - labels[FORCES]).abs().mean()
        self.log("val_force_meV_A", 1000 * forces, batch_size=len(crystals), prog_bar=True)
        stress = (found.stress - labels[STRESS]).abs().nanmean()
        self.log("val_stress_GPa", EV_PER_A3_IN_GPA * stress, batch_size=len(crystals))


def element_constants(crystals: CrystalBatch, energy: Tensor, *, ridge: float = 1e-2) -> Tensor:
    """Constant energies of the elements in eV, ``[119]``, that explain total energies best (ridge regression, float64).

    Elements that no crystal holds get the mean energy of an atom.
    """
    counts = torch.zeros(len(crystals), MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
    one = torch.ones(len(crystals.atomic_numbers), dtype=torch.float64)
    counts.index_put_((crystals.batch, crystals.atomic_numbers), one, accumulate=True)
    sizes = crystals.n_atoms.to(torch.float64)
    known = torch.isfinite(energy)
    share = counts[known] / sizes[known].unsqueeze(-1)
    per_atom = energy[known].to(torch.float64) / sizes[known]
    mean = per_atom.mean()
    gram = share.T @ share + ridge * torch.eye(share.shape[1], dtype=torch.float64)
    return mean + torch.linalg.solve(gram, share.T @ (per_atom - mean))
