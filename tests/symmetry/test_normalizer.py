"""Wyckoff letters that stand for one another."""

from __future__ import annotations

import pytest

from autoperi.errors import RequestError
from autoperi.symmetry.normalizer import closure, letter_permutations, search
from autoperi.symmetry.wyckoff import LETTERS, wyckoff_positions

ORDERS = {1: 1, 2: 1344, 14: 8, 47: 48, 62: 2, 139: 2, 194: 2, 216: 8, 221: 2, 225: 2, 227: 2}
"""Known ones: all affine maps of the eight centres of P-1; four equal positions of F-43m, shifted and inverted; origins
of the cubic groups.
"""


@pytest.mark.parametrize("number", ORDERS)
def test_number_of_permutations(number: int) -> None:
    assert len(letter_permutations(number)) == ORDERS[number]


@pytest.mark.parametrize("number", [2, 12, 65, 139, 146, 166, 198, 205, 216, 230])
def test_they_are_a_group_of_permutations_that_keep_size_and_freedom(number: int) -> None:
    found, positions = letter_permutations(number), wyckoff_positions(number)
    assert found[0] == tuple(range(len(positions)))
    assert len(set(found)) == len(found)
    for p in found[:50]:
        assert sorted(p) == list(range(len(positions)))
        for k, image in enumerate(p):
            assert (positions[k].multiplicity, positions[k].dof) == (
                positions[image].multiplicity,
                positions[image].dof,
            )
        for q in found[:50]:
            assert tuple(p[k] for k in q) in found


@pytest.mark.parametrize(
    "number", [1, 2, 5, 12, 14, 31, 47, 62, 88, 123, 139, 146, 166, 180, 194, 198, 216, 221, 225, 227, 230]
)
def test_the_table_is_what_the_search_finds(number: int) -> None:
    identity = tuple(range(len(wyckoff_positions(number))))
    assert closure(identity, search(number)) == letter_permutations(number)


def test_rock_salt_has_two_descriptions_and_a_diamond_too() -> None:
    a, b = (LETTERS.index(x) for x in "ab")
    assert any(p[a] == b and p[b] == a for p in letter_permutations(225))
    assert any(p[a] == b for p in letter_permutations(227))
    # the eightfold position of Fm-3m is like no other
    assert all(p[LETTERS.index("c")] == LETTERS.index("c") for p in letter_permutations(225))


def test_no_such_group() -> None:
    with pytest.raises(RequestError, match="231"):
        letter_permutations(231)
