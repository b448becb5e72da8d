"""Sentences of orbits: exactly the ways to build a composition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.errors import RequestError
from autoperi.prior.wyckoff_sampler import Covers
from autoperi.symmetry.orbit_grammar import Grammar, canonical, element_order
from autoperi.symmetry.wyckoff import can_fit, wyckoff_positions


def sentences(rules: Grammar) -> list[tuple[tuple[int, int], ...]]:
    """All of them, as (element, letter) of each word, by the mask alone."""
    found, open_ends = [], [((), rules.start)]
    while open_ends:
        words, state = open_ends.pop()
        if rules.done(state):
            found.append(words)
            continue
        allowed = rules.allowed(state)
        assert allowed, "the mask led into a dead end"
        open_ends += [((*words, (state.element, k)), rules.after(state, k)) for k in allowed]
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 230), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_the_mask_leaves_each_way_to_build_a_composition_and_no_other(number: int, counts: list[int]) -> None:
    if not can_fit(counts, number):
        with pytest.raises(RequestError, match="whole orbits"):
            Grammar(number, counts)
        return
    ways = Covers(number, tuple(counts), gain=0.0, cost=0.0)  # counts them by another dynamic programme
    if ways.log_total > math.log(20_000):
        return
    found = sentences(Grammar(number, counts))
    assert len(set(found)) == len(found) == round(math.exp(ways.log_total))
    positions = wyckoff_positions(number)
    for words in found:
        for e, count in enumerate(counts):
            letters = [k for element, k in words if element == e]
            assert letters == sorted(letters)
            assert sum(positions[k].primitive_multiplicity for k in letters) == count
        fixed = [k for _, k in words if positions[k].dof == 0]
        assert len(set(fixed)) == len(fixed)


def test_words_of_a_sentence_and_what_is_none() -> None:
    rules = Grammar(225, (1, 1))
    assert [letter for _, letter in rules.words(((0,), (1,)))] == [0, 1]
    with pytest.raises(RequestError, match="no sentence"):
        rules.words(((0,), (0,)))  # one place, two atoms
    with pytest.raises(RequestError, match="too early"):
        rules.words(((0,), ()))


def test_rock_salt_is_one_sentence_whichever_origin_and_order() -> None:
    assert element_order([17, 11]) == [11, 17]
    assert canonical(225, {17: [0], 11: [1]}) == canonical(225, {11: [0], 17: [1]}) == ([11, 17], ((0,), (1,)))


@pytest.mark.parametrize("z", [2, 10, 18])
def test_elements_without_electronegativity_come_last(z: int) -> None:
    assert element_order([z, 9, 55]) == [55, 9, z]
