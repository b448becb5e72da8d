"""A stream: the crystals of a request one after another, in the order in which the pipeline makes them.

Nothing is kept of a crystal that was given, so memory does not grow. What comes at an index depends on the request and
``(seed, index)`` alone, so a stream can be taken up at any index, given its :class:`Place`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from autoperi.data.convert import structure_to_atoms
from autoperi.errors import AutoPeriWarning
from autoperi.pipelines.accept import MAX_EMPTY_INDICES, Accepted, Judge, Tally, judged, structures_of
from autoperi.pipelines.base import Candidate, Pipeline
from autoperi.pipelines.ranking import Ranker
from autoperi.pipelines.request import Request

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_BARREN_CANDIDATES = 100_000
"""Candidates in a row of which none was kept, after which a stream ends."""
ENDED = "its candidates came to an end"
EMPTY = f"nothing could be built at {MAX_EMPTY_INDICES} places in a row"
BARREN = f"of the last {MAX_BARREN_CANDIDATES:,} candidates none was kept"
"""Why a stream ended before ``n`` crystals."""


@dataclass
class Place:
    """Where a stream stands: all that a later process needs to go on with it.

    Attributes:
        index: of the next candidate.
        kept: crystals so far.
        empty: indices in a row, up to here, that yielded no candidate.
        barren: candidates in a row, up to here, of which none was kept.
        ended: why the stream ended before ``n`` crystals, or None.
    """

    index: int = 0
    kept: int = 0
    empty: int = 0
    barren: int = 0
    ended: str | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """The stream of one checked request.

    Attributes:
        request: whose crystals.
        pipeline: makes candidates.
        judge: checks them.
        ranker: gives the provenance its score.
        provenance: what every crystal says: the model and the seed.
        keeps: the filter, or None.
        batch_size: candidates worked on together; changes no result.
        as_ase: what is given are ASE ``Atoms``.
    """

    request: Request
    pipeline: Pipeline
    judge: Judge
    ranker: Ranker
    provenance: dict[str, Any]
    keeps: Callable[[Sequence[Any]], list[bool]] | None
    batch_size: int
    as_ase: bool = False

    def verdicts(self, place: Place) -> Iterator[Accepted | str]:
        """What becomes of each candidate from a place on: kept, or the count of :class:`Tally` that says why not.

        ``place`` moves on with each, and says in the end why the stream ended, where it did so before ``n`` crystals.
        """
        request = self.request
        source = self.pipeline.candidates(request, count(place.index))
        while place.kept < request.n and place.ended is None:
            # towards the end no more than is missing, unless little of it is kept
            size = min(self.batch_size, max(request.n - place.kept, place.barren))
            chunk = list(islice(source, size))
            if not chunk:
                place.ended = ENDED
            for start, verdict in zip(chunk, self._filtered(chunk), strict=True):
                kept = isinstance(verdict, Accepted)
                place.index += 1
                place.kept += kept
                place.empty = place.empty + 1 if start is None else 0
                place.barren = 0 if kept else place.barren + 1
                if place.kept < request.n:
                    reason = BARREN if place.barren >= MAX_BARREN_CANDIDATES else None
                    place.ended = EMPTY if place.empty >= MAX_EMPTY_INDICES else reason
                yield verdict
                if place.kept == request.n or place.ended is not None:
                    return

    def crystals(self) -> Iterator[Any]:
        """The crystals; a warning says why there are fewer than ``n``."""
        place, tally = Place(), Tally()
        for verdict in self.verdicts(place):
            tally.count(verdict)
            if isinstance(verdict, Accepted):
                yield self._given([verdict])[0]
        if place.ended is not None:
            warnings.warn(self.too_few(tally, place), AutoPeriWarning, stacklevel=2)

    def too_few(self, tally: Tally, place: Place) -> str:
        """That the stream ended before ``n`` crystals, and why."""
        return f"{tally.too_few(self.request.n, self.request)}; the stream ended because {place.ended}"

    def note(self, accepted: Accepted) -> dict[str, Any]:
        """The provenance of a crystal."""
        return self.provenance | accepted.note(self.ranker)

    def structures(self, accepted: Sequence[Accepted]) -> list[Structure]:
        """As pymatgen structures."""
        return structures_of(accepted, self.ranker, self.provenance)

    def _given(self, accepted: Sequence[Accepted]) -> list[Any]:
        found = self.structures(accepted)
        return [structure_to_atoms(s) for s in found] if self.as_ase else found

    def _filtered(self, chunk: Sequence[Candidate | None]) -> Iterator[Accepted | str]:
        verdicts = judged(chunk, self.request, self.pipeline, self.judge)
        if self.keeps is None:
            yield from verdicts
            return
        found = list(verdicts)
        kept = iter(self.keeps(self._given([v for v in found if isinstance(v, Accepted)])))
        for verdict in found:
            yield verdict if isinstance(verdict, str) or next(kept) else "filtered"
