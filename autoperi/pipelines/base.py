"""What every pipeline is: a stream of candidates for a request, and a way to make crystals of them.

A *pipeline* joins networks and processes. It knows nothing of checks, ranking or relaxation with the potential, which
are common to all (:mod:`~autoperi.pipelines.accept`, :mod:`~autoperi.pipelines.ranking`,
:mod:`~autoperi.pipelines.finish`) and see candidates only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from autoperi.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

    from autoperi.hub.networks import LoadedBundle
    from autoperi.pipelines.request import Request
    from autoperi.pipelines.settings import Settings
    from autoperi.symmetry.spacegroup import SpaceGroup

COMMON = frozenset({"n", "rank", "seed", "finish", "target"})
"""Options that no pipeline need know: they are honoured by what comes after it."""
DE_NOVO = "de novo"
"""What a pipeline supports that needs no composition."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A crystal on its way to being returned.

    Attributes:
        index: place in the stream.
        lattice: rows in Å, ``[3, 3]``; ``frac_coords``: ``[n, 3]``; ``numbers``: ``[n]``.
        log_p: the pipeline's natural log-probability of it, or None.
        origin: what it was made from, in a word or two.
        group: the space group that it was built in, acting on this cell; None where no group was asked of it.
        group_asked: the pipeline drew the group for it, and it may be returned with no other.
        fallback: it is tried only where too few others pass.
        notes: what the provenance says of it besides; JSON-plain.
    """

    index: int
    lattice: np.ndarray
    frac_coords: np.ndarray
    numbers: np.ndarray
    log_p: float | None
    origin: str
    group: SpaceGroup | None = None
    group_asked: bool = False
    fallback: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


class Pipeline(ABC):
    """A stream of candidates for a request.

    Everything about a candidate depends on the request and ``(seed, index)`` alone, never on those beside it.

    Attributes:
        supports: options of a request that it honours, beside :data:`COMMON`; :data:`DE_NOVO` where it draws
            compositions too.
        parts: what ``generate(model=…)`` may name.
        min_steps, max_steps: fewest and most steps that a request may ask for; steps_name: what they are steps of.
        falls_back: whether candidates that are tried only where no other passes end its stream.
        stream_batch: candidates that a long stream works on together where nothing is said; 0 for the usual number.
    """

    supports: ClassVar[frozenset[str]]
    parts: ClassVar[tuple[str, ...]] = ()
    min_steps: ClassVar[int] = 0
    max_steps: ClassVar[int] = 20
    steps_name: ClassVar[str] = "relaxation passes"
    falls_back: ClassVar[bool] = False
    stream_batch: ClassVar[int] = 0

    @classmethod
    @abstractmethod
    def from_bundle(cls, model: LoadedBundle, settings: Settings) -> Pipeline:
        """The pipeline of a model.

        Raises:
            WeightsError: the model lacks a network that this pipeline cannot do without.
        """

    @abstractmethod
    def candidates(self, request: Request, indices: Iterable[int]) -> Iterator[Candidate | None]:
        """The starts of the stream at ascending ``indices``, cheap to have; None where an index yields nothing.

        Ends before ``indices`` do where nothing more can ever come.

        Raises:
            RequestError: the request cannot be honoured, before the first candidate.
        """

    @abstractmethod
    def refine(self, request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The same candidates with the geometry that the networks give them, in order; the costly part, in one
        batch.
        """

    def part(self, name: str) -> Pipeline:
        """One of :attr:`parts` alone.

        Raises:
            RequestError: there is no such part.
        """
        raise RequestError(f"model={name!r} is not a part of this model, which has none; leave it out")

    def check(self, request: Request, model: str) -> None:
        """Refuse what this pipeline would not honour; ``model`` is the name of the model.

        Raises:
            RequestError: naming the option.
        """
        if request.composition is None and request.sites is None and DE_NOVO not in self.supports:
            raise RequestError(f"model {model!r} draws no compositions; give one such as 'NaCl'")
        for name in request.wanted():
            if name not in self.supports | COMMON and not (name == "model" and self.parts):
                other = "score-langevin" if name == "sites" else "autoperi-base"
                raise RequestError(
                    f"model {model!r} does not honour {name}; it takes {', '.join(sorted(self.supports | COMMON))}: "
                    f"leave {name} out, or use a model that takes it, such as {other!r}"
                )
        if request.steps is not None and not self.min_steps <= request.steps <= self.max_steps:
            raise RequestError(
                f"steps={request.steps!r} is not a number of {self.steps_name}; give an integer from {self.min_steps} "
                f"to {self.max_steps}, or None"
            )
