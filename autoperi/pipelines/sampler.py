"""A pipeline for any generative network with any process: from noise to crystals, without templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.errors import StructureError, WeightsError
from autoperi.hub.networks import LoadedBundle
from autoperi.pipelines.base import Candidate, Pipeline
from autoperi.pipelines.request import MAX_STEPS, Request
from autoperi.pipelines.settings import Settings
from autoperi.processes.base import Condition, Predictor, Process, State
from autoperi.registry import load

DIGITS = 6
"""Decimals kept of lattices (Å) and fractional coordinates: what batches and threads leave of rounding lies far
below.
"""
MAX_CELL_SIZES = 4
"""Numbers of formula units that are taken in turn, the smallest first, where the request leaves several."""
HONOURED = frozenset({"space_group", "sites", "chemical_system", "exclude_elements", "num_elements"})
"""What a kind may say that it supports: a process is told the space group, and the rest a composition decides."""
START_VOLUME = 20.0
"""Å³ an atom of the cell that a candidate has before it is sampled."""


@dataclass(frozen=True, eq=False)
class SamplerPipeline(Pipeline):
    """Starts a process from noise and asks the network at every step.

    Attributes:
        network: in float64.
        process: how its predictions move crystals.
        steps: of the process, where the request says nothing.
        device: of the network.
        origin: what the provenance says that crystals were made by: the kind.
        supports: what the kind says that it honours.
    """

    network: Predictor
    process: Process[Any]
    steps: int
    device: torch.device
    origin: str
    supports: frozenset[str]  # type: ignore[misc]
    min_steps: ClassVar[int] = 1
    max_steps: ClassVar[int] = MAX_STEPS
    steps_name: ClassVar[str] = "steps of a process"

    @classmethod
    def from_bundle(cls, model: LoadedBundle, settings: Settings) -> SamplerPipeline:  # noqa: D102
        kinds = [
            kind for kind in model.kinds("generator") if ":" in kind.process
        ]  # a class, not the steps of another pipeline
        if len(kinds) != 1:
            held = ", ".join(kind.name for kind in kinds) or "none"
            raise WeightsError(
                f"model {model.bundle.name!r} names the pipeline 'sampler', which runs one generative network; it "
                f"holds {held}"
            )
        (kind,) = kinds
        if not set(kind.supports) <= HONOURED:
            raise WeightsError(
                f"kind {kind.name!r} says that it supports {', '.join(sorted(set(kind.supports) - HONOURED))}, which "
                f"the pipeline 'sampler' cannot hand on; it can {', '.join(sorted(HONOURED))}"
            )
        network = model.need(kind.name, "its pipeline")
        # a network that was made for a process with certain options says so; what the config says stands above it
        options = {**getattr(network, "process_options", {}), **(model.bundle.metadata.get("process") or {})}
        try:
            process = load(kind.process)(**options)
        except (TypeError, ValueError) as error:
            raise WeightsError(
                f"process of model {model.bundle.name!r} does not take {options!r} ({error}); mend its config.json"
            ) from None
        supports = frozenset({"composition", "num_atoms", "steps", *kind.supports})
        return cls(network, process, settings.sampling_steps, model.device, kind.word, supports)

    def candidates(self, request: Request, indices: Iterable[int]) -> Iterator[Candidate | None]:
        """The elements of each cell, sizes in turn; where their atoms are is for :meth:`refine` to draw."""
        sizes = request.units[:MAX_CELL_SIZES]
        for index in indices:
            units = sizes[index % len(sizes)] if sizes else 1
            content = request.sites or request.composition or ()
            numbers = np.repeat(*np.array([(z, units * c) for z, c in content]).T)
            lattice = np.eye(3) * (START_VOLUME * len(numbers)) ** (1 / 3)
            yield Candidate(index, lattice, np.zeros((len(numbers), 3)), numbers, None, self.origin)

    def refine(self, request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The crystals at the end of the process; one that came apart on the way has no lattice."""
        try:
            return self._sampled(request, candidates)
        except (StructureError, torch.linalg.LinAlgError):
            if len(candidates) == 1:
                return [replace(candidates[0], lattice=np.full((3, 3), np.nan))]
            return [self.refine(request, [one])[0] for one in candidates]  # it takes no other with it

    def starts(self, request: Request, candidates: Sequence[Candidate]) -> tuple[Condition, list[torch.Generator]]:
        """What the process is told of each crystal, and the generator that is its own."""
        generators = [torch_generator(request.seed, c.index) for c in candidates]
        groups = [request.space_group if c.group is None else c.group.number for c in candidates]
        condition = Condition(
            torch.as_tensor(np.concatenate([c.numbers for c in candidates])).to(self.device),
            torch.tensor([len(c.numbers) for c in candidates], device=self.device),
            None if any(g is None for g in groups) else torch.tensor(groups, device=self.device),
            are_sites=request.sites is not None,
        )
        return condition, generators

    def _sampled(self, request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
        crystals = self.sample(*self.starts(request, candidates), request.steps)
        return [
            replace(
                candidate,
                lattice=np.round(lattice.numpy(), DIGITS) + 0.0,
                frac_coords=np.round(frac.numpy(), DIGITS) % 1.0,
                numbers=numbers.numpy(),
            )
            for candidate, (lattice, frac, numbers) in zip(candidates, crystals.unbatch(), strict=True)
        ]

    def sample(
        self, condition: Condition, generators: Sequence[torch.Generator], steps: int | None = None
    ) -> CrystalBatch:
        """Crystals at the end of the process, in float64 on the CPU.

        Raises:
            StructureError: one came apart on the way.
        """
        return self.state(condition, generators, steps).crystals().to(device="cpu").to(dtype=torch.float64)

    def state(self, condition: Condition, generators: Sequence[torch.Generator], steps: int | None = None) -> State:
        """The end of the process, of which crystals are made."""
        if hasattr(self.network, "completed"):
            condition = self.network.completed(condition, generators)
        times = self.process.times(self.steps if steps is None else steps)
        with torch.no_grad():
            state = self.process.start(condition, generators)
            for t, later in pairwise(times):
                state = self.process.step(state, self.network.predict(state, t, condition), t, later - t, generators)
        return state
