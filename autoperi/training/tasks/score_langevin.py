"""Training of the scores of sites and cells (Sultanov et al. 2023, equations 4 to 6)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoperi.data.io import read_table
from autoperi.data.random import torch_generator
from autoperi.errors import RequestError
from autoperi.models.score_langevin import ScoreLangevin, occurrences
from autoperi.training.prepare import at_most
from autoperi.training.request import Sources, TrainingRequest
from autoperi.training.site_data import SiteBatch, SiteCrystals, site_crystals
from autoperi.training.tasks.base import CrystalTask


class ScoreLangevinTask(CrystalTask):
    """L = Σ_k σ_k² ‖s(x̃, σ_k) + z/σ_k‖² of positions and of cells, at a level drawn for each crystal.

    Half of the crystals keep their cells and teach the score of positions; in the other half both are perturbed, and
    they teach the score of cells (section 4). In a share of the batches crystals are perturbed as in the paper, sites
    off their Wyckoff positions too; in the others sites stay on them.

    Args:
        model: the network.
        unbound_share: of batches whose sites leave their Wyckoff positions.
    """

    def __init__(self, model: ScoreLangevin, *, unbound_share: float = 0.2, **options: Any) -> None:
        super().__init__(model, **options)
        _check(unbound_share)
        self.unbound_share = unbound_share

    defaults: ClassVar[dict[str, Any]] = {"batch_size": 32}

    @classmethod
    def check_options(cls, options: dict[str, Any], request: TrainingRequest) -> dict[str, Any]:  # noqa: ARG003
        """The options, where they make a run.

        Raises:
            RequestError: a share outside [0, 1].
        """
        _check(options.get("unbound_share", 0.2))
        return options

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Crystals as sites, the volumes of elements, and how often groups and Wyckoff positions occur."""
        assert request.val is not None
        train = _read(request.data, request.max_atoms, None)
        val = _read(request.val, request.max_atoms, train.element_volume)
        groups, letters = occurrences(train.group, train.sites_of_crystal, train.letters)
        initial = {"element_volume": train.element_volume, "group_log_p": groups, "site_log_p": letters}
        return Sources(train, val, initial)

    def losses(self, network: nn.Module, batch: SiteBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of positions and of cells: mean squares of the score times σ less its target, for each free coordinate."""
        assert isinstance(network, ScoreLangevin)
        n, device = len(batch), batch.parameters.device
        level = torch.randint(network.process.levels, (n,), generator=generator).to(device)
        cells = (torch.rand(n, generator=generator) < 0.5).to(device)
        # a whole batch or none of it: sites off their positions have many more images, for which all would be padded
        leave = bool(torch.rand(1, generator=generator) < self.unbound_share)
        sites = batch.sites.freed(network.expected_volume(batch.sites)) if leave else batch.sites
        at = (sites, batch.frac_coords, batch.parameters)
        state, wanted = network.process.noised(*at, level, cells, generator)
        found = network.scores(state, level)
        lattice = sites.lattice(state.parameters)
        # of the noise of a site that is merged with its images nothing can be seen but what moves their centroid
        tangent = sites.seen(state.frac_coords, lattice) if leave else sites.tangent(lattice)
        off = torch.einsum("sij,sj->si", tangent, found.positions - wanted.positions)
        still = ~cells[sites.crystal]
        free = tangent.diagonal(dim1=1, dim2=2).sum(-1)
        position = (off**2).sum(-1)[still].sum() / free[still].sum().clamp(min=1.0)
        square = ((found.parameters - wanted.parameters) ** 2).sum(-1)
        count = (sites.ties.abs().sum(-1) > 0).sum(-1)
        cell = square[cells].sum() / count[cells].sum().clamp(min=1)
        return position, cell

    def training_step(self, batch: tuple[SiteBatch, dict[str, Tensor]], batch_idx: int) -> Tensor:  # noqa: D102
        position, cell = self.losses(self.model, batch[0], self.generator(batch_idx, self.current_epoch))
        self._tell("train", position, cell, len(batch[0]))
        return position + cell

    def validation_step(self, batch: tuple[SiteBatch, dict[str, Tensor]], batch_idx: int) -> None:  # noqa: D102
        generator = torch_generator(self.seed, 2**31, self.place(batch_idx))
        with torch.no_grad():
            self._tell("val", *self.losses(self.average.module, batch[0], generator), len(batch[0]))

    def _tell(self, stage: str, position: Tensor, cell: Tensor, n: int) -> None:
        for name, value in (("loss", position + cell), ("position", position), ("cell", cell)):
            self.log(f"{stage}_{name}", value, batch_size=n)


def _read(path: Any, max_atoms: int | None, element_volume: Tensor | None) -> SiteCrystals:
    table = at_most(read_table(path), max_atoms, str(path))
    crystals = zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True)
    return site_crystals(crystals, element_volume=element_volume)


def _check(share: float) -> None:
    if not 0 <= share <= 1:
        raise RequestError(f"unbound_share={share!r} is no share; give a number from 0 to 1")
