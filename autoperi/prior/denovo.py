"""Compositions and prototypes drawn together, for generation without a composition.

A member of the library, a known crystal, is drawn by its weight, which says how much of the reference distribution it
is, and elements near its own under the learned element distance take its slots, none twice:

    q(v, e) = Σ_{m ∈ M_v} w_m Π_s κ(e_s | m_s),      κ(z | m) ∝ exp(−d(z, m) / T)

over all members that the constraints leave, Σ w_m = 1. Of what is drawn for a member, that is kept which is no known
crystal, was not given before and is chemically no less plausible than the member (:func:`plausibility`); a member for
whom nothing can be kept gives way to another. The members of one request are spread evenly over the library
(:meth:`DeNovo.member`), each by itself distributed as w.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from autoperi.chemistry.smact import smact_validity
from autoperi.data.random import numpy_generator
from autoperi.prior.fingerprint import tie_permutations
from autoperi.prior.propose import KERNEL_WIDTH, Decoration, Proposer
from autoperi.units import MAX_ATOMIC_NUMBER

MIN_MEMBERS_PER_ELEMENT = 3
"""Members an element must have anywhere in the library before it may be drawn."""
MAX_MEMBERS_TRIED, MAX_DRAWS_PER_MEMBER = 6, 40
"""Members of the library that one index tries, and draws of elements around each of them."""
WEIGHT_OUTSIDE_REFERENCE = 0.02
"""Weight of a member that does not belong to the reference, over the largest weight, where a request restricts the
types of crystals.
"""
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Constraints:
    """What a draw must satisfy.

    Attributes:
        min_atoms, max_atoms: of the primitive cell.
        space_group: or None.
        elements: all of these and no others, or None.
        excluded: none of these.
        min_elements, max_elements: number of distinct elements.
        sized: the numbers of atoms were asked for, so that cells larger than the reference has are wanted too.
    """

    min_atoms: int
    max_atoms: int
    space_group: int | None = None
    elements: frozenset[int] | None = None
    excluded: frozenset[int] = frozenset()
    min_elements: int = 1
    max_elements: int = MAX_ATOMIC_NUMBER
    sized: bool = False


class DeNovo:
    """Draws decorations under constraints, for one request: what was given once is not given again.

    Args:
        proposer: library, element distance and the settings ``denovo_temperature`` and ``denovo_known``.
        constraints: restrict prototypes and elements before drawing, so every draw satisfies them.
        seed: of all randomness.
    """

    def __init__(self, proposer: Proposer, constraints: Constraints, seed: int = 0) -> None:
        self.proposer, self.library, self.constraints, self.seed = proposer, proposer.library, constraints, seed
        library = self.library
        self.owner = np.repeat(np.arange(len(library)), np.diff(library["member_start"]))
        members = np.bincount(library["member_elements"].ravel(), minlength=MAX_ATOMIC_NUMBER + 1)
        familiar = set(np.nonzero(members >= MIN_MEMBERS_PER_ELEMENT)[0].tolist()) - {0}
        allowed = familiar if constraints.elements is None else constraints.elements
        self.allowed = np.array(sorted(allowed - constraints.excluded), int)
        self.rows = np.nonzero(self._fitting()[self.owner])[0]
        self.weights = self._weights()
        self._steps = np.cumsum(self.weights)
        with torch.no_grad():
            self._distance = proposer.ranker.element_distance().double().numpy()
        near = np.exp(-self._distance / proposer.denovo_temperature)
        self.kernel = (near * balance(near, self._frequencies()))[:, self.allowed]  # [119, allowed]
        self._offset = float(numpy_generator(seed, 2**31).random())
        self._given: set[tuple[int, tuple[int, ...]]] = set()

    def __bool__(self) -> bool:
        most = max((len(self.library.counts[v]) for v in set(self.owner[self.rows].tolist())), default=0)
        return most > 0 and len(self.allowed) > 0

    def _fitting(self) -> np.ndarray:
        """Prototypes that the constraints leave, ``[V]``."""
        c, library = self.constraints, self.library
        n_atoms = np.array([sum(counts) for counts in library.counts])
        n_slots = np.array([len(counts) for counts in library.counts])
        fits = (n_atoms >= c.min_atoms) & (n_atoms <= c.max_atoms)
        fits &= (n_slots >= c.min_elements) & (n_slots <= min(c.max_elements, len(self.allowed)))
        if c.space_group is not None:
            fits &= library["space_group"] == c.space_group
        if c.elements is not None:
            fits &= n_slots == len(c.elements)
        return fits

    def _weights(self) -> np.ndarray:
        """Probability of each member of ``rows``: its weight; 1 at sizes beyond the reference if sizes were asked for,
        and where the reference has none.

        Where types were restricted each of the others counts a little too: one member of the reference must not hide
        dozens that are none.
        """
        weight = self.library["member_weight"].astype(float)
        if self.constraints.sized and weight.any():
            n_atoms = np.array([sum(counts) for counts in self.library.counts])[self.owner]
            weight = np.where(n_atoms > n_atoms[weight > 0].max(), weight.max(), weight)
        if len(self.rows) < len(self.owner):
            weight = weight + WEIGHT_OUTSIDE_REFERENCE * weight.max()
        weight = weight[self.rows]
        if not weight.any():
            weight = np.ones(len(self.rows))
        return weight / weight.sum() if len(weight) else weight

    def _frequencies(self) -> np.ndarray:
        """How common each element is among the slots of the reference, ``[119]``; those of no member are 0."""
        elements, weight = self.library["member_elements"], self.library["member_weight"].astype(float)
        flat, size = elements.ravel(), MAX_ATOMIC_NUMBER + 1
        count = np.bincount(flat, minlength=size).astype(float)
        count = count * 1e-3 + np.bincount(flat, np.repeat(weight, elements.shape[1]), size)
        count[0] = 0.0
        if self.constraints.elements is not None:
            # asked for by name, an element that no member has is drawn like a rare one
            named = list(self.constraints.elements)
            count[named] = np.maximum(count[named], 1e-3)
        return np.asarray(count / count.sum())

    def member(self, index: int) -> int:
        """Row of the library's member that ``index`` starts from.

        Positions u + index·φ modulo 1, φ the golden ratio, u drawn from the seed, in the order of the library, which is
        that of space groups and counts: any stretch of a request holds every kind of crystal in proportion, with less
        scatter than independent draws.
        """
        return self._row((self._offset + index * GOLDEN_RATIO) % 1.0)

    def _row(self, place: float) -> int:
        """The member whose stretch of the summed weights holds ``place``, from 0 to 1."""
        return int(self.rows[min(int(np.searchsorted(self._steps, place, side="right")), len(self.rows) - 1)])

    def draw(self, index: int) -> Decoration | None:
        """The decoration of ``index``, or None where nothing admissible was found.

        Depends on the seed, the index, and on what smaller indices were given, which it does not repeat.
        """
        generator = numpy_generator(self.seed, index)
        known = bool(generator.random() < self.proposer.denovo_known)
        row, last = self.member(index), None
        for _ in range(MAX_MEMBERS_TRIED):
            v = int(self.owner[row])
            member, counts = self.library.members(v)[row - int(self.library["member_start"][v])], self.library.counts[v]
            least = plausibility(member.tolist(), counts)
            for _ in range(MAX_DRAWS_PER_MEMBER):
                elements = self._around(member, generator)
                if elements is None:
                    break
                same = self.same(v, elements)
                if not self._given.isdisjoint(same) or plausibility(elements, counts) < least:
                    continue
                if known or not any(self.is_known(*s) for s in same):
                    return self._give(v, elements)
                last = last or (v, elements)
            row = self._row(generator.random())
        # a narrow request may leave nothing but known crystals
        return None if last is None else self._give(*last)

    def _give(self, v: int, elements: tuple[int, ...]) -> Decoration:
        self._given.add((v, elements))
        return Decoration(v, elements, self.log_probability(v, elements), self._volume_ratio(v, elements))

    def _around(self, member: np.ndarray, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Elements near those of a member, or None where there are fewer than it has slots."""
        if len(member) > len(self.allowed):
            return None
        chosen: list[int] = []
        for z in member:
            weight = self.kernel[z].copy()
            weight[chosen] = 0.0
            steps = np.cumsum(weight)
            if steps[-1] <= 0:
                return None
            chosen.append(int(np.searchsorted(steps, generator.random() * steps[-1], side="right")))
        return tuple(int(self.allowed[c]) for c in chosen)

    def same(self, v: int, elements: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
        """All (prototype, elements) that match this one by the library's table, itself first."""
        choices = tie_permutations(self.library.counts[v])
        others = [(b, tuple(elements[s] for s in choices[q])) for b, q in self.library.matches.get(v, [])]
        return [(v, elements), *others]

    def is_known(self, v: int, elements: tuple[int, ...]) -> bool:
        """Whether the library was learned from this very crystal."""
        return bool((self.library.members(v) == np.array(elements)).all(1).any())

    def log_probability(self, v: int, elements: tuple[int, ...]) -> float:
        """ln q(v, e) under the constraints, before anything is refused; over all v and e it adds up to one."""
        first, last = np.searchsorted(self.rows, self.library["member_start"][v : v + 2])
        members = self.library.members(v)
        index = np.searchsorted(self.allowed, elements)
        total = np.log(self.weights[first:last] + 1e-300)
        used: list[int] = []
        for s, e in enumerate(index):
            weight = self.kernel[members[:, s]].copy()
            weight[:, used] = 0.0
            total += np.log(weight[:, e] + 1e-300) - np.log(weight.sum(1) + 1e-300)
            used.append(int(e))
        return round(float(np.log(np.sum(np.exp(total - total.max())))) + float(total.max()), 9)

    def _volume_ratio(self, v: int, elements: tuple[int, ...]) -> float:
        """Mean of the members' log volume ratios, near members first, as for a given composition."""
        a, b = self.library["member_start"][v : v + 2]
        counts = np.array(self.library.counts[v], float)
        apart = (self._distance[self.library.members(v), np.array(elements)] * counts / counts.sum()).sum(1)
        weight = np.exp(-apart / KERNEL_WIDTH) + 1e-6
        return float((weight * self.library["member_volume"][a:b]).sum() / weight.sum())


def balance(near: np.ndarray, frequencies: np.ndarray, *, rounds: int = 200) -> np.ndarray:
    """α with α_a near_ab α_b summing to the frequencies over rows, and so over columns (Sinkhorn), ``[n]``.

    Then κ(b | a) = α_b near_ab / Σ_c α_c near_ac has the frequencies as its stationary distribution: substitution makes
    no element more common.

    Args:
        near: positive and symmetric, ``[n, n]``.
        frequencies: at least 0, ``[n]``.
    """
    alpha = np.sqrt(frequencies)
    for _ in range(rounds):
        alpha = np.sqrt(alpha * frequencies / (near @ alpha + 1e-300))
    return np.round(alpha, 12)  # the last bits depend on the number of threads


def plausibility(elements: Collection[int], counts: Collection[int]) -> int:
    """SMACT's test by two lists: 2 where frequent oxidation states balance, 1 where any known ones do or nothing is
    known, 0 where none do.

    The frequent ones are ``pymatgen-icsd``, all known ones ``pymatgen-all`` (:mod:`autoperi.chemistry.smact`).
    """
    content = dict(zip(elements, counts, strict=True))
    if smact_validity(content, oxidation_states="pymatgen-icsd").valid is True:
        return 2
    return int(smact_validity(content, oxidation_states="pymatgen-all").valid is not False)
