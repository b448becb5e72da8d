"""What a process is: how predictions of a network move crystals, with no network inside.

A sampler starts from noise and takes a prediction and a step in turn::

    state = process.start(condition, generators)
    for t, later in pairwise(process.times(steps)):
        state = process.step(state, model.predict(state, t, condition), t, later - t, generators)
    crystals = state.crystals()

Every crystal has a generator of its own, so that none depends on those beside it; noise is drawn on the CPU, one
crystal after another. What a state holds is the process's own matter: a cell and a torus of coordinates, the free
parameters inside a space group (:class:`~autoperi.symmetry.freedom.Freedom`), or orbits with their images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch


@dataclass(frozen=True, eq=False)
class Condition:
    """What B crystals with N atoms shall be.

    Attributes:
        atomic_numbers: ``[N]``, crystal after crystal.
        n_atoms: ``[B]``.
        space_group: numbers 1..230, ``[B]``, or None where any will do.
        sites: which sites of the group the atoms take, where a process moves sites
            (:class:`~autoperi.symmetry.sites.Sites`); None until a network has said it.
        are_sites: the atoms named are sites, each of which stands for as many atoms as the group makes of it.
    """

    atomic_numbers: Tensor
    n_atoms: Tensor
    space_group: Tensor | None = None
    sites: Any = None
    are_sites: bool = False

    def __len__(self) -> int:
        return len(self.n_atoms)

    @property
    def batch(self) -> Tensor:
        """The crystal of each atom, ``[N]``."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.n_atoms.device), self.n_atoms)


class State(Protocol):
    """Crystals on their way."""

    def crystals(self) -> CrystalBatch:
        """The crystals as they are now."""
        ...


S = TypeVar("S", bound=State)


class Process(Protocol[S]):
    """A stepper; its options are keyword arguments of its constructor, all with defaults."""

    def start(self, condition: Condition, generators: Sequence[torch.Generator]) -> S:
        """Crystals of noise, in float64, one generator a crystal."""
        ...

    def times(self, steps: int) -> list[float]:
        """The ``steps + 1`` times from start to end."""
        ...

    def step(self, state: S, prediction: Any, t: float, dt: float, generators: Sequence[torch.Generator]) -> S:
        """The state at ``t + dt``, from a network's prediction at ``t``."""
        ...


class Predictor(Protocol):
    """A generative network, as a sampler asks it.

    One that knows more of what crystals shall be, such as the Wyckoff positions that hold a composition, may also have
    ``completed(condition, generators)``, which gives the condition with all of that.
    """

    def predict(self, state: Any, t: float, condition: Condition) -> Any:
        """What the process wants to know of the state at time ``t``."""
        ...
