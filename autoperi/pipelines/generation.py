"""From proposals to finished crystals: relax, check, rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from autoperi.data.convert import batch_arrays
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.distances import MIN_DISTANCE_RATIO, minimum_distance_ratios
from autoperi.models.empnn import Empnn
from autoperi.models.evaluate import evaluate
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.models.potential import Potential
from autoperi.pipelines.candidates import Proposal, proposals
from autoperi.pipelines.decoder import Decoder
from autoperi.pipelines.mixture import Mixture, NetworkAlone
from autoperi.pipelines.ranking import Pool, log_p
from autoperi.pipelines.request import GenerationRequest
from autoperi.processes.lattice import LATTICE_DIGITS, relax_cells
from autoperi.symmetry.analysis import analyse, symmetrize_lattice

GENERATORS = ("autoperi-gnn", "prior")
"""Parts that may generate alone: orbit network and flow from noise, or the structure types of the prior as they are."""
SYMPREC = 0.01
DEFAULT_BATCH = 32
DIGITS = 6
"""Decimals kept of energies (eV/atom): far above float64 noise, so batches cannot change a result."""
RANDOM_TRIES = 300
"""Candidates beyond the prototypes that are tried where no prototype passed."""
HOPELESS = 25
"""Indices in a row that yield no candidate at all, each after many attempts, after which nothing more is tried."""


@dataclass(frozen=True, eq=False)
class Generator:
    """The parts of a model that ``generate`` wires together, in float64.

    Attributes:
        mixture: the prototype prior and the orbit network.
        decoder: the flow that gives candidates their geometry; None leaves prototypes as they are.
        empnn: the lattice relaxer.
        energy: formation energy.
        steps: default relaxation passes.
        temperature: eV/atom of formation energy that weigh as much as one nat in the ranking.
        potential: ranks the candidates of a composition instead, if the model has one and it knows the elements.
        potential_temperature: eV/atom of its energy that weigh as much as one nat.
        device: of the networks.
        pool: how many candidates are finished for those that are returned.
    """

    mixture: Mixture
    decoder: Decoder | None
    empnn: Empnn | LatticeRelaxer
    energy: FormationEnergy
    steps: int
    temperature: float
    potential: Potential | None
    potential_temperature: float
    device: torch.device
    pool: Pool = field(default_factory=Pool)

    def alone(self, name: str) -> Generator:
        """The generator with one of :data:`GENERATORS` alone."""
        proposer, network = self.mixture.proposer, self.mixture.network
        if name == "prior":
            return replace(self, mixture=Mixture(proposer, None, share=0.0, novelty=0.0), decoder=None)
        return replace(self, mixture=NetworkAlone(proposer, network, share=1.0, novelty=1.0))


@dataclass(frozen=True, eq=False)
class Finished:
    """A crystal that passed all checks.

    Attributes:
        proposal: what it started from.
        lattice: relaxed rows in Å, ``[3, 3]``.
        energy: predicted formation energy, eV/atom.
        potential_energy: by the potential, eV/atom; None where it did not rank.
        distance_ratio: smallest distance over the sum of covalent radii.
        space_group: number that spglib finds at symprec 0.01.
        rank_score: lower is better.
    """

    proposal: Proposal
    lattice: np.ndarray
    energy: float
    potential_energy: float | None
    distance_ratio: float
    space_group: int
    rank_score: float

    @property
    def volume(self) -> float:
        """Of the cell, Å³."""
        return float(abs(np.linalg.det(self.lattice)))

    def note(self) -> dict[str, Any]:
        """What the provenance of the crystal says of it."""
        return {
            "index": self.proposal.index,
            "origin": self.proposal.origin,
            "log_likelihood": self.proposal.log_p,
            "formation_energy_per_atom_eV": self.energy,
            **({} if self.potential_energy is None else {"potential_energy_per_atom_eV": self.potential_energy}),
            "rank_score": self.rank_score,
            "space_group": self.space_group,
            "min_distance_ratio": self.distance_ratio,
        }


@dataclass
class Tally:
    """How many candidates were tried, and why some were refused."""

    tried: int = 0
    too_close: int = 0
    wrong_group: int = 0
    smaller_cell: int = 0
    nothing: int = 0
    accepted: int = 0

    def too_few(self, wanted: int, composition: Any) -> str:
        """That fewer than ``wanted`` crystals of ``composition`` (None: any) passed, and why."""
        asked = "any composition" if composition is None else composition
        return (
            f"only {self.accepted} of {wanted} crystals of {asked} could be made ({self.tried} candidates tried, "
            f"{self.too_close} with atoms "
            f"too close, {self.wrong_group} of another space group, {self.smaller_cell} of a smaller cell, "
            f"{self.nothing} for which nothing "
            "could be built)"
        )


def run(
    request: GenerationRequest,
    model: Generator,
    *,
    pool: int | None = None,
    batch_size: int = DEFAULT_BATCH,
    on_finished: Callable[[Finished], None] | None = None,
    tally: Tally | None = None,
) -> list[Finished]:
    """The first candidates of the stream that pass, in stream order: ``pool`` of them, of which random ones count among
    the first ``request.n`` alone.

    Stops early, with fewer, where the stream ends, yields nothing :data:`HOPELESS` times in a row, or ``10 n + 200``
    candidates were tried.

    Args:
        request: a checked request.
        model: the wired parts.
        pool: candidates wanted for ranking, at least ``request.n``; None is that number itself.
        batch_size: candidates relaxed together; changes speed, never results.
        on_finished: called with each crystal as it passes.
        tally: filled with counts.
    """
    tally = tally if tally is not None else Tally()
    source = proposals(request, model.mixture)
    most = max(request.n, pool or 0)
    stream: Iterator[Proposal | None] = islice(source, 10 * most + 200)
    done: list[Finished] = []
    random, misses = False, 0
    while len(done) < most and misses < HOPELESS:
        # a candidate seldom fails: reading just what is missing wastes nothing
        chunk = list(islice(stream, min(batch_size, most - len(done))))
        if len(done) >= request.n and any(p is None or p.origin == "random" for p in chunk):
            chunk = [p for p in chunk if p is not None and p.origin != "random"]
            stream = iter(())  # after the first random crystal the others are random too
        if not chunk and not done and not random and request.formula is not None:
            # no prototype suits these elements: what is left to try are random crystals
            random, stream = True, islice((p for p in source if p is None or p.origin == "random"), RANDOM_TRIES)
            continue
        if not chunk:
            break
        for k, p in enumerate(chunk):
            misses = misses + 1 if p is None else 0
            if misses == HOPELESS:
                chunk = chunk[: k + 1]  # what comes after it in this chunk came by chance
                break
        tally.tried += len(chunk)
        tally.nothing += sum(p is None for p in chunk)
        for finished in _finish([p for p in chunk if p is not None], request, model, tally):
            if len(done) >= request.n and finished.proposal.origin == "random":
                return done
            done.append(finished)
            tally.accepted += 1
            if on_finished is not None:
                on_finished(finished)
    return done


def _finish(chunk: list[Proposal], request: GenerationRequest, model: Generator, tally: Tally) -> Iterator[Finished]:
    if not chunk:
        return
    if model.decoder is not None:
        chunk = model.decoder(chunk, request.seed)
    batch = batch_arrays(
        [p.lattice for p in chunk],
        [p.frac_coords for p in chunk],
        [p.numbers for p in chunk],
        dtype=torch.float64,
        device=model.device,
    )
    with torch.no_grad():
        batch = relax_cells(model.empnn, batch, passes=model.steps if request.steps is None else request.steps).crystals
        lattices = batch.lattice.cpu().numpy()
        # an equivariant field keeps the symmetry up to rounding; the projection removes the rounding
        exact = np.stack(
            [symmetrize_lattice(lattice, p.group.rotations) for lattice, p in zip(lattices, chunk, strict=True)]
        )
        exact = np.round(exact, LATTICE_DIGITS) + 0.0  # no negative zeros: they would differ between batches
        batch = batch.replace(lattice=torch.as_tensor(exact).to(batch.lattice))
        ratios = minimum_distance_ratios(batch).cpu().numpy()
        close = ratios < MIN_DISTANCE_RATIO
        energies = np.full(len(chunk), np.nan)
        apart = np.nonzero(~close)[0]
        ranking: np.ndarray | None = None
        if len(apart):
            energies[apart] = model.energy(batch[apart.tolist()]).cpu().numpy()
            if ranks_by_potential(request, model):
                ranking = np.full(len(chunk), np.nan)
                ranking[apart] = _potential_energies(model, batch[apart.tolist()])
    tally.too_close += int(close.sum())
    for k in apart:
        p, energy = chunk[k], round(float(energies[k]), DIGITS)
        number, atoms = _symmetry(exact[k], p)
        if 0 < atoms < len(p.numbers):
            tally.smaller_cell += 1  # it is a crystal of another number of atoms
            continue
        if not number or (request.space_group is not None and number != request.space_group):
            tally.wrong_group += 1
            continue
        potential = None if ranking is None else round(float(ranking[k]), DIGITS)
        # summed in one place, so that ranking is one number: nats
        nats = energy / model.temperature if potential is None else potential / model.potential_temperature
        score = round(nats - log_p(p), DIGITS) if math.isfinite(nats) else math.inf
        yield Finished(p, exact[k], energy, potential, round(float(ratios[k]), 4), number, score)


def ranks_by_potential(request: GenerationRequest, model: Generator) -> bool:
    """Whether the potential ranks: its energies compare crystals of one composition alone."""
    if model.potential is None or request.formula is None:
        return False
    return bool(model.potential.seen[[z for z, _ in request.formula]].all())


def _potential_energies(model: Generator, batch: CrystalBatch) -> np.ndarray:
    """eV/atom, ``[B]``."""
    assert model.potential is not None
    energy: np.ndarray = (evaluate(model.potential, batch, derivatives=False).energy / batch.n_atoms).cpu().numpy()
    return energy


def _symmetry(lattice: np.ndarray, proposal: Proposal) -> tuple[int, int]:
    """Space group and atoms of the primitive cell as spglib finds them; zeros where it finds nothing."""
    try:
        found = analyse(lattice, proposal.frac_coords, proposal.numbers, symprec=SYMPREC)
        return found.number, len(found.primitive_numbers)
    except StructureError:
        return 0, 0
