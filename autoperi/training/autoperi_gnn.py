"""Training of AutoPeri-GNN: flow matching on the free parameters, through the latent vector and without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoperi.geometry.freedom import STRAINS, Freedom
from autoperi.models.autoperi_gnn import NATURAL, NEAR, NOISE, AutoPeriGnn, Start
from autoperi.processes.flow import path
from autoperi.random import torch_generator
from autoperi.training.coupling import nearest_ends
from autoperi.training.orbits import OrbitBatch
from autoperi.training.tasks import CrystalTask

SPREAD = {"noise": (1.5, 0.4), "near": (0.25, 0.06)}
"""Typical way of an atom (Å of the scaled cell) and of the strain from either start: errors are measured in these."""


class AutoPeriGnnTask(CrystalTask):
    """loss = L_flow + w_KL · KL(q(z | x) ‖ N(0, 1)).

    L_flow is the squared error of the velocity on the shortest path from the base density to the crystal: of atoms in Å of the scaled cell and
    of the strain, each over the square of its typical way, so that both starts and both kinds of coordinates count alike. Half of the crystals
    start near, half of them are given z: the decoder serves with and without an encoder. The translation that a polar group leaves free
    is taken out of the target.

    Args:
        model: the network.
        near_share, given_share: how many start near the crystal, how many see z.
        kl_weight: w_KL, per latent dimension.
        coupled: whether a path from noise ends at the crystal's description nearest to its start (:mod:`autoperi.training.coupling`).
    """

    def __init__(
        self,
        model: AutoPeriGnn,
        *,
        near_share: float = 0.5,
        given_share: float = 0.5,
        kl_weight: float = 1e-3,
        coupled: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.near_share, self.given_share, self.kl_weight = near_share, given_share, kl_weight
        self.coupled = coupled

    def training_step(self, batch: tuple[OrbitBatch, dict[str, Tensor]], batch_idx: int) -> Tensor:  # noqa: D102
        found = self.losses(self.model, batch[0], self.generator(batch_idx, self.current_epoch))
        self._tell("train", found)
        return found["error"].mean() + self.kl_weight * found["kl"].mean()

    def validation_step(self, batch: tuple[OrbitBatch, dict[str, Tensor]], batch_idx: int) -> None:  # noqa: D102
        with torch.no_grad():
            found = self.losses(self.average.module, batch[0], torch_generator(self.seed, 2**31, batch_idx))
        self._tell("val", found)

    def _tell(self, stage: str, found: dict[str, Tensor]) -> None:
        near = found["near"]
        for name, chosen, value in (("noise", ~near, "error"), ("near", near, "error"), ("kl", torch.ones_like(near), "kl")):
            if bool(chosen.any()):
                count = int(chosen.sum())
                self.log(f"{stage}_{name}", found[value][chosen].mean(), on_step=False, on_epoch=True, batch_size=count)

    def losses(self, model: Any, chosen: OrbitBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """``error`` of the velocity, whether the flow started ``near``, and ``kl``, each ``[B]``."""
        network: AutoPeriGnn = model
        weight = network.backbone.embedding.weight
        exact, y = chosen.freedom, chosen.y
        b = len(exact)
        near = torch.rand(b, generator=generator) < self.near_share
        given = torch.rand(b, generator=generator) < self.given_share
        t = torch.rand(b, generator=generator).to(weight)
        noise = torch.randn(b, exact.width, generator=generator).to(weight)
        code = torch.randn(b, network.latent, generator=generator).to(weight)
        near, given = near.to(weight.device), given.to(weight.device)
        freedom, end = exact.to(dtype=weight.dtype, device=weight.device), y.to(weight)
        close, far = (network.base(freedom, centre, start).draw(noise) for centre, start in _starts(end))
        aim = nearest_ends(chosen.choices, freedom, far, end, rows=~near) if self.coupled else end
        at, velocity = path(torch.where(near.unsqueeze(1), close, far), aim, t, freedom.space)
        target = freedom.velocity(*freedom.displacements(velocity))  # without the free translation of polar groups
        mean, log_variance = network.encode(freedom.crystals(end))
        z = mean + torch.exp(0.5 * log_variance) * code
        moves, strain = self._errors(freedom, at, network.velocity(at, t, freedom, near=near, z=z, given=given) - target, network)
        spread = weight.new_tensor([SPREAD["noise"], SPREAD["near"]])[near.long()]
        return {
            "error": moves / spread[:, 0] ** 2 + strain / spread[:, 1] ** 2,
            "near": near,
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / network.latent,
        }

    @staticmethod
    def _errors(freedom: Freedom, at: Tensor, difference: Tensor, network: AutoPeriGnn) -> tuple[Tensor, Tensor]:
        """Mean squared error of atoms (Å of the scaled cell) and squared error of the strain, each ``[B]``."""
        lattice = freedom.crystals(at).lattice
        _, fractional = freedom.displacements(difference)
        crystal = freedom.crystal.index_select(0, freedom.orbit)
        cartesian = torch.einsum("ni,nij->nj", fractional, lattice.detach().index_select(0, crystal))
        size = network.additive_volume(freedom.atomic_numbers, crystal, len(freedom)).to(at.dtype)
        unit = (size / (NATURAL * freedom.n_atoms)).pow(2 / 3)
        moves = at.new_zeros(len(freedom)).index_add(0, crystal, cartesian.square().sum(1)) / freedom.n_atoms / unit
        return moves, difference[:, :STRAINS].square().sum(1)


def _starts(end: Tensor) -> tuple[tuple[Tensor | None, Start], tuple[Tensor | None, Start]]:
    return (end, NEAR), (None, NOISE)
