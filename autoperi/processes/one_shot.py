"""A process with one time: noise goes in, base sites and a cell come out, and the space group makes a crystal of them
(Zhao et al. 2023, Algorithm 1 and section "Atom Clustering and Merging").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, StructureError
from autoperi.processes.base import Condition
from autoperi.symmetry.base_sites import merged


class BaseSites(NamedTuple):
    """What a generator makes.

    Attributes:
        sites: S sets of base sites of K slots, fractions of the conventional cell, ``[B, S, K, 3]``.
        lattice: conventional cells, rows in Å, ``[B, 3, 3]``.
        growth: logarithms of the ratios by which volumes were brought to natural ones, ``[B]``; None where none were.
    """

    sites: Tensor
    lattice: Tensor
    growth: Tensor | None = None


@dataclass(frozen=True, eq=False)
class OneShotState:
    """Noise, and what was made of it.

    Attributes:
        noise: ``[B, noise]``.
        elements: atomic numbers by slot, 0 for none, ``[B, K]``; groups: space groups, ``[B]``.
        merge: up to how many sums of atomic radii images of a site are merged.
        made: None at the start.
    """

    noise: Tensor
    elements: Tensor
    groups: Tensor
    merge: float
    made: BaseSites | None = None

    def crystals(self) -> CrystalBatch:
        """The crystals of the first of the sets, in primitive cells, in float64.

        Raises:
            StructureError: nothing was made yet.
        """
        if self.made is None:
            raise StructureError("a one-shot process has no crystals before its step; take it first")
        sites, lattice = (part.double() for part in self.made[:2])
        return merged(self.elements, sites[:, 0], lattice, self.groups, merge=self.merge)


class OneShot:
    """The process.

    Args:
        noise: random numbers that a crystal starts from.
        slots: K, the most elements of a crystal.
        merge: up to how many sums of atomic radii images of a site are merged.

    Raises:
        RequestError: a number that makes none.
    """

    def __init__(self, *, noise: int = 128, slots: int = 3, merge: float = 1.2) -> None:
        if not (noise >= 1 and slots >= 1 and merge >= 0):
            raise RequestError(
                f"noise={noise!r}, slots={slots!r}, merge={merge!r} make no process; give positive numbers"
            )
        self.noise, self.slots, self.merge = noise, slots, merge

    def start(self, condition: Condition, generators: Sequence[torch.Generator]) -> OneShotState:
        """Standard normal noise, one generator a crystal.

        Raises:
            RequestError: no space group, or more elements than slots.
        """
        if condition.space_group is None:
            raise RequestError("a one-shot process needs a space group for each crystal; give one")
        most = int(condition.n_atoms.max())
        if most > self.slots:
            raise RequestError(f"{most} elements are more than the {self.slots} that this process was made for")
        device = condition.n_atoms.device
        elements = torch.zeros(len(condition), self.slots, dtype=torch.long, device=device)
        elements[torch.arange(self.slots, device=device) < condition.n_atoms[:, None]] = condition.atomic_numbers
        noise = torch.stack([torch.randn(self.noise, generator=g, dtype=torch.float64) for g in generators])
        return OneShotState(noise.to(device), elements, condition.space_group, self.merge)

    def times(self, steps: int) -> list[float]:  # noqa: ARG002
        """From noise to crystals in one step, however many are asked for."""
        return [0.0, 1.0]

    def step(
        self,
        state: OneShotState,
        prediction: BaseSites,
        t: float,  # noqa: ARG002
        dt: float,  # noqa: ARG002
        generators: Sequence[torch.Generator],  # noqa: ARG002
    ) -> OneShotState:
        """What the generator made."""
        return replace(state, made=prediction)
