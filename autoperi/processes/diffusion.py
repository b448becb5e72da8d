"""Diffusion of whole crystals: a cell in the Lie algebra of lattices, atoms on a torus (Klipfel et al., AAAI 2024).

Times run from 1 (noise) to 0 (a crystal); T = 100 steps of the paper are times 0.01 apart, and any other number of
steps takes the same schedule at other times, with the exact posterior between any two of them.

- *Cell* (equations 12 to 14, Algorithm 2): x = π⁻¹ log L goes to N(0, 1) as xₜ = √ᾱ x₀ + √(1-ᾱ) ε. Coordinates are
  counted from the cube of the composition's natural volume, in units of their spread among crystals.
- *Atoms* (equations 16 and 17): a wrapped walk from x₀ of variance 1 - ᾱ, which ends nearly uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lie_algebra import ROTATION, VOLUME, from_algebra, to_algebra
from autoperi.geometry.torus import wrap, wrap_centered
from autoperi.processes.base import Condition

LATTICES = ("algebra", "none", "log_metric")
"""How cells diffuse: in all nine coordinates (the paper), not at all (the authors' later finding: each step asks for
the cell anew), or in the six of the log-metric alone, without rotations.
"""
POSITIONS = ("jump", "bridge")
"""Where atoms go in a step: to the place that is predicted, with a step's noise (Algorithm 2), or to the exact
posterior of the walk, between where they are and there.
"""
SHAPE_SPREAD, VOLUME_SPREAD = 0.35, 0.08
"""Standard deviations of the coordinates among Niggli cells of ``mp_train``, at their natural volume. Rotations, of
which crystals have none, are counted in that of shapes.
"""


class Prediction(NamedTuple):
    """What a network says of B crystals with N atoms.

    Attributes:
        lattice: the cell at time 0 in units of ``unit``, ``[B, 3, 3]``.
        moves: the ways to the places at time 0, in fractions of the cell, ``[N, 3]``.
        unit: edge of the cube of natural volume in Å, ``[B]``.
    """

    lattice: Tensor
    moves: Tensor
    unit: Tensor


@dataclass(frozen=True, eq=False)
class DiffusionState:
    """Crystals on their way.

    Attributes:
        x: coordinates of the cells in units of their :func:`spread`, ``[B, 9]``.
        frac_coords: ``[N, 3]``; atomic_numbers: ``[N]``; n_atoms: ``[B]``.
        unit: edge of the cube at x = 0 in Å, ``[B]``; 1 until a network has said it.
    """

    x: Tensor
    frac_coords: Tensor
    atomic_numbers: Tensor
    n_atoms: Tensor
    unit: Tensor

    @property
    def lattice(self) -> Tensor:
        """The cells in units of ``unit``, ``[B, 3, 3]``."""
        return from_algebra(self.x * spread(self.x))

    def crystals(self) -> CrystalBatch:
        """The crystals as they are now, in Å."""
        lattice = self.lattice * self.unit[:, None, None]
        return CrystalBatch(lattice, self.frac_coords, self.atomic_numbers, self.n_atoms)


def spread(like: Tensor) -> Tensor:
    """The units of the nine coordinates, ``[9]``."""
    found = torch.full((9,), SHAPE_SPREAD, dtype=like.dtype, device=like.device)
    found[VOLUME] = VOLUME_SPREAD
    return found


class Diffusion:
    """The process; defaults are those of the paper (Table 1).

    Args:
        lattice: of :data:`LATTICES`.
        positions: of :data:`POSITIONS`.
        lattice_beta, position_beta: β at the first and the last of the ``schedule_steps`` steps, linear between.
        schedule_steps: T, of which the β are.

    Raises:
        RequestError: a name that is not among those, or β that are not two numbers between 0 and 1.
    """

    def __init__(
        self,
        *,
        lattice: str = "algebra",
        positions: str = "jump",
        lattice_beta: Sequence[float] = (1e-5, 1e-1),
        position_beta: Sequence[float] = (1e-6, 2e-3),
        schedule_steps: int = 100,
    ) -> None:
        for name, value, known in (("lattice", lattice, LATTICES), ("positions", positions, POSITIONS)):
            if value not in known:
                raise RequestError(f"{name}={value!r} is not known; choose {' or '.join(known)}")
        for name, betas in (("lattice_beta", lattice_beta), ("position_beta", position_beta)):
            numbers = [beta for beta in betas if isinstance(beta, (int, float)) and 0 < beta < 1]
            if len(numbers) != 2 or len(betas) != 2:
                raise RequestError(
                    f"{name}={list(betas)} is not two numbers between 0 and 1; give some such as [1e-05, 0.1]"
                )
        self.lattice, self.positions, self.schedule_steps = lattice, positions, schedule_steps
        self._logs = [
            np.concatenate([[0.0], np.cumsum(np.log1p(-np.linspace(beta[0], beta[1], schedule_steps)))])
            for beta in (lattice_beta, position_beta)
        ]

    def kept(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """ᾱ(t) of cells and of atoms, in the shape of ``t``: what is left of a crystal at a time."""
        times = torch.as_tensor(t, dtype=torch.float64)
        at = times.detach().cpu().numpy() * self.schedule_steps
        cell, atoms = (np.exp(np.interp(at, np.arange(self.schedule_steps + 1), logs)) for logs in self._logs)
        return torch.as_tensor(cell).to(times), torch.as_tensor(atoms).to(times)

    @property
    def moves_cells(self) -> bool:
        """Whether cells diffuse at all."""
        return self.lattice != "none"

    def free(self, like: Tensor) -> Tensor:
        """1 for the coordinates of cells that diffuse, 0 for the others, ``[9]``."""
        free = torch.full_like(spread(like), float(self.moves_cells))
        free[ROTATION] = float(self.lattice == "algebra")
        return free

    def coordinates(self, lattice: Tensor) -> Tensor:
        """x₀ ``[B, 9]`` of cells in units of their natural volume, ``[B, 3, 3]``."""
        x = to_algebra(lattice)
        return x / spread(x)

    def noised(
        self, crystals: CrystalBatch, unit: Tensor, t: Tensor, generator: torch.Generator
    ) -> tuple[DiffusionState, Tensor]:
        """Crystals at times ``t`` ``[B]``, drawn from q(xₜ | x₀), and the shortest ways back of their atoms, x₀ - xₜ -
        k*, ``[N, 3]`` (equation 20).
        """
        x = self.coordinates(crystals.lattice / unit[:, None, None])
        cell, atoms = (a.to(x).unsqueeze(1) for a in self.kept(t))
        noise = torch.randn(len(x), 9, generator=generator).to(x)
        step = torch.randn(crystals.frac_coords.shape, generator=generator).to(x)
        x = torch.sqrt(cell) * x + torch.sqrt(1 - cell) * noise if self.moves_cells else torch.zeros_like(x)
        frac = wrap(crystals.frac_coords + torch.sqrt(1 - atoms)[crystals.batch] * step)
        state = DiffusionState(x * self.free(x), frac, crystals.atomic_numbers, crystals.n_atoms, unit)
        return state, wrap_centered(crystals.frac_coords - frac)

    def start(self, condition: Condition, generators: Sequence[torch.Generator]) -> DiffusionState:
        """Uniform atoms in cells of N(0, 1) (Algorithm 2)."""
        sizes, device = condition.n_atoms.tolist(), condition.n_atoms.device
        x = torch.stack([torch.randn(9, generator=g, dtype=torch.float64) for g in generators]).to(device)
        drawn = [torch.rand(n, 3, generator=g, dtype=torch.float64) for n, g in zip(sizes, generators, strict=True)]
        frac, unit = torch.cat(drawn).to(device), torch.ones(len(sizes), dtype=x.dtype, device=device)
        return DiffusionState(x * self.free(x), frac, condition.atomic_numbers, condition.n_atoms, unit)

    def times(self, steps: int) -> list[float]:
        """From 1 to 0."""
        return [1 - k / steps for k in range(steps)] + [0.0]

    def posterior(self, x: Tensor, end: Tensor, t: Tensor | float, later: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean μ̃ ``[B, 9]`` and variance β̃ ``[B, 1]`` of q(x_later | xₜ, x₀ = ``end``) of cells (equation 6), at times
        ``[B]`` or one for all.
        """
        now, then = (self.kept(time)[0].to(x).unsqueeze(-1) for time in (t, later))
        ratio = now / then
        own, of_end = torch.sqrt(ratio) * (1 - then), torch.sqrt(then) * (1 - ratio)
        return (own * x + of_end * end) / (1 - now), (1 - then) / (1 - now) * (1 - ratio)

    def step(
        self, state: DiffusionState, prediction: Prediction, t: float, dt: float, generators: Sequence[torch.Generator]
    ) -> DiffusionState:
        """Algorithm 2, lines 5 to 7, from ``t`` to ``t + dt``."""
        later = 0.0 if t + dt < 1e-9 else t + dt
        sizes = state.n_atoms.tolist()
        noise = [
            torch.randn(3 + n, 3, generator=g, dtype=torch.float64) for n, g in zip(sizes, generators, strict=True)
        ]
        of_cells = torch.stack([z[:3].flatten() for z in noise]).to(state.x)
        of_atoms = torch.cat([z[3:] for z in noise]).to(state.x)
        end = self.coordinates(prediction.lattice)
        if self.moves_cells:
            mean, variance = self.posterior(state.x, end, t, later)
            x = (mean + torch.sqrt(variance) * of_cells) * self.free(mean)
        else:
            x = end if later == 0 else state.x
        (_, now), (_, then) = self.kept(t), self.kept(later)
        share, sigma = 1.0, torch.sqrt((1 - then) / (1 - now) * (1 - now / then))
        if self.positions == "bridge":  # a walk keeps what it started from, which the diffusion of equation 6 shrinks
            share, sigma = float((then - now) / (1 - now)), sigma * torch.sqrt(then)
        frac = wrap(state.frac_coords + share * prediction.moves + sigma.to(of_atoms) * of_atoms)
        return replace(state, x=x, frac_coords=frac, unit=prediction.unit)
