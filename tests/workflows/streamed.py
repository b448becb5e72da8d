"""A pipeline that costs nothing, for the tests of streams: small cubic cells, of which about half pass the checks."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from autoperi.data.random import numpy_generator
from autoperi.pipelines.base import DE_NOVO, Candidate, Pipeline
from autoperi.pipelines.request import Request

ELEMENTS = (3, 9, 17, 18, 20, 35, 55)
FLAGS = ("-n", 30, "--seed", 2, "--shard-size", 12)
SMALL: dict[str, Any] = {"n": 30, "seed": 2, "shard_size": 12}
"""A stream of five or six shards."""


@dataclass(frozen=True, eq=False)
class Cells(Pipeline):
    """Caesium chloride cells of two random elements; with one element twice they are no primitive cells.

    Attributes:
        length: candidates after which the stream ends.
        nothing: share of indices that yield nothing.
        alive: candidates that somebody holds.
    """

    length: int | None = None
    nothing: float = 0.1
    alive: Any = None
    supports: ClassVar[frozenset[str]] = frozenset({"composition", DE_NOVO, "num_atoms"})

    @classmethod
    def from_bundle(cls, *_: Any) -> Cells:
        return cls()

    def candidates(self, request: Request, indices: Iterable[int]) -> Iterator[Candidate | None]:
        for index in indices:
            if self.length is not None and index >= self.length:
                return
            draw = numpy_generator(request.seed, index)
            numbers, size = draw.choice(ELEMENTS, 2), draw.uniform(2.0, 6.0)
            if draw.random() < self.nothing:
                yield None
                continue
            made = Candidate(
                index, np.eye(3) * size, np.array([[0.0] * 3, [0.5] * 3]), numbers, -1.5 if index % 2 else None, "cell"
            )
            if self.alive is not None:
                self.alive.add(made)
            yield made

    def refine(self, _: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
        return list(candidates)


def living() -> weakref.WeakSet[Candidate]:
    return weakref.WeakSet()
