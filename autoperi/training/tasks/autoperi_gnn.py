"""Training of AutoPeri-GNN: flow matching on the free parameters, through the latent vector and without it, and
physical losses.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoperi.data.random import numpy_generator, torch_generator
from autoperi.errors import RequestError
from autoperi.models.autoperi_gnn import NEAR, NOISE, AutoPeriGnn, Start
from autoperi.models.potential import Potential
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM
from autoperi.processes.flow import path
from autoperi.symmetry.freedom import STRAINS, Freedom
from autoperi.training.adversarial import Discriminator
from autoperi.training.coupling import nearest_ends, random_ends
from autoperi.training.orbit_data import OrbitBatch, orbit_table, split_orbit_table
from autoperi.training.physical import PhysicalLosses, Weights, nearness, symmetry_loss
from autoperi.training.request import Sources, TrainingRequest
from autoperi.training.tasks.base import CrystalTask

TYPICAL_WAY = {"noise": (1.5, 0.4), "near": (0.25, 0.06)}
"""How far an atom (in Å of the scaled cell) and the strain typically go from either start, the unit of errors."""
ENDS = ("nearest", "random", "given")
"""Descriptions of a crystal that paths end at: the one nearest to the start, one drawn at random each time, or the one
that the data have.
"""


class AutoPeriGnnTask(CrystalTask):
    """loss = L_flow + w_KL · KL(q(z | x) ‖ N(0, 1)) + w_E L_energy + w_S L_sym + w_R L_recon + w_A L_adv.

    L_flow is the squared error of the velocity on the shortest path from the base density to the crystal: of atoms in Å
    of the scaled cell and of the strain, each over the square of its typical way, so that both starts and both kinds of
    coordinates count alike. Half of the crystals start near, half of them are given z: the decoder serves with and
    without an encoder. The translation that a polar group leaves free is taken out of the target. The last four are
    those of :mod:`autoperi.training.physical`.

    Args:
        model: the network.
        near_share, given_share: how many start near the crystal, how many see z.
        ends: of :data:`ENDS`; paths from near the crystal end where they began, unless ``random``.
        kl_weight: w_KL, per latent dimension.
        energy_weight, symmetry_weight, reconstruction_weight, adversarial_weight: w_E, w_S, w_R and w_A; 0 switches a
            loss off.
        symmetry_rattle: Å by which atoms are off their places where L_sym looks
            (:func:`~autoperi.training.physical.symmetry_loss`).
        potential: of L_energy: a bundled name, a directory or a hub repository of a model that has one, or the network
            itself.

    Raises:
        RequestError: a weight that is negative, a share outside [0, 1], or other ends. WeightsError: no such potential.
    """

    holds_out: ClassVar[bool] = True

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Crystals as orbits; a fifth of them by their ids to validate on, where nothing else is given."""
        if request.val is None:
            train, val = split_orbit_table(request.data, max_atoms=request.max_atoms)
        else:
            train, _ = orbit_table(request.data, max_atoms=request.max_atoms)
            val, _ = orbit_table(request.val, max_atoms=request.max_atoms, element_volume=train.element_volume)
        return Sources(train, val, {"element_volume": train.element_volume.float()})

    @classmethod
    def check_options(cls, options: dict[str, Any], request: TrainingRequest) -> dict[str, Any]:
        """The options; L_energy takes the base model's potential.

        Raises:
            RequestError: a value that makes no run, or an energy is wanted and the base model has no potential.
        """
        _check(**{k: v for k, v in options.items() if k != "potential"})
        if options.get("energy_weight") and "potential" not in options:
            if "potential" not in request.base.components:
                raise RequestError(
                    f"energy_weight={options['energy_weight']} needs a potential, and model {request.base.name!r} has "
                    "none; give another --base"
                )
            return {**options, "potential": request.base_name}
        return options

    def __init__(
        self,
        model: AutoPeriGnn,
        *,
        near_share: float = 0.5,
        given_share: float = 0.5,
        ends: str = "nearest",
        kl_weight: float = 1e-3,
        energy_weight: float = 0.0,
        symmetry_weight: float = 0.0,
        symmetry_rattle: float = 0.1,
        reconstruction_weight: float = 0.0,
        adversarial_weight: float = 0.0,
        potential: str | Potential = "autoperi-base",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        _check(near_share=near_share, given_share=given_share, ends=ends, kl_weight=kl_weight)
        self.near_share, self.given_share, self.kl_weight = near_share, given_share, kl_weight
        self.ends, self.symmetry_rattle = ends, symmetry_rattle
        self.weights = Weights(energy_weight, symmetry_weight, reconstruction_weight, adversarial_weight)
        self.discriminator: Discriminator | None = None
        if self.weights.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + 1)  # the caller's generator is untouched
                self.discriminator = Discriminator()
        frozen = _potential(potential) if self.weights.energy else None
        self.physical = PhysicalLosses(self.weights, potential=frozen, discriminator=self.discriminator)

    @property
    def learning(self) -> nn.Module:  # noqa: D102
        return self.model if self.discriminator is None else nn.ModuleList([self.model, self.discriminator])

    def training_step(self, batch: tuple[OrbitBatch, dict[str, Tensor]], batch_idx: int) -> Tensor:  # noqa: D102
        found = self.losses(self.model, batch[0], self.generator(batch_idx, self.current_epoch))
        self._tell("train", found)
        return self.total(found)

    def validation_step(self, batch: tuple[OrbitBatch, dict[str, Tensor]], batch_idx: int) -> None:  # noqa: D102
        with torch.no_grad():
            found = self.losses(self.average.module, batch[0], torch_generator(self.seed, 2**31, self.place(batch_idx)))
        self._tell("val", found)

    def _tell(self, stage: str, found: dict[str, Tensor]) -> None:
        near, every = found["near"], torch.ones_like(found["near"])
        told = {"noise": (~near, "error", self.near_share < 1), "near": (near, "error", self.near_share > 0)}
        told |= {name: (every, name, True) for name in found if name not in ("error", "near")}
        for name, (chosen, value, possible) in told.items():
            count, values = int(chosen.sum()), found[value][chosen]
            # processes must tell the same things, those that happen to have nothing to say of one too
            if count or (possible and self.processes > 1):
                mean = values.mean() if count else values.sum()
                self.log(f"{stage}_{name}", mean, batch_size=count)

    def total(self, found: dict[str, Tensor]) -> Tensor:
        """The loss of :meth:`losses`."""
        loss = found["error"].mean() + self.kl_weight * found["kl"].mean()
        return loss if self.weights == Weights() else loss + self.physical.total(found)

    def losses(self, model: Any, chosen: OrbitBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """``error`` of the velocity, whether the flow started ``near``, ``kl``, and the losses that are switched on,
        each ``[B]``.
        """
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
        if self.ends == "random":
            rng = numpy_generator(int(torch.randint(2**62, (), generator=generator)))
            end = random_ends(chosen.choices, freedom, end, rng)
        close, far = (network.base(freedom, centre, start).draw(noise) for centre, start in _starts(end))
        aim = nearest_ends(chosen.choices, freedom, far, end, rows=~near) if self.ends == "nearest" else end
        at, velocity = path(torch.where(near.unsqueeze(1), close, far), aim, t, freedom.space)
        target = freedom.velocity(*freedom.displacements(velocity))  # without the free translation of polar groups
        truth = freedom.crystals(end)
        mean, log_variance = network.encode(truth)
        z = mean + torch.exp(0.5 * log_variance) * code
        found_velocity = network.velocity(at, t, freedom, near=near, z=z, given=given)
        moves, strain = self._errors(freedom, at, found_velocity - target, network)
        spread = weight.new_tensor([TYPICAL_WAY["noise"], TYPICAL_WAY["near"]])[near.long()]
        found = {
            "error": moves / spread[:, 0] ** 2 + strain / spread[:, 1] ** 2,
            "near": near,
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / network.latent,
        }
        if self.weights.symmetry:
            rates = partial(network.rates, t=t, freedom=freedom, near=near, z=z, given=given)
            how: dict[str, Any] = {"rattle": self.symmetry_rattle, "generator": generator}
            found["symmetry"] = symmetry_loss(freedom, at, t, chosen.group, rates, **how)
        if self.weights.on_estimate:
            estimate = freedom.crystals(freedom.space.wrap(at + (1 - t).unsqueeze(1) * found_velocity))
            found |= self.physical(estimate, truth, nearness(t, spread[:, 0]), given, network.unit(truth))
        return found

    @staticmethod
    def _errors(freedom: Freedom, at: Tensor, difference: Tensor, network: AutoPeriGnn) -> tuple[Tensor, Tensor]:
        """Mean squared error of atoms (Å of the scaled cell) and squared error of the strain, each ``[B]``."""
        lattice = freedom.crystals(at).lattice
        _, fractional = freedom.displacements(difference)
        crystal = freedom.crystal.index_select(0, freedom.orbit)
        cartesian = torch.einsum("ni,nij->nj", fractional, lattice.detach().index_select(0, crystal))
        size = network.additive_volume(freedom.atomic_numbers, crystal, len(freedom)).to(at.dtype)
        unit = (size / (MEAN_VOLUME_PER_ATOM * freedom.n_atoms)).pow(2 / 3)
        moves = at.new_zeros(len(freedom)).index_add(0, crystal, cartesian.square().sum(1)) / freedom.n_atoms / unit
        return moves, difference[:, :STRAINS].square().sum(1)


def _check(*, ends: str = "nearest", **numbers: float) -> None:
    """Refuse what makes no run."""
    if ends not in ENDS:
        raise RequestError(f"ends={ends!r} is not known; choose of {', '.join(ENDS)}")
    for name, value in numbers.items():
        if name.endswith("_share") and not 0 <= value <= 1:
            raise RequestError(f"{name}={value!r} is not a share; give a number from 0 to 1")
        if not 0 <= value < float("inf"):
            raise RequestError(f"{name}={value!r} is not a weight; give 0 or more")


def _starts(end: Tensor) -> tuple[tuple[Tensor | None, Start], tuple[Tensor | None, Start]]:
    return (end, NEAR), (None, NOISE)


def _potential(given: str | Potential) -> Potential:
    """The potential of a model that is named."""
    if isinstance(given, Potential):
        return given
    # a run without the energy needs nothing of the other components
    from autoperi.hub.networks import load_pretrained_network

    potential: Potential = load_pretrained_network("potential", given)
    return potential
