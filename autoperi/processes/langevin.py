"""Annealed Langevin dynamics of sites and cell parameters under a space group (Sultanov et al. 2023, Algorithm 1).

    x ← x + ½ ε_k s(x) + √ε_k z,      ε_k = γ σ_k²

on a ladder of falling noise levels σ_1 > … > σ_F, the same number of steps on each (γ is the paper's γ/σ_F²; of fewer
steps than levels, levels are left out). Atoms move in Å, on their Wyckoff positions where they are bound to one; cell
parameters move with 0.15 of the noise, so that cells come out near a maximum of their density. Both scores are asked at
the same state, as Algorithm 1 has it. Unlike the paper's, the last step is x ← x + σ² s(x), the mean of what the noise
of its level may have come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.torus import wrap
from autoperi.processes.base import Condition
from autoperi.symmetry.sites import PARAMETERS, Sites


class Scores(NamedTuple):
    """Scores times σ: where to go, in units of the noise.

    Attributes:
        positions: Cartesian, ``[S, 3]``; parameters: of the cells, ``[B, 6]``.
    """

    positions: Tensor
    parameters: Tensor


@dataclass(frozen=True, eq=False)
class SiteState:
    """Crystals on their way.

    Attributes:
        sites: what does not change.
        frac_coords: of sites in the primitive cell, ``[S, 3]``.
        parameters: of the cells, ``[B, 6]``.
    """

    sites: Sites
    frac_coords: Tensor
    parameters: Tensor

    def crystals(self) -> CrystalBatch:
        """The crystals as they are now, in primitive cells."""
        return self.sites.crystals(self.frac_coords, self.parameters)


class Langevin:
    """The process.

    Args:
        position_sigma, lattice_sigma: σ in Å at the first and the last level, a geometric ladder between.
        levels: F.
        position_rate, lattice_rate: γ.
        lattice_temperature: by which the noise of cell parameters is multiplied.

    Raises:
        RequestError: a number that makes no ladder.
    """

    def __init__(
        self,
        *,
        position_sigma: Sequence[float] = (2.0, 0.03),
        lattice_sigma: Sequence[float] = (5.0, 0.15),
        levels: int = 10,
        position_rate: float = 1.0,
        lattice_rate: float = 1.0,
        lattice_temperature: float = 0.15,
    ) -> None:
        for name, pair in (("position_sigma", position_sigma), ("lattice_sigma", lattice_sigma)):
            if len(pair) != 2 or not pair[0] > pair[1] > 0:
                raise RequestError(f"{name}={pair!r} is no ladder of noise; give a larger and a smaller number of Å")
        if levels < 2:
            raise RequestError(f"levels={levels!r} is no ladder of noise; give at least 2")
        for name, rate in (("position_rate", position_rate), ("lattice_rate", lattice_rate)):
            if not 0 < rate <= 2:
                raise RequestError(f"{name}={rate!r} is no rate; give a number above 0 and up to 2")
        if not 0 <= lattice_temperature <= 1:
            raise RequestError(f"lattice_temperature={lattice_temperature!r} is none; give a number from 0 to 1")
        self.levels = levels
        self.position_rate, self.lattice_rate = position_rate, lattice_rate
        self.lattice_temperature = lattice_temperature
        self._logs = [(math.log(a), math.log(b)) for a, b in (position_sigma, lattice_sigma)]

    def sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """σ in Å of positions and of cell parameters at a level, 0 the noisiest, in the shape of ``level``."""
        share = level.to(torch.float64) / (self.levels - 1)
        positions, cells = (torch.exp(a + (b - a) * share) for a, b in self._logs)
        return positions, cells

    def level(self, t: Tensor | float) -> Tensor:
        """The level at a time: from 1 to 0 they are taken in turn."""
        passed = (1 - torch.as_tensor(t, dtype=torch.float64)) * self.levels
        return torch.floor(passed + 1e-9).clamp(0, self.levels - 1).long()

    def start(self, condition: Condition, generators: Sequence[torch.Generator]) -> SiteState:
        """Sites uniform in the cell, cell parameters normal about those of equal edges at the natural volume.

        Raises:
            RequestError: the condition names no sites.
        """
        sites = condition.sites
        if not isinstance(sites, Sites):
            raise RequestError("Langevin dynamics needs the sites of each crystal; ask a network that knows some")
        first = self.sigma(torch.zeros(len(sites)))[1].to(sites.volume)
        counts = sites.counts.tolist()
        drawn = [torch.rand(n, 3, generator=g, dtype=torch.float64) for n, g in zip(counts, generators, strict=True)]
        frac, noise = torch.cat(drawn).to(sites.volume), sites.free(_drawn(sites, generators)[1])
        return SiteState(sites, sites.placed(frac), sites.bounded(sites.natural() + first.unsqueeze(1) * noise))

    def noised(
        self,
        sites: Sites,
        frac_coords: Tensor,
        parameters: Tensor,
        level: Tensor,
        cells: Tensor,
        generator: torch.Generator,
    ) -> tuple[SiteState, Scores]:
        """Crystals perturbed at the levels of ``level`` ``[B]``, and the scores times σ that lead back: -z, save for
        cells that had to be bounded.

        Args:
            sites, frac_coords, parameters: crystals.
            level: ``[B]``.
            cells: which crystals have their cells perturbed too, ``[B]``: only those teach the score of cells, and only
                the others that of positions (section 4).
            generator: CPU generator.
        """
        sigma, sigma_cell = (s.to(parameters) for s in self.sigma(level))
        z = torch.randn(frac_coords.shape, generator=generator).to(parameters)
        z_cell = sites.free(torch.randn(len(sites), PARAMETERS, generator=generator).to(parameters))
        lattice = sites.lattice(parameters)
        z = torch.einsum("sij,sj->si", sites.tangent(lattice), z)
        moved = moved_by(sites, frac_coords, lattice, sigma[sites.crystal].unsqueeze(1) * z)
        perturbed = sites.bounded(parameters + sigma_cell.unsqueeze(1) * z_cell)
        perturbed = torch.where(cells.unsqueeze(1), perturbed, parameters)
        return SiteState(sites, moved, perturbed), Scores(-z, (parameters - perturbed) / sigma_cell.unsqueeze(1))

    def times(self, steps: int) -> list[float]:
        """From 1 to 0."""
        return [1 - k / steps for k in range(steps)] + [0.0]

    def step(
        self, state: SiteState, prediction: Scores, t: float, dt: float, generators: Sequence[torch.Generator]
    ) -> SiteState:
        """One step of Algorithm 1; the one that ends at 0 goes σ² s without noise."""
        sites = state.sites
        sigma, sigma_cell = (float(s) for s in self.sigma(self.level(t)))
        z, z_cell = _drawn(sites, generators)
        z_cell = sites.free(z_cell)
        last = t + dt < 1e-9
        rate, rate_cell = (2.0, 2.0) if last else (self.position_rate, self.lattice_rate)
        noise, noise_cell = (0.0, 0.0) if last else (rate**0.5, self.lattice_temperature * rate_cell**0.5)
        lattice = sites.lattice(state.parameters)
        way = torch.einsum("sij,sj->si", sites.tangent(lattice), 0.5 * rate * prediction.positions + noise * z)
        frac = moved_by(sites, state.frac_coords, lattice, sigma * way)
        own = sites.free(0.5 * rate_cell * prediction.parameters + noise_cell * z_cell)
        return replace(state, frac_coords=frac, parameters=sites.bounded(state.parameters + sigma_cell * own))


def _drawn(sites: Sites, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Standard normal numbers for sites ``[S, 3]`` and cells ``[B, 6]``, each crystal's from its own generator."""
    counts = sites.counts.tolist()
    z = [torch.randn(2 + n, 3, generator=g, dtype=torch.float64) for n, g in zip(counts, generators, strict=True)]
    cells = torch.stack([own[:2].flatten() for own in z])
    return torch.cat([own[2:] for own in z]).to(sites.volume), cells.to(sites.volume)


def moved_by(sites: Sites, frac_coords: Tensor, lattice: Tensor, way: Tensor) -> Tensor:
    """Sites ``[S, 3]`` after Cartesian displacements ``[S, 3]``, wrapped; they stay on their Wyckoff positions where
    the displacements are tangent to these.
    """
    inverse = torch.linalg.inv(lattice)[sites.crystal]
    return wrap(frac_coords + torch.einsum("si,sij->sj", way, inverse))
