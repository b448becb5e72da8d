"""Decorations for a composition: distinct prototypes with elements on their slots, in order of probability.

p(Z, v, p | composition) = p(Z | composition) · p(v, p | Z, composition): how many formula units, then the ranker's
softmax over all prototypes and assignments with those counts. Decorations that match one another are one answer: the
likeliest stands for all of them and carries their common probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from autoperi.geometry.segments import segment_sum
from autoperi.prior.fingerprint import fingerprints, slot_order
from autoperi.prior.library import PrototypeLibrary
from autoperi.prior.ranker import Bucket, Ranker, make_bucket

KERNEL_WIDTH = 0.3
"""Width, in units of the element distance, of the kernel by which members near a composition count."""


@dataclass(frozen=True, eq=False)
class Decoration:
    """A prototype with elements on its slots: one crystal that the prior proposes.

    Attributes:
        prototype: row of the library.
        elements: atomic number in each slot.
        log_p: natural log of the probability of this answer (itself and all that match it) given the composition.
        log_volume_ratio: log of expected volume over additive volume.
    """

    prototype: int
    elements: tuple[int, ...]
    log_p: float
    log_volume_ratio: float


class Proposer:
    """The prototype prior: a library and its ranker.

    Args:
        library: the prototypes.
        ranker: their probabilities, which are those of a crystal *not yet in the library*: it was trained by leaving
            each crystal out, so a composition's known crystals speak against themselves.
        known_weight: probability given to the crystals that the library does know at exactly this composition, where
            there are any: p = (1 - w) p_new + w p_known. A user who asks for LiFePO4 wants olivine first; a test on
            crystals that were held out sets it to 0.
        denovo_temperature: T of draws without a composition, in units of the element distance
            (:mod:`autoperi.prior.denovo`).
        denovo_known: share of those draws that may be known crystals.

    Attributes:
        bucket: from counts to their prototypes (:func:`~autoperi.prior.ranker.make_bucket`), cached.
        prints: from counts to fingerprints of their prototypes, ``[V, S, S, bins]``, cached.
    """

    def __init__(
        self,
        library: PrototypeLibrary,
        ranker: Ranker,
        *,
        known_weight: float = 0.0,
        denovo_temperature: float = 0.2,
        denovo_known: float = 0.0,
    ) -> None:
        self.known_weight = known_weight
        self.denovo_temperature, self.denovo_known = denovo_temperature, denovo_known
        # float64, and probabilities rounded below: the order of near ties must not depend on threads
        self.library, self.ranker = library, ranker.double().eval()
        self.bucket = lru_cache(maxsize=256)(partial(make_bucket, library))
        self.prints = lru_cache(maxsize=256)(self._fingerprints)

    def with_settings(self, **settings: float) -> Proposer:
        """Another with the same library, ranker and caches, and other settings of the constructor."""
        other = copy(self)
        vars(other).update(settings)
        return other

    def _fingerprints(self, counts: tuple[int, ...]) -> np.ndarray:
        cells = [self.library.skeleton(int(v)) for v in self.library.by_counts[counts]]
        return np.stack(fingerprints([c[:3] for c in cells], [len(counts)] * len(cells)))

    def support(self, elements: Sequence[int], counts: Sequence[int]) -> float:
        """How much the library knows near this composition at this cell size: a kernel sum over members, at least 0."""
        ordered, sizes = _ordered(elements, counts)
        bucket = self.bucket(sizes)
        if bucket is None:
            return 0.0
        with torch.no_grad():
            table = self.ranker.element_distance()
            placed = torch.tensor([ordered])[:, torch.as_tensor(bucket.assignments)]
            distance = (table[placed.unsqueeze(2), bucket.member_elements] * bucket.weight.to(table.dtype)).sum(-1)
            # the best assignment of each member counts once
            return float(torch.exp(-distance / KERNEL_WIDTH).amax(1).sum())

    def known(self, elements: Sequence[int], counts: Sequence[int]) -> int:
        """How many crystals of exactly this composition and cell size the library was learned from."""
        ordered, sizes = _ordered(elements, counts)
        bucket = self.bucket(sizes)
        return 0 if bucket is None else int(_known(bucket, ordered).sum())

    def probabilities(self, bucket: Bucket, ordered: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Probability and expected log volume ratio of every decoration for elements in slot order, each ``[V·P]``."""
        with torch.no_grad():
            log_p, volume = self.ranker(bucket, torch.tensor([ordered]))
        p = log_p[0].exp().round(decimals=12)
        known = _known(bucket, ordered) if self.known_weight > 0 else torch.zeros_like(p)
        if bool(known.any()):
            p = (1 - self.known_weight) * p + self.known_weight * known / known.sum()
        return p, volume[0].round(decimals=9)

    def decorations(
        self,
        elements: Sequence[int],
        counts: Sequence[int],
        *,
        limit: int,
        space_group: int | None = None,
        distinct: bool = True,
    ) -> list[Decoration]:
        """Likeliest first, at most ``limit``; log-probabilities are normalised over the answers that the request
        admits.

        Args:
            elements: atomic numbers, all different.
            counts: atoms of each in the primitive cell.
            limit: number of answers.
            space_group: admit prototypes of this group only.
            distinct: merge decorations that match; else every prototype and assignment is an answer of its own.
        """
        ordered, sizes = _ordered(elements, counts)
        bucket = self.bucket(sizes)
        if bucket is None:
            return []
        p, ratio = self.probabilities(bucket, ordered)
        if space_group is not None:
            fits = torch.as_tensor(self.library["space_group"][bucket.prototypes] == space_group)
            p = p * fits.repeat_interleave(len(bucket.assignments))
        total = float(p.sum())
        if total <= 0:
            return []
        p = p / total
        return [
            self._decoration(bucket, ordered, int(k), mass, float(ratio[k]))
            for k, mass, _ in (answers(p, bucket, limit) if distinct else _all(p, limit))
        ]

    def _decoration(self, bucket: Bucket, ordered: Sequence[int], k: int, mass: float, ratio: float) -> Decoration:
        v, a = divmod(k, len(bucket.assignments))
        elements = tuple(int(ordered[s]) for s in bucket.assignments[a])
        return Decoration(int(bucket.prototypes[v]), elements, float(np.log(mass)), ratio)

    def crystal(self, decoration: Decoration) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lattice (Å), fractional coordinates, atomic numbers and orbit of each atom of a decoration's primitive
        cell.
        """
        lattice, coords, slots, orbits = self.library.skeleton(decoration.prototype)
        counts = self.library.counts[decoration.prototype]
        volume = self.library.additive_volume(decoration.elements, counts) * np.exp(decoration.log_volume_ratio)
        return lattice * (volume / len(coords)) ** (1 / 3), coords, np.array(decoration.elements)[slots], orbits


def _ordered(elements: Sequence[int], counts: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    numbers = np.repeat(np.asarray(elements, int), np.asarray(counts, int))
    ordered, _, sizes = slot_order(numbers)
    return [int(z) for z in ordered], sizes


def _known(bucket: Bucket, ordered: Sequence[int]) -> torch.Tensor:
    """Members of each decoration that are exactly the query, ``[V·P]``."""
    placed = torch.tensor(ordered)[torch.as_tensor(bucket.assignments)]  # [P, S]
    same = (placed[:, None] == bucket.member_elements[None]).all(-1).double()  # [P, M]
    return segment_sum(same.T, bucket.member_owner, len(bucket.prototypes)).reshape(-1)


def answers(p: torch.Tensor, bucket: Bucket, limit: int) -> list[tuple[int, float, list[int]]]:
    """Distinct answers by probability: the likeliest decoration that names one, its mass, and all decorations it stands
    for.

    Greedy: the answer with most unclaimed probability first; matching is not transitive, so the order decides who
    belongs where.
    """
    left = p.clone()
    order: list[tuple[int, float, list[int]]] = []
    source, target = bucket.links
    while len(order) < limit:
        mass = bucket.linked(left)
        mass[left <= 0] = 0.0  # a claimed decoration cannot speak for others again
        centre = int(mass.argmax())
        if mass[centre] <= 0:
            break
        group = torch.cat([torch.tensor([centre]), target[source == centre]])
        best = int(group[left[group].argmax()])
        claimed = group[left[group] > 0]
        order.append((best, round(float(mass[centre]), 12), claimed.tolist()))
        left[group] = 0.0
    return sorted(order, key=lambda x: -x[1])


def _all(p: torch.Tensor, limit: int) -> list[tuple[int, float, list[int]]]:
    values, index = torch.sort(p, descending=True, stable=True)
    return [(int(k), float(v), [int(k)]) for v, k in zip(values[:limit], index[:limit], strict=True) if v > 0]
