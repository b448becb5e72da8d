"""Two opinions on how a composition crystallises: the prototype prior, and the orbit network.

The prior knows structure types that exist and how alike elements are; the network knows how elements take to space
groups and orbits, and speaks of ways that no crystal of the library has. With q_a the network's probability of the
orbits of an answer a, shared among answers that have the same orbits by the prior's p_a,

    p ∝ (1 - w) p_a + w q_a    for the answers of the prior,
    p ∝ u q_s                  for orbits s that none of them has,

normalised over both. The network speaks of the first :data:`MAX_ANSWERS_WEIGHED` answers; u is small because geometries
of unknown types must be drawn too, and some of them fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from autoperi.models.orbit_network import OrbitNetwork
from autoperi.prior.propose import Decoration, Proposer
from autoperi.symmetry.orbit_grammar import Sentence, canonical, element_order
from autoperi.symmetry.wyckoff import LETTERS

MAX_ANSWERS_WEIGHED = 32
"""Answers of the prior that the network is asked about."""
MAX_NEW_ANSWERS, MAX_NEW_ATOMS = 20, 24
"""Answers of the network that are looked at, and the largest primitive cell of one: the largest that the flow was
trained on.
"""
MAX_ANSWERS_ALONE = 64
"""Answers of the network where it is asked alone."""


class NewOrbits(NamedTuple):
    """A way to build a composition that is no prototype of the prior: space group, elements in order, letters of each,
    log-probability.
    """

    space_group: int
    elements: tuple[int, ...]
    sentence: Sentence
    log_p: float


class Mixture:
    """Answers of prior and network, see the module's docstring.

    Args:
        proposer: the prior.
        network: in float64; None leaves the prior as it is.
        share: w. novelty: u.
    """

    def __init__(self, proposer: Proposer, network: OrbitNetwork | None, *, share: float, novelty: float) -> None:
        self.proposer, self.network, self.share, self.novelty = proposer, network, share, novelty

    def answers(
        self,
        elements: Sequence[int],
        counts: Sequence[int],
        *,
        limit: int,
        space_group: int | None = None,
        asked: bool = True,
    ) -> list[Decoration | NewOrbits]:
        """Likeliest first; ``log_p`` of all of them add up to one, less what lies beyond ``limit``.

        Args:
            elements: atomic numbers, all different.
            counts: atoms of each in the primitive cell.
            limit: answers of the prior that are looked at.
            space_group: only answers of this group.
            asked: False asks the prior alone.
        """
        found = self.proposer.decorations(elements, counts, limit=limit, space_group=space_group)
        if self.network is None or not asked:
            return list(found)
        order = element_order(elements)
        content = {int(z): int(c) for z, c in zip(elements, counts, strict=True)}
        in_order = [content[z] for z in order]
        heard = [self._sentence(c) for c in found[:MAX_ANSWERS_WEIGHED]]
        distinct = list(dict.fromkeys(heard))
        group, words = self.network.log_probabilities(order, in_order, distinct)
        log_q = words if space_group is not None else group + words
        q = {key: math.exp(float(value)) for key, value in zip(distinct, log_q, strict=True)}
        p = [math.exp(c.log_p) for c in found]
        of_sentence = dict.fromkeys(distinct, 0.0)
        for key, mass in zip(heard, p, strict=False):
            of_sentence[key] += mass
        weights = [(1 - self.share) * mass for mass in p]
        for k, key in enumerate(heard):
            weights[k] += self.share * q[key] * p[k] / of_sentence[key]
        small = self.novelty > 0 and sum(in_order) <= MAX_NEW_ATOMS
        likely = (
            self._of_network(self.network, content, limit=MAX_NEW_ANSWERS, space_group=space_group) if small else []
        )
        groups = {a.space_group for a in likely}
        unheard = {
            self._sentence(c)
            for c in found[MAX_ANSWERS_WEIGHED:]
            if int(self.proposer.library["space_group"][c.prototype]) in groups
        }
        known_orbits = unheard.union(of_sentence)
        new = [a for a in likely if (a.space_group, a.sentence) not in known_orbits]
        known = sum(q.values())
        novelty = self.novelty if small else 0.0
        total = (1 - self.share) * (1.0 if found else 0.0) + self.share * known + novelty * max(0.0, 1 - known)
        mixed: list[Decoration | NewOrbits] = [
            _with(c, weight / total) for c, weight in zip(found, weights, strict=True)
        ]
        mixed += [a._replace(log_p=round(math.log(self.novelty / total) + a.log_p, 9)) for a in new]
        return sorted(mixed, key=lambda a: -a.log_p)

    def variants(
        self, elements: Sequence[int], counts: Sequence[int], *, limit: int, space_group: int | None = None
    ) -> list[Decoration]:
        """Answers of the prior with those that match one another, likeliest first."""
        return self.proposer.decorations(elements, counts, limit=limit, space_group=space_group, distinct=False)

    @staticmethod
    def _of_network(
        network: OrbitNetwork, content: Mapping[int, int], *, limit: int, space_group: int | None
    ) -> list[NewOrbits]:
        """The likeliest orbits by the network, whether a prototype has them or not, for ``content``: atoms of each
        element in the primitive cell.
        """
        order = element_order(list(content))
        found = network.likeliest(order, [content[z] for z in order], limit=limit, space_group=space_group)
        return [NewOrbits(a.group, tuple(order), a.sentence, a.log_p) for a in found]

    def _sentence(self, candidate: Decoration) -> tuple[int, Sentence]:
        library = self.proposer.library
        number = int(library["space_group"][candidate.prototype])
        letters: dict[int, list[int]] = {}
        for slot, position, _ in library.sites(candidate.prototype):
            letters.setdefault(candidate.elements[slot], []).append(LETTERS.index(position.letter))
        return number, canonical(number, letters)[1]


class NetworkAlone(Mixture):
    """Orbits of the network without any prototype; the prior has a say in cell sizes and volumes alone."""

    def answers(  # noqa: D102
        self,
        elements: Sequence[int],
        counts: Sequence[int],
        *,
        limit: int,
        space_group: int | None = None,
        asked: bool = True,
    ) -> list[Decoration | NewOrbits]:
        assert self.network is not None
        content = {int(z): int(c) for z, c in zip(elements, counts, strict=True)}
        if not asked or sum(content.values()) > MAX_NEW_ATOMS:
            return []
        return list(
            self._of_network(self.network, content, limit=min(limit, MAX_ANSWERS_ALONE), space_group=space_group)
        )

    def variants(self, *_: object, **__: object) -> list[Decoration]:  # noqa: D102
        return []


def _with(candidate: Decoration, p: float) -> Decoration:
    log_p = round(math.log(max(p, 1e-300)), 9)
    return Decoration(candidate.prototype, candidate.elements, log_p, candidate.log_volume_ratio)
