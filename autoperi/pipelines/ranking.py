"""Which of the accepted candidates are returned, and in which order: one rule, in one object.

Ranking has something to choose from only where more candidates are accepted than are returned. Of candidates that
became the same crystal on the way (a flow may bring two prototypes together), the best stands for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from autoperi.pipelines.accept import Accepted
    from autoperi.pipelines.request import Request
    from autoperi.pipelines.settings import Settings

LOG_P_WITHOUT = -12.0
"""Log-probability that the ranking gives candidates that have none of their own, such as random crystals."""
SAME_ENERGY, SAME_VOLUME = 1e-3, 1e-2
"""eV/atom and relative volume within which two crystals of one composition, size and space group count as the same
one.
"""
SCORE_DIGITS = 6
"""Decimals kept of a score: far above float64 noise, so batches cannot change an order."""


def log_p(log_probability: float | None) -> float:
    """The log-probability by which a candidate is ranked."""
    return LOG_P_WITHOUT if log_probability is None else log_probability


@dataclass(frozen=True)
class Ranker:
    """The ranking rule of a model.

    Args:
        settings: of the model: temperatures and pool.
        rank: ``energy``, ``probability`` or ``none``.
    """

    settings: Settings
    rank: str = "energy"

    def pool(self, request: Request) -> int:
        """Candidates to accept for ``request.n`` that are returned.

        It is n itself where nothing ranks by energy, or where there is no composition to compare crystals of.
        """
        if request.composition is None or self.rank != "energy":
            return request.n
        return max(request.n, self.settings.pool_least, math.ceil(self.settings.pool_share * request.n))

    def score(self, candidate: Accepted) -> float:
        """E/T - ln p in nats, lower is better, with the potential's energy where it ranks, else the formation
        energy.
        """
        return self.cost(candidate.potential_energy, candidate.energy, candidate.candidate.log_p)

    def cost(
        self, potential_energy: float | None, formation_energy: float | None, log_probability: float | None
    ) -> float:
        """:meth:`score` of energies in eV/atom and a log-probability; an energy that is not finite comes last."""
        nats = 0.0
        if potential_energy is not None:
            nats = potential_energy / self.settings.potential_temperature
        elif formation_energy is not None:
            nats = formation_energy / self.settings.energy_temperature
        return round(nats - log_p(log_probability), SCORE_DIGITS) if math.isfinite(nats) else math.inf

    def order(self, candidates: Sequence[Accepted]) -> list[Accepted]:
        """Best first, by the rule; copies of a better crystal come behind all others."""
        return ORDERS[self.rank](self, list(candidates))


def by_energy(ranker: Ranker, candidates: list[Accepted]) -> list[Accepted]:
    """By energy and probability."""
    groups: dict[tuple[Any, ...], list[Accepted]] = {}
    first, copies = [], []
    for one in sorted(candidates, key=lambda a: (ranker.score(a), a.candidate.index)):
        seen = groups.setdefault((one.space_group, *np.sort(one.candidate.numbers).tolist()), [])
        if any(_same(one, other) for other in seen):
            copies.append(one)
        else:
            seen.append(one)
            first.append(one)
    return first + copies


def by_probability(_: Ranker, candidates: list[Accepted]) -> list[Accepted]:
    """By the pipeline's probability alone."""
    return sorted(candidates, key=lambda a: (-log_p(a.candidate.log_p), a.candidate.index))


ORDERS: dict[str, Callable[[Ranker, list[Accepted]], list[Accepted]]] = {
    "energy": by_energy,
    "probability": by_probability,
    "none": lambda _, candidates: candidates,
}
"""The rules by the name that ``rank`` gives."""


def _same(a: Accepted, b: Accepted) -> bool:
    one, two = (x.energy if x.potential_energy is None else x.potential_energy for x in (a, b))
    if one is None or two is None:
        return False
    return abs(one - two) < SAME_ENERGY and abs(math.log(a.volume / b.volume)) < SAME_VOLUME
