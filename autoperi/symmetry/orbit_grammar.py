"""Crystals as sentences: which element takes which Wyckoff position of a space group, one orbit after another.

A sentence names, for each element in turn (least electronegative first), the letters of its orbits in alphabetical
order. Two rules make the sentences of a composition exactly the ways to build it: the atoms of every element add up,
and a position without free coordinates is taken once. :class:`Grammar` knows after every word which words can still
lead to a whole crystal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from autoperi.errors import RequestError
from autoperi.symmetry.normalizer import letter_permutations
from autoperi.symmetry.wyckoff import can_fit, wyckoff_positions

Sentence = tuple[tuple[int, ...], ...]
"""Of each element, in order, the indices of its letters, ascending."""


class SentenceState(NamedTuple):
    """Where a sentence stands.

    Attributes:
        element: index of the element whose orbit comes next; the number of elements where the sentence is whole.
        left: its atoms that are not placed yet.
        first: index of the first letter that may follow.
        used: bits of the positions without free coordinates that are taken.
    """

    element: int
    left: int
    first: int
    used: int


class Grammar:
    """The sentences of one space group and one composition.

    Args:
        number: space group.
        counts: atoms of each element in the primitive cell, in the order of the sentence.

    Raises:
        RequestError: no sentence exists.
    """

    def __init__(self, number: int, counts: Sequence[int]) -> None:
        self.number, self.counts = number, tuple(int(c) for c in counts)
        # atoms of each position, and whether it is without free coordinates
        self._positions = [(p.primitive_multiplicity, p.dof == 0) for p in wyckoff_positions(number)]
        self._known: dict[SentenceState, bool] = {}
        # whether movable positions from the i-th on, which hold any number of orbits, can take r atoms
        most = max(self.counts, default=0)
        self._movable = [[r == 0 for r in range(most + 1)] for _ in range(len(self._positions) + 1)]
        for i, (size, fixed) in reversed(list(enumerate(self._positions))):
            row = list(self._movable[i + 1])
            for r in range(size, most + 1):
                row[r] = row[r] or (not fixed and row[r - size])
            self._movable[i] = row
        # the elements from the e-th on, with movable positions alone
        self._easy = [all(self._movable[0][c] for c in self.counts[e:]) for e in range(len(self.counts) + 1)]
        if not can_fit(self.counts, number):
            raise RequestError(f"counts {list(self.counts)} fill no whole orbits of space group {number}")

    @property
    def start(self) -> SentenceState:
        """Before the first word."""
        return SentenceState(0, self.counts[0], 0, 0)

    def done(self, state: SentenceState) -> bool:
        """Whether the sentence is whole."""
        return state.element == len(self.counts)

    def after(self, state: SentenceState, letter: int) -> SentenceState:
        """The state after one more orbit; ``letter`` is one that fits."""
        size, fixed = self._positions[letter]
        used = state.used | (1 << letter) if fixed else state.used
        if state.left > size:
            return SentenceState(state.element, state.left - size, letter + fixed, used)
        element = state.element + 1
        return SentenceState(element, self.counts[element] if element < len(self.counts) else 0, 0, used)

    def allowed(self, state: SentenceState) -> list[int]:
        """Letters from which the sentence can still be finished."""
        return [k for k in self._fitting(state) if self._possible(self.after(state, k))]

    def _fitting(self, state: SentenceState) -> list[int]:
        return [
            k
            for k, (size, fixed) in enumerate(self._positions)
            if k >= state.first and size <= state.left and not (fixed and state.used >> k & 1)
        ]

    def _possible(self, state: SentenceState) -> bool:
        if self.done(state) or (self._movable[state.first][state.left] and self._easy[state.element + 1]):
            return True
        known = self._known.get(state)
        if known is None:
            # positions without freedom first: they are what movable ones lack, so that the search stays shallow
            order = sorted(self._fitting(state), key=lambda k: not self._positions[k][1])
            helpless = not self._movable[state.first][state.left] and not (order and self._positions[order[0]][1])
            known = not helpless and any(self._possible(self.after(state, k)) for k in order)
            self._known[state] = known
        return known

    def words(self, sentence: Sentence) -> list[tuple[SentenceState, int]]:
        """SentenceState before each word, and the word.

        Raises:
            RequestError: the sentence is not one of this grammar.
        """
        state, found = self.start, []
        for letter in (k for own in sentence for k in own):
            if self.done(state) or letter not in self.allowed(state):
                raise RequestError(
                    f"{sentence} is no sentence of space group {self.number} with counts {list(self.counts)}"
                )
            found.append((state, letter))
            state = self.after(state, letter)
        if not self.done(state):
            raise RequestError(f"{sentence} ends too early for counts {list(self.counts)}")
        return found


@lru_cache(maxsize=256)
def grammar(number: int, counts: tuple[int, ...]) -> Grammar:
    """The grammar of a group and counts, remembered."""
    return Grammar(number, counts)


def element_order(elements: Sequence[int]) -> list[int]:
    """Atomic numbers, least electronegative first; of equals, and where there is no value, the lighter first."""
    from autoperi.data.elements import electronegativity

    def key(z: int) -> tuple[float, int]:
        x = electronegativity(z)
        return (x if x == x else 99.0, z)

    return sorted({int(z) for z in elements}, key=key)


def canonical(number: int, letters: Mapping[int, Sequence[int]]) -> tuple[list[int], Sentence]:
    """Elements in order and the smallest sentence among the equivalent descriptions
    (:mod:`autoperi.symmetry.normalizer`).

    Args:
        number: space group.
        letters: indices of the Wyckoff letters of each element's orbits, by atomic number.
    """
    elements = element_order(list(letters))
    return elements, min(
        tuple(tuple(sorted(p[k] for k in letters[z])) for z in elements) for p in letter_permutations(number)
    )
