"""From proposals to geometry: AutoPeri-GNN's flow moves the free parameters of each candidate in its space group.

A prototype's candidate is a start near the answer; orbits without a prototype start from noise, several times, and the
potential picks. Space group, orbits and composition stay what they were: nothing else than the free parameters can
move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.data.random import torch_generator
from autoperi.geometry.distances import MIN_DISTANCE_RATIO, minimum_distance_ratios
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.evaluate import evaluate
from autoperi.models.potential import Potential
from autoperi.pipelines import flow
from autoperi.pipelines.prototype_stream import OrbitCandidate
from autoperi.processes.flow import crystal_noise
from autoperi.processes.min_distance import FLOW_MIN_DISTANCE_RATIO
from autoperi.symmetry.freedom import Freedom, freedom_at_volume

DIGITS = 9
"""Decimals kept of coordinates: above float64 noise, so that no batch can change a result."""
BATCH = 64
_FLOW_OPTIONS: dict[str, Any] = {"method": "euler", "min_distance_ratio": FLOW_MIN_DISTANCE_RATIO}


@dataclass(frozen=True, eq=False)
class Decoder:
    """The flow, wired for ``generate``.

    Attributes:
        network: in float64.
        potential: picks among draws, where it knows the elements; else the draw whose atoms keep the farthest apart.
        near_steps: Euler steps from a prototype's candidate; 0 leaves it as it is.
        noise_steps: Euler steps from noise.
        draws: from noise, of each.
        anneal: of :func:`~autoperi.processes.flow.integrate`, from noise and near a start.
    """

    network: AutoPeriGnn
    potential: Potential | None
    near_steps: int
    noise_steps: int
    draws: int
    anneal: float = 0.0

    def __call__(self, proposals: Sequence[OrbitCandidate], seed: int) -> list[OrbitCandidate]:
        """The same proposals with the geometry that the flow gives them; each depends on itself, ``seed`` and its index
        alone.
        """
        done = list(proposals)
        near = [k for k, p in enumerate(done) if p.sites and not p.new and self.near_steps]
        new = [k for k, p in enumerate(done) if p.new]
        with torch.no_grad():
            for rows in _batches(near):
                moved = self._near([done[k] for k in rows])
                for k, proposal in zip(rows, moved, strict=True):
                    done[k] = proposal
            for k, proposal in zip(new, self._from_noise([done[k] for k in new], seed), strict=True):
                done[k] = proposal
        return done

    def _freedom(self, proposals: list[OrbitCandidate]) -> tuple[Freedom, Tensor]:
        volumes = self.network.element_volume.double().cpu().numpy()
        return freedom_at_volume([p.group.number for p in proposals], [p.sites or () for p in proposals], volumes)

    def _near(self, proposals: list[OrbitCandidate]) -> list[OrbitCandidate]:
        freedom, s = self._freedom(proposals)
        start = freedom.coordinates(torch.as_tensor(np.stack([p.lattice for p in proposals])), s)
        freedom, start = freedom.to(device=self._device), start.to(self._device)
        still = torch.zeros_like(start)
        y = flow.sample(
            self.network, freedom, still, centre=start, steps=self.near_steps, **_FLOW_OPTIONS, anneal=self.anneal
        )
        ratios = minimum_distance_ratios(freedom.crystals(y))
        moved = _placed(proposals, freedom, y)
        # where atoms could not be kept apart the flow has lost its way, and the prototype is the better guess
        return [
            new if ok else old
            for old, new, ok in zip(proposals, moved, (ratios >= MIN_DISTANCE_RATIO).tolist(), strict=True)
        ]

    def _from_noise(self, proposals: list[OrbitCandidate], seed: int) -> list[OrbitCandidate]:
        found = []
        for rows in _batches(list(range(len(proposals))), max(1, BATCH // self.draws)):
            part = [proposals[k] for k in rows for _ in range(self.draws)]
            freedom, _ = self._freedom(part)
            generators = [torch_generator(seed, p.index, k % self.draws) for k, p in enumerate(part)]
            noise = crystal_noise(freedom, generators).to(self._device)
            freedom = freedom.to(device=self._device)
            drawn = flow.sample(
                self.network, freedom, noise, steps=self.noise_steps, **_FLOW_OPTIONS, anneal=self.anneal
            )
            y = torch.round(drawn, decimals=DIGITS)
            crystals = freedom.crystals(y)
            worth = torch.nan_to_num(minimum_distance_ratios(crystals), nan=0.0)
            if self.potential is not None and bool(self.potential.seen[crystals.atomic_numbers].all()):
                energy = evaluate(self.potential, crystals, derivatives=False).energy / crystals.n_atoms
                worth = torch.where(
                    worth < MIN_DISTANCE_RATIO, worth - 1e6, -torch.nan_to_num(torch.round(energy, decimals=6), nan=1e5)
                )
            best = worth.view(-1, self.draws).argmax(1) + torch.arange(len(rows), device=y.device) * self.draws
            found += _placed([proposals[k] for k in rows], freedom[best], y[best])
        return found

    @property
    def _device(self) -> torch.device:
        return self.network.element_volume.device


def _batches(rows: list[int], size: int = BATCH) -> list[list[int]]:
    return [rows[k : k + size] for k in range(0, len(rows), size)]


def _placed(proposals: Sequence[OrbitCandidate], freedom: Freedom, y: Tensor) -> list[OrbitCandidate]:
    freedom, y = freedom.to(device="cpu"), y.cpu()
    crystals = freedom.crystals(torch.round(y, decimals=DIGITS))
    local = freedom.place[freedom.orbit].split(crystals.n_atoms.tolist())
    return [
        replace(p, lattice=lattice.numpy(), frac_coords=frac.numpy(), numbers=numbers.numpy(), orbits=own.numpy())
        for p, (lattice, frac, numbers), own in zip(proposals, crystals.unbatch(), local, strict=True)
    ]
