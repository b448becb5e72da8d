"""Training of PGCGM (Zhao et al., npj Comput. Mater. 9, 38 (2023), equations 4 to 7)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoperi.chemistry.descriptors import pgcgm_properties
from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.models.pgcgm import Discriminator, Pgcgm, SiteFacts, represent, site_facts
from autoperi.processes.one_shot import BaseSites
from autoperi.symmetry.base_sites import distances, radius_sums
from autoperi.training.base_site_data import (
    PAPER_GROUPS,
    REPEATS,
    BaseSiteBatch,
    base_site_crystals,
    element_volumes,
    occurrences_of,
)
from autoperi.training.request import Sources, TrainingRequest, options_of
from autoperi.training.tasks.base import CrystalTask

PENALTY = 10.0
"""λ_d of equation 4."""
LOSSES = ("inter", "intra", "full", "base")
"""Of the generator, in the order of their weights λ1 to λ4 (equation 7)."""


class PgcgmTask(CrystalTask):
    """L_dis in ``critic_steps`` batches and L_gen in the next, in turn (equations 4 and 7).

    Args:
        model: the generator.
        critic_steps: batches of the discriminator for each of the generator.
        weights: λ1 to λ4, of the losses of distances (inter, intra) and of coordinates (full, base).
        inter, intra: φ_lower and φ_upper of equation 5, in sums of atomic radii.
        nearest: distances to the nearest images instead of those in the cell. H_intra is then zero in real crystals,
            and ``intra=[0, 0]`` says that the three sets are atoms of one crystal.
        printed: equation 6 as it is printed, where averaged full coordinates are pushed apart and base sites together;
            the text wants the opposite, which is what is done otherwise.
        paper_groups: the paper's 20 space groups alone; else all with ``min_crystals``.
        fewest_elements: of crystals that are learned from; repeats: rows of each, with other base sites.

    Raises:
        RequestError: a number that makes no loss.
    """

    defaults: ClassVar[dict[str, Any]] = {"epochs": 8, "batch_size": 128, "learning_rate": 3e-4}

    def __init__(
        self,
        model: Pgcgm,
        *,
        critic_steps: int = 5,
        weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        inter: Sequence[float] = (0.85, 2.5),
        intra: Sequence[float] = (0.0, 3.3),
        nearest: bool = False,
        printed: bool = False,
        paper_groups: bool = True,
        min_crystals: int = 10,
        fewest_elements: int = 3,
        repeats: int = REPEATS,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if self.total_steps <= critic_steps:
            raise RequestError(
                f"all {self.total_steps} batches of this run would teach the discriminator (critic_steps="
                f"{critic_steps!r}), none the generator; give more epochs, smaller batches or fewer critic_steps"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.discriminator = Discriminator(slots=model.slots)
        self.critic_steps, self.nearest, self.printed = critic_steps, nearest, printed
        self.weights = dict(zip(LOSSES, weights, strict=True))
        self.inter, self.intra = tuple(inter), tuple(intra)
        self.paper_groups, self.min_crystals = paper_groups, min_crystals
        self.fewest_elements, self.repeats = fewest_elements, repeats

    @classmethod
    def check_options(cls, options: dict[str, Any], request: TrainingRequest) -> dict[str, Any]:  # noqa: ARG003
        """The options, where they make a run.

        Raises:
            RequestError: a number that makes no loss.
        """
        said = {**cls.options(), **options}
        for name in ("inter", "intra"):
            bounds = said[name]
            numbers = all(isinstance(b, (int, float)) for b in bounds)
            if len(bounds) != 2 or not numbers or not 0 <= bounds[0] <= bounds[1] < math.inf:
                raise RequestError(f"{name}={bounds!r} is no lower and upper bound; give two ascending numbers")
        weights = said["weights"]
        if len(weights) != len(LOSSES) or not all(isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights):
            raise RequestError(
                f"weights={weights!r} are no four weights of {', '.join(LOSSES)}; give numbers from 0 on"
            )
        for name in ("critic_steps", "repeats", "min_crystals", "fewest_elements"):
            if said[name] < 1:
                raise RequestError(f"{name}={said[name]!r} is below 1; give a larger one")
        return options

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Crystals as base sites, properties of elements, and which elements occur where.

        Raises:
            RequestError: more elements are wanted than there are slots.
            DataError: no crystal can be learned from.
        """
        assert request.val is not None
        network, task = options_of(request.kind)
        said = {**network, **task, **request.options}
        slots = said["slots"]
        if said["fewest_elements"] > slots:
            raise RequestError(f"fewest_elements={said['fewest_elements']} is above slots={slots}; give a smaller one")
        common: dict[str, Any] = {"slots": slots, "fewest": said["fewest_elements"], "max_atoms": request.max_atoms}
        groups = PAPER_GROUPS if said["paper_groups"] else ()
        own = {"min_crystals": said["min_crystals"], "repeats": said["repeats"]}
        train = base_site_crystals(request.data, groups=groups, **own, **common)
        known = tuple(torch.unique(train.groups).tolist())
        val = base_site_crystals(request.val, groups=known, repeats=1, **common)
        counts, together = occurrences_of(train)
        properties = torch.as_tensor(pgcgm_properties()).float()
        volumes = element_volumes(train, merge=said["merge"])
        tables = {"element_volume": volumes, "properties": properties, "occurrences": counts, "together": together}
        return Sources(train, val, tables)

    @property
    def learning(self) -> nn.Module:  # noqa: D102
        return nn.ModuleList([self.model, self.discriminator])

    def configure_optimizers(self) -> Any:
        """As of all tasks, with the momenta of Gulrajani et al. 2017: what a discriminator teaches changes."""
        found = super().configure_optimizers()
        for group in found["optimizer"].param_groups:
            group["betas"] = (0.5, 0.9)
        return found

    # --- losses

    def made(
        self, network: nn.Module, batch: BaseSiteBatch, generator: torch.Generator
    ) -> tuple[BaseSites, SiteFacts, Tensor]:
        """What the generator makes of the elements and groups of a batch: base sites, facts of them, and M*."""
        assert isinstance(network, Pgcgm)
        noise = torch.randn(len(batch), network.config["noise"], generator=generator).to(batch.made.sites)
        made = network(noise, batch.elements, batch.groups)
        facts = site_facts(made, batch.elements, batch.groups, nearest=self.nearest)
        return made, facts, represent(made, facts, batch.elements, network.properties)

    def real(self, batch: BaseSiteBatch) -> Tensor:
        """M* of the crystals themselves."""
        model: Any = self.model
        facts = batch.facts
        if not self.nearest:
            inter, intra = distances(*batch.made[:2])
            facts = SiteFacts(facts.full, inter * (facts.inter > 0), intra * (batch.elements > 0).unsqueeze(2))
        return represent(batch.made, facts, batch.elements, model.properties)

    def discriminator_loss(self, batch: BaseSiteBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The gap D(fake) − D(real), and the gradient penalty (equation 4)."""
        with torch.no_grad():
            fake, real = self.made(self.model, batch, generator)[2], self.real(batch)
        share = torch.rand(len(batch), generator=generator).to(real)[:, None, None, None]
        between = (share * real + (1 - share) * fake).requires_grad_(True)
        scores = self.discriminator(torch.cat([fake, real, between]), batch.groups.repeat(3))
        lies, truth, middle = scores.chunk(3)
        (slope,) = torch.autograd.grad(middle.sum(), between, create_graph=True)
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        return (lies - truth).mean(), penalty

    def generator_losses(self, sites: Tensor, facts: SiteFacts, elements: Tensor) -> dict[str, Tensor]:
        """L_inter and L_intra (equation 5), L_full and L_base (equation 6)."""
        inter, intra = radius_sums(elements)
        full, base = (cosines(normalised(part)) for part in (facts.full, sites))
        # 1 - cos wants the three sets the same, [cos]₊ wants them different
        full, base = (full.clamp(min=0), 1 - base) if self.printed else (1 - full, base.clamp(min=0))
        return {
            "inter": bound_loss(facts.inter, inter.to(sites)[:, None], self.inter),
            "intra": bound_loss(facts.intra, intra.to(sites)[:, :, None], self.intra),
            "full": full.sum(1).mean() / 9,
            "base": base.sum(1).mean() / 9,
        }

    def generator_loss(self, batch: BaseSiteBatch, generator: torch.Generator) -> Tensor:
        """L_gen (equation 7)."""
        made, facts, matrix = self.made(self.model, batch, generator)
        with frozen(self.discriminator):
            loss = -self.discriminator(matrix, batch.groups).mean()
        own = self.generator_losses(made.sites, facts, batch.elements)
        for name, value in own.items():
            self.log(f"train_{name}", value, batch_size=len(batch))
        loss = loss + sum(self.weights[name] * value for name, value in own.items())
        if made.growth is not None:
            # what a site stands for was counted in the cell that the network said: it should not have to grow
            size = (made.growth**2).mean()
            self.log("train_size", size, batch_size=len(batch))
            loss = loss + size
        return loss

    def training_step(self, batch: tuple[BaseSiteBatch, dict[str, Tensor]], batch_idx: int) -> Tensor:  # noqa: D102
        generator = self.generator(batch_idx, self.current_epoch)
        # counted over the run: an epoch of few crystals may have fewer batches than the discriminator takes
        before = 0 if self._trainer is None else self.current_epoch * int(self.trainer.num_training_batches)
        if (before + batch_idx) % (self.critic_steps + 1) == self.critic_steps:
            return self.generator_loss(batch[0], generator)
        gap, penalty = self.discriminator_loss(batch[0], generator)
        self.log("train_gap", -gap, batch_size=len(batch[0]))
        return gap + PENALTY * penalty

    def validation_step(self, batch: tuple[BaseSiteBatch, dict[str, Tensor]], batch_idx: int) -> None:  # noqa: D102
        generator = torch_generator(self.seed, 2**31, self.place(batch_idx))
        with torch.no_grad():
            fake, real = self.made(self.average.module, batch[0], generator)[2], self.real(batch[0])
            gap = (self.discriminator(real, batch[0].groups) - self.discriminator(fake, batch[0].groups)).mean()
        self.log("val_loss", gap, batch_size=len(batch[0]))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, a module passes gradients on and gets none."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def bound_loss(distances: Tensor, radii: Tensor, bounds: Sequence[float]) -> Tensor:
    """Mean square of what distances exceed or fall short of their bounds by, Å² (equation 5).

    Args:
        distances: Å; radii: sums of atomic radii, 0 where there is no pair; bounds: φ_lower, φ_upper.
    """
    there = (radii > 0).expand_as(distances).to(distances)
    lower, upper = (bound * radii for bound in bounds)
    off = (distances - upper).clamp(min=0) ** 2 + (lower - distances).clamp(min=0) ** 2
    return (off * there).sum() / there.sum().clamp(min=1)


def normalised(coordinates: Tensor) -> Tensor:
    """Coordinates ``[B, 3, K, 3]`` as vectors ``[B, 3, 3K]``, each entry divided by its norm over the batch, which is
    how we read "normalize each coordinate value across the mini-batch".
    """
    flat = coordinates.flatten(2)
    return flat / flat.norm(dim=0, keepdim=True).clamp(min=1e-6)


def cosines(vectors: Tensor) -> Tensor:
    """Cosines of the three pairs of sets, ``[B, 3]``."""
    return torch.nn.functional.cosine_similarity(vectors[:, [0, 1, 0]], vectors[:, [1, 2, 2]], dim=-1)
