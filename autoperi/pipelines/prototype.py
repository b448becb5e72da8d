"""The default pipeline: prototypes that exist and orbits that could, refined by a flow, in relaxed cells.

Starts come from the prototype prior and the orbit network in order of probability, AutoPeri-GNN's flow moves their free
coordinates and cells, and the lattice relaxer has the last word on the cells. The space group of a start is kept at
every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np
import torch

from autoperi.data.convert import batch_arrays
from autoperi.errors import RequestError, WeightsError
from autoperi.hub.networks import LoadedBundle
from autoperi.pipelines.base import DE_NOVO, Candidate, Pipeline
from autoperi.pipelines.decoder import Decoder
from autoperi.pipelines.mixture import MAX_NEW_ATOMS, Mixture, NetworkAlone
from autoperi.pipelines.prototype_stream import OrbitCandidate, candidates
from autoperi.pipelines.request import Request
from autoperi.pipelines.settings import Settings
from autoperi.processes.lattice import LATTICE_DIGITS, relax_cells
from autoperi.symmetry.analysis import symmetrize_lattice


@dataclass(frozen=True, eq=False)
class PrototypePipeline(Pipeline):
    """See the module's docstring.

    Attributes:
        mixture: the prototype prior and the orbit network.
        decoder: the flow that gives candidates their geometry; None leaves prototypes as they are.
        relaxer: relaxes cells; None leaves them as they are.
        passes: of the relaxer, where the request says nothing.
        device: of the networks.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "composition",
            DE_NOVO,
            "space_group",
            "num_atoms",
            "chemical_system",
            "exclude_elements",
            "num_elements",
            "like",
            "steps",
        }
    )
    parts: ClassVar[tuple[str, ...]] = ("autoperi-gnn", "prior")
    falls_back: ClassVar[bool] = True

    mixture: Mixture
    decoder: Decoder | None
    relaxer: Any
    passes: int
    device: torch.device

    @classmethod
    def from_bundle(cls, model: LoadedBundle, settings: Settings) -> PrototypePipeline:  # noqa: D102
        proposer = model.need("prior", "the prototype pipeline").with_settings(
            known_weight=settings.known_weight,
            denovo_temperature=settings.denovo_temperature,
            denovo_known=settings.denovo_known,
        )
        flow = model.find("autoperi_gnn")
        orbits = model.find("orbit_network") if flow is not None else None  # orbits without a geometry are no crystals
        decoder = None
        if flow is not None:
            decoder = Decoder(
                flow,
                model.potential(),
                near_steps=settings.near_steps,
                noise_steps=settings.noise_steps,
                draws=settings.noise_draws,
                anneal=settings.anneal,
            )
        mixture = Mixture(proposer, orbits, share=settings.orbits_share, novelty=settings.orbits_novelty)
        return cls(mixture, decoder, model.relaxer(), settings.generate_steps, model.device)

    def part(self, name: str) -> PrototypePipeline:
        """``prior``: prototypes as they are; ``autoperi-gnn``: orbits of the network, with geometries from noise.

        Raises:
            RequestError: there is no such part. WeightsError: the model lacks its networks.
        """
        proposer, network = self.mixture.proposer, self.mixture.network
        if name not in self.parts:
            raise RequestError(f"model={name!r} is not a generator of this model; choose from {', '.join(self.parts)}")
        if name == "prior":
            return replace(self, mixture=Mixture(proposer, None, share=0.0, novelty=0.0), decoder=None)
        if self.decoder is None or network is None:
            raise WeightsError(
                "this model has no flow or no orbit network, both of which model='autoperi-gnn' needs; use a complete "
                "model such as 'autoperi-base'"
            )
        return replace(self, mixture=NetworkAlone(proposer, network, share=1.0, novelty=1.0))

    def check(self, request: Request, model: str) -> None:  # noqa: D102
        super().check(request, model)
        if request.model == "autoperi-gnn" and request.composition is None:
            raise RequestError("model='autoperi-gnn' draws no compositions; give one, or leave model out")
        if request.model == "autoperi-gnn" and request.like is None and not _small_units(request):
            least = request.units[0] * request.atoms_per_unit
            raise RequestError(
                f"model='autoperi-gnn' draws primitive cells of up to {MAX_NEW_ATOMS} atoms, and the smallest that was "
                f"asked for has {least}; ask for smaller cells, or leave model out"
            )

    def candidates(self, request: Request, indices: Iterable[int]) -> Iterator[Candidate | None]:  # noqa: D102
        if isinstance(self.mixture, NetworkAlone) and request.like is None:
            request = replace(request, units=_small_units(request))  # elsewhere the network would have no say
        stream, place = candidates(request, self.mixture), 0
        for index in indices:
            try:
                yield next(islice(stream, index - place, None))
            except StopIteration:
                return
            place = index + 1

    def refine(self, request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Free coordinates and cells by the flow, then lattice passes; the space group stays exactly."""
        chunk = cast("list[OrbitCandidate]", list(candidates))
        if self.decoder is not None:
            chunk = self.decoder(chunk, request.seed)
        lattices = [c.lattice for c in chunk]
        if self.relaxer is not None:
            batch = batch_arrays(
                lattices,
                [c.frac_coords for c in chunk],
                [c.numbers for c in chunk],
                dtype=torch.float64,
                device=self.device,
            )
            passes = self.passes if request.steps is None else request.steps
            with torch.no_grad():
                lattices = list(relax_cells(self.relaxer, batch, passes=passes).crystals.lattice.cpu().numpy())
        done: list[Candidate] = []
        for candidate, lattice in zip(chunk, lattices, strict=True):
            # an equivariant field keeps the symmetry up to rounding; the projection removes the rounding
            exact = symmetrize_lattice(lattice, candidate.group.rotations) if candidate.group else lattice
            # no negative zeros: they would differ between batches
            done.append(replace(candidate, lattice=np.round(exact, LATTICE_DIGITS) + 0.0))
        return done


def _small_units(request: Request) -> tuple[int, ...]:
    """Numbers of formula units whose cells the orbit network fills."""
    return tuple(k for k in request.units if k * request.atoms_per_unit <= MAX_NEW_ATOMS)
