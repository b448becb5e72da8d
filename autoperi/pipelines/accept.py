"""Which candidates may be returned: the checks that every pipeline's crystals pass, and the loop that asks for more.

Atoms must keep their distance, the composition, the size of the primitive cell and the space group must be those of the
request, as found by symmetry analysis of the very crystal that would be returned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.data.checks import whole_number
from autoperi.data.convert import arrays_to_structures, batch_arrays
from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import symbol_of
from autoperi.errors import StructureError
from autoperi.geometry.distances import MIN_DISTANCE_RATIO, minimum_distance_ratios
from autoperi.models.evaluate import evaluate
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.potential import Potential
from autoperi.pipelines.base import Candidate, Pipeline
from autoperi.pipelines.ranking import Ranker
from autoperi.pipelines.request import Request
from autoperi.symmetry.analysis import STRICT_SYMPREC, analyse

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_BATCH = 32
ENERGY_DIGITS = 6
"""Decimals kept of energies (eV/atom): far above float64 noise, so batches cannot change a result."""
MAX_FALLBACKS = 300
"""Fallback candidates that are tried where no other passed."""
MAX_EMPTY_INDICES = 25
"""Indices in a row that yield no candidate at all, each after many attempts, after which nothing more is tried."""


@dataclass(frozen=True, eq=False)
class Accepted:
    """A candidate that passed all checks.

    Attributes:
        candidate: the crystal.
        energy: predicted formation energy, eV/atom; None where the model predicts none.
        potential_energy: by the potential, eV/atom; None where it did not rank.
        distance_ratio: smallest distance over the sum of covalent radii.
        space_group: number that spglib finds at symprec 0.01 Å.
    """

    candidate: Candidate
    energy: float | None
    potential_energy: float | None
    distance_ratio: float
    space_group: int

    @property
    def volume(self) -> float:
        """Of the cell, Å³."""
        return float(abs(np.linalg.det(self.candidate.lattice)))

    def note(self, ranker: Ranker) -> dict[str, Any]:
        """What the provenance of the crystal says of it."""
        own = self.candidate
        return {
            "index": own.index,
            "origin": own.origin,
            "log_likelihood": own.log_p,
            "formation_energy_per_atom_eV": self.energy,
            **({} if self.potential_energy is None else {"potential_energy_per_atom_eV": self.potential_energy}),
            "rank_score": ranker.score(self),
            "space_group": self.space_group,
            "min_distance_ratio": self.distance_ratio,
            **own.notes,
        }


def structures_of(accepted: Sequence[Accepted], ranker: Ranker, common: Mapping[str, Any]) -> list[Structure]:
    """pymatgen structures with their provenance: ``common``, and what is their own."""
    return arrays_to_structures(
        [(a.candidate.lattice, a.candidate.frac_coords, a.candidate.numbers) for a in accepted],
        properties=[{"autoperi": {**common, **a.note(ranker)}} for a in accepted],
    )


REASONS = {
    "too_close": "with atoms too close",
    "wrong_group": "of another space group",
    "smaller_cell": "of a smaller cell",
    "other_composition": "of another composition",
    "nothing": "for which nothing could be built",
    "filtered": "that the filter did not keep",
}
"""Counts of :class:`Tally` of candidates that were refused, in words."""


def reasons(of_composition: bool) -> dict[str, str]:
    """:data:`REASONS` of a request; where no composition was asked for, only a number of atoms can be another."""
    return REASONS if of_composition else {**REASONS, "other_composition": "of another number of atoms"}


@dataclass
class Tally:
    """How many candidates were tried, and why some were refused; ``filtered`` passed, but not the filter of a
    stream.
    """

    tried: int = 0
    too_close: int = 0
    wrong_group: int = 0
    smaller_cell: int = 0
    other_composition: int = 0
    nothing: int = 0
    filtered: int = 0
    accepted: int = 0

    def count(self, verdict: Accepted | str) -> None:
        """Count what became of a candidate: accepted, or the name of the count that says why not."""
        name = verdict if isinstance(verdict, str) else "accepted"
        self.tried += 1
        setattr(self, name, getattr(self, name) + 1)

    def too_few(self, wanted: int, request: Request) -> str:
        """That fewer than ``wanted`` crystals of a request passed, and why."""
        asked = "any composition" if request.asked is None else request.asked
        if request.sites is not None:
            asked = "sites " + "".join(f"{symbol_of(z)}{count}" for z, count in request.sites)
        words = reasons(request.composition is not None)
        always = ("too_close", "wrong_group", "smaller_cell")
        rare = (name for name in ("other_composition", "filtered") if getattr(self, name))
        refused = ", ".join(f"{getattr(self, name)} {words[name]}" for name in (*always, *rare, "nothing"))
        return (
            f"only {self.accepted} of {wanted} crystals of {asked} could be made ({self.tried} candidates tried, "
            f"{refused})"
        )


@dataclass(frozen=True, eq=False)
class Judge:
    """The checks, and the energies that ranking needs.

    Attributes:
        energy: predicts formation energies, or None.
        potential: ranks the candidates of a composition, where it knows the elements, or None.
        device: of the networks.
    """

    energy: FormationEnergy | None
    potential: Potential | None
    device: torch.device

    def ranks_by_potential(self, request: Request) -> bool:
        """Whether the potential ranks: its energies compare crystals of one composition alone."""
        if self.potential is None or request.composition is None:
            return False
        return bool(self.potential.seen[[z for z, _ in request.composition]].all())

    def verdicts(self, candidates: Sequence[Candidate], request: Request) -> Iterator[Accepted | str]:
        """What becomes of each candidate, in order: accepted, or the count of :class:`Tally` that says why not."""
        crystals = list(range(len(candidates)))
        try:
            batch = self._batch(candidates)
        except StructureError:  # one is no crystal at all
            crystals = [k for k in crystals if self._is_crystal(candidates[k])]
            batch = self._batch([candidates[k] for k in crystals])
        energies = ranking = None
        with torch.no_grad():
            ratios = dict(zip(crystals, minimum_distance_ratios(batch).tolist() if crystals else (), strict=True))
            apart = [place for place, k in enumerate(crystals) if ratios[k] >= MIN_DISTANCE_RATIO]
            if apart:
                energies, ranking = self._energies(batch[apart], request)
        place = -1  # among those that are apart
        for k, candidate in enumerate(candidates):
            if k not in ratios:
                yield "nothing"
                continue
            if ratios[k] < MIN_DISTANCE_RATIO:
                yield "too_close"
                continue
            place += 1
            if not _has_composition(candidate, request):
                yield "other_composition"
                continue
            number, atoms = _symmetry(candidate)
            if 0 < atoms < len(candidate.numbers):
                yield "smaller_cell"  # it is a crystal of another number of atoms
                continue
            wanted = candidate.group.number if candidate.group and candidate.group_asked else request.space_group
            if not number or wanted not in (None, number):
                yield "wrong_group"
                continue
            energy, potential = (
                None if e is None else round(float(e[place]), ENERGY_DIGITS) for e in (energies, ranking)
            )
            yield Accepted(candidate, energy, potential, round(ratios[k], 4), number)

    def _batch(self, candidates: Sequence[Candidate]) -> CrystalBatch:
        return batch_arrays(
            [c.lattice for c in candidates],
            [c.frac_coords for c in candidates],
            [c.numbers for c in candidates],
            dtype=torch.float64,
            device=self.device,
        )

    def _is_crystal(self, candidate: Candidate) -> bool:
        try:
            return len(self._batch([candidate])) == 1
        except StructureError:
            return False

    def _energies(self, batch: CrystalBatch, request: Request) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Formation energies and the potential's energies, eV/atom, each ``[B]`` or None."""
        energies = None if self.energy is None else self.energy(batch).cpu().numpy()
        if self.potential is None or not self.ranks_by_potential(request):
            return energies, None
        found = evaluate(self.potential, batch, derivatives=False).energy / batch.n_atoms
        return energies, found.cpu().numpy()


def judged(
    chunk: Sequence[Candidate | None], request: Request, pipeline: Pipeline, judge: Judge
) -> Iterator[Accepted | str]:
    """What becomes of each place of a stretch of the stream, in order: :meth:`Judge.verdicts`, and ``"nothing"`` where
    nothing could be built.
    """
    starts = [c for c in chunk if c is not None]
    verdicts = judge.verdicts(pipeline.refine(request, starts), request) if starts else iter(())
    yield from ("nothing" if start is None else next(verdicts) for start in chunk)


def run(
    request: Request,
    pipeline: Pipeline,
    judge: Judge,
    *,
    pool: int | None = None,
    batch_size: int = DEFAULT_BATCH,
    on_accepted: Callable[[Accepted], None] | None = None,
    tally: Tally | None = None,
) -> list[Accepted]:
    """The first candidates of the stream that pass, in stream order.

    There are ``pool`` of them, of which fallbacks count among the first ``request.n`` alone. Stops early, with fewer,
    where the stream ends, yields nothing :data:`MAX_EMPTY_INDICES` times in a row, or ``10 n + 200`` candidates were
    tried.

    Args:
        request: a checked request.
        pipeline: whose stream.
        judge: the checks.
        pool: candidates wanted for ranking, at least ``request.n``; None is that number itself.
        batch_size: candidates worked on together; changes speed, never results.
        on_accepted: called with each crystal as it passes.
        tally: filled with counts.
    """
    tally = tally if tally is not None else Tally()
    source = pipeline.candidates(request, count())
    most = max(request.n, pool or 0)
    stream: Iterator[Candidate | None] = islice(source, 10 * most + 200)
    done: list[Accepted] = []
    fallbacks_only, misses = False, 0
    while len(done) < most and misses < MAX_EMPTY_INDICES:
        # a candidate seldom fails: reading just what is missing wastes nothing
        chunk = list(islice(stream, min(batch_size, most - len(done))))
        if len(done) >= request.n and any(c is None or c.fallback for c in chunk):
            chunk = [c for c in chunk if c is not None and not c.fallback]
            stream = iter(())  # after the first fallback the others are fallbacks too
        if not chunk and not done and not fallbacks_only and pipeline.falls_back and request.composition is not None:
            # none of those that were tried suits the request: what is left to try are fallbacks
            fallbacks_only = True
            stream = islice((c for c in source if c is None or c.fallback), MAX_FALLBACKS)
            continue
        if not chunk:
            break
        for k, candidate in enumerate(chunk):
            misses = misses + 1 if candidate is None else 0
            if misses == MAX_EMPTY_INDICES:
                chunk = chunk[: k + 1]  # what comes after it in this chunk came by chance
                break
        for verdict in judged(chunk, request, pipeline, judge):
            if len(done) >= request.n and isinstance(verdict, Accepted) and verdict.candidate.fallback:
                return done
            tally.count(verdict)
            if isinstance(verdict, str):
                continue
            done.append(verdict)
            if on_accepted is not None:
                on_accepted(verdict)
    return done


def batch_size_of(value: int | str) -> int:
    """Candidates worked on together; ``"auto"`` is :data:`DEFAULT_BATCH`.

    Raises:
        RequestError: it is no positive number.
    """
    if value == "auto":
        return DEFAULT_BATCH
    return whole_number(value, "batch_size", refusal="is not a positive number; give one, or 'auto'")


def _has_composition(candidate: Candidate, request: Request) -> bool:
    """Whether elements and their numbers are as asked for."""
    content = Counter(candidate.numbers.tolist())
    low, high = request.num_elements or (1, len(content))
    if not request.min_atoms <= len(candidate.numbers) <= request.max_atoms or not low <= len(content) <= high:
        return False
    if request.exclude_elements & set(content) or request.chemical_system not in (None, frozenset(content)):
        return False
    if request.composition is None:
        return True
    units, rest = divmod(len(candidate.numbers), request.atoms_per_unit)
    return not rest and content == {z: units * c for z, c in request.composition}


def _symmetry(candidate: Candidate) -> tuple[int, int]:
    """Space group and atoms of the primitive cell as spglib finds them; zeros where it finds nothing."""
    try:
        found = analyse(candidate.lattice, candidate.frac_coords, candidate.numbers, symprec=STRICT_SYMPREC)
        return found.number, len(found.primitive_numbers)
    except StructureError:
        return 0, 0
