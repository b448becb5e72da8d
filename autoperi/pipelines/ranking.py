"""Which of the finished candidates are returned, and in which order.

Ranking has something to choose from only where more candidates are finished than are returned: a *pool*. Of candidates
that became the same crystal on the way (the flow may bring two prototypes together), the best stands for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from autoperi.pipelines.candidates import Proposal
    from autoperi.pipelines.generation import Finished
    from autoperi.pipelines.request import GenerationRequest

RANDOM_LOG_P = -12.0
"""Log-probability that ranking gives crystals of random orbits, which have none of their own."""
SAME_ENERGY, SAME_VOLUME = 1e-3, 1e-2
"""eV/atom and relative volume within which two crystals of one composition, size and space group count as the same
one.
"""


@dataclass(frozen=True)
class Pool:
    """How many candidates are finished for n that are wanted: at least ``least``, and ``share`` times n."""

    least: int = 0
    share: float = 1.0

    def size(self, request: GenerationRequest) -> int:
        """Candidates to finish: n itself where nothing ranks by energy, or where there is no composition to compare
        crystals of.
        """
        if request.formula is None or request.rank != "energy":
            return request.n
        return max(request.n, self.least, math.ceil(self.share * request.n))


def ranked(finished: list[Finished], rank: str) -> list[Finished]:
    """Best first: by energy and probability, by probability alone, or in stream order; copies of a better crystal come
    behind all others.
    """
    if rank == "none":
        return finished
    if rank == "probability":
        return sorted(finished, key=lambda f: (-log_p(f.proposal), f.proposal.index))
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    first, copies = [], []
    for f in sorted(finished, key=_order):
        seen = groups.setdefault((f.space_group, *np.sort(f.proposal.numbers).tolist()), [])
        if any(_same(f, other) for other in seen):
            copies.append(f)
        else:
            seen.append(f)
            first.append(f)
    return first + copies


def log_p(proposal: Proposal) -> float:
    """Log-probability by which a candidate is ranked."""
    return RANDOM_LOG_P if proposal.log_p is None else proposal.log_p


def _order(f: Finished) -> tuple[float, int]:
    return f.rank_score, f.proposal.index


def _same(a: Finished, b: Finished) -> bool:
    one, two = (f.energy if f.potential_energy is None else f.potential_energy for f in (a, b))
    return abs(one - two) < SAME_ENERGY and abs(math.log(a.volume / b.volume)) < SAME_VOLUME
