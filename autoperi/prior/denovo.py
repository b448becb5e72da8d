"""Compositions and prototypes drawn together, for generation without a composition.

p(v, e) = p(v) · 1/|M_v| Σ_{m ∈ M_v} Π_s κ(e_s | m_s): a prototype in proportion to its members, one of its members, and
for each slot an element near the member's under the learned element distance (none twice). Constraints restrict the
prototypes and the elements before drawing, so every draw satisfies them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from autoperi.prior.propose import Candidate, Proposer
from autoperi.units import MAX_ATOMIC_NUMBER

TEMPERATURE = 0.12
MIN_FAMILIARITY = 3
"""Members an element must have anywhere in the library before it may be drawn."""


@dataclass(frozen=True)
class Constraints:
    """What a draw must satisfy.

    Attributes:
        min_atoms, max_atoms: of the primitive cell.
        space_group: or None.
        elements: all of these and no others, or None.
        excluded: none of these.
    """

    min_atoms: int
    max_atoms: int
    space_group: int | None = None
    elements: frozenset[int] | None = None
    excluded: frozenset[int] = frozenset()


class DeNovo:
    """Draws candidates under constraints; tables are prepared once."""

    def __init__(self, proposer: Proposer, constraints: Constraints) -> None:
        self.proposer, self.library, self.constraints = proposer, proposer.library, constraints
        library = self.library
        n_atoms = np.array([sum(c) for c in library.counts])
        n_slots = np.array([len(c) for c in library.counts])
        fits = (n_atoms >= constraints.min_atoms) & (n_atoms <= constraints.max_atoms)
        if constraints.space_group is not None:
            fits &= library["space_group"] == constraints.space_group
        if constraints.elements is not None:
            fits &= n_slots == len(constraints.elements)
        self.prototypes = np.nonzero(fits)[0]
        members = np.diff(library["member_start"])[self.prototypes].astype(float)
        self.weights = members / members.sum() if len(members) else members
        familiar = np.bincount(library["member_elements"].ravel(), minlength=MAX_ATOMIC_NUMBER + 1) >= MIN_FAMILIARITY
        familiar[0] = False
        allowed: Collection[int] = constraints.elements if constraints.elements is not None else np.nonzero(familiar)[0].tolist()
        self.allowed = np.array(sorted(set(allowed) - constraints.excluded), int)
        with torch.no_grad():
            distance = proposer.ranker.element_distance().double().numpy()
        self.kernel = np.exp(-distance / TEMPERATURE)[:, self.allowed]  # [119, allowed]

    def __bool__(self) -> bool:
        most = max((len(self.library.counts[v]) for v in self.prototypes), default=0)
        return bool(len(self.prototypes)) and len(self.allowed) > 0 and most > 0

    def draw(self, generator: np.random.Generator) -> Candidate | None:
        """One candidate, or None where the drawn prototype has more slots than there are admissible elements."""
        k = int(generator.choice(len(self.prototypes), p=self.weights))
        v = int(self.prototypes[k])
        members = self.library.members(v)
        if members.shape[1] > len(self.allowed):
            return None
        member = members[int(generator.integers(len(members)))]
        chosen: list[int] = []
        for s in range(len(member)):
            weight = self.kernel[member[s]].copy()
            weight[chosen] = 0.0
            if weight.sum() <= 0:
                return None
            chosen.append(int(generator.choice(len(weight), p=weight / weight.sum())))
        elements = tuple(int(self.allowed[c]) for c in chosen)
        return Candidate(v, elements, self.log_probability(v, elements), self._volume_ratio(v, elements))

    def log_probability(self, v: int, elements: tuple[int, ...]) -> float:
        """ln p(v, e) under the constraints, with slots filled one after another without repetition."""
        members = self.library.members(v)
        index = np.searchsorted(self.allowed, elements)
        total = np.zeros(len(members))
        used: list[int] = []
        for s, e in enumerate(index):
            weight = self.kernel[members[:, s]].copy()
            weight[:, used] = 0.0
            total += np.log(weight[:, e] + 1e-300) - np.log(weight.sum(1) + 1e-300)
            used.append(int(e))
        mixture = float(np.log(np.mean(np.exp(total - total.max())))) + float(total.max())
        return float(np.log(self.weights[np.searchsorted(self.prototypes, v)])) + mixture

    def _volume_ratio(self, v: int, elements: tuple[int, ...]) -> float:
        a, b = self.library["member_start"][v : v + 2]
        members = self.library.members(v)
        weight = np.prod([self._affinity(members[:, s], e) for s, e in enumerate(elements)], axis=0) + 1e-9
        return float((weight * self.library["member_volume"][a:b]).sum() / weight.sum())

    def _affinity(self, members: np.ndarray, element: int) -> np.ndarray:
        return self.kernel[members, int(np.searchsorted(self.allowed, element))]
