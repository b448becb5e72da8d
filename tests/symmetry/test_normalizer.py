"""Wyckoff letters that stand for one another."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import pytest

from autoperi.errors import RequestError
from autoperi.symmetry.normalizer import SHIFT_GRID, closure, letter_permutations, polar_axes
from autoperi.symmetry.spacegroup import FloatArray, IntArray, SpaceGroup, space_group
from autoperi.symmetry.wyckoff import GENERIC, LETTERS, locate, wyckoff_positions

MAX_ENTRIES = 4
"""Most entries ±1 of the linear parts that are tried."""
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


def search(number: int) -> set[tuple[int, ...]]:
    """Permutations by every linear part and origin shift of the normaliser: what the table was made from; up to seconds
    a group.
    """
    group = space_group(number)
    return {_image(number, linear, shift) for linear in _linear_parts(group) for shift in _shifts(group, linear)}


def _image(number: int, linear: IntArray, shift: FloatArray) -> tuple[int, ...]:
    moved = []
    for position in wyckoff_positions(number):
        point = linear @ (position.rotation @ GENERIC + position.translation) + shift
        moved.append(LETTERS.index(locate(point, number)[0].letter))
    return tuple(moved)


@lru_cache(maxsize=2)
def _unimodular(lowest: int) -> IntArray:
    """Integer matrices ``[M, 3, 3]`` of determinant ±1 with entries of ``lowest`` to 1, of which at most
    :data:`MAX_ENTRIES` are not zero.
    """
    every = np.array(list(product(range(lowest, 2), repeat=9))).reshape(-1, 3, 3)
    every = every[np.abs(every).sum((1, 2)) <= MAX_ENTRIES]
    return every[np.abs(np.rint(np.linalg.det(every))) == 1]


def _linear_parts(group: SpaceGroup) -> list[IntArray]:
    """Matrices that carry the point group and the centring to themselves, one of each coset of the point group."""
    rotations = np.unique(np.asarray(group.rotations), axis=0)
    own = {r.tobytes() for r in rotations}
    centring = _centring(group)
    found: list[IntArray] = []
    seen: set[bytes] = set()
    # every basis is one of P-1; its eight centres are halves, for which -1 is 1
    lowest = 0 if _inverts(rotations) else -1
    for matrix in sorted(
        _unimodular(lowest).tolist(), key=lambda m: (np.abs(m).sum(), m != np.eye(3, dtype=int).tolist(), m)
    ):
        linear = np.array(matrix, dtype=rotations.dtype)
        if linear.tobytes() in seen:
            continue
        inverse = np.rint(np.linalg.inv(linear)).astype(rotations.dtype)
        if any((linear @ r @ inverse).astype(rotations.dtype).tobytes() not in own for r in rotations):
            continue
        if {_mod(linear @ c) for c in centring} != {_mod(c) for c in centring}:
            continue
        found.append(linear)
        seen |= {(linear @ r).astype(rotations.dtype).tobytes() for r in rotations}
    return found


def _inverts(rotations: IntArray) -> bool:
    """Whether there is nothing but the identity and the inversion."""
    return len(rotations) == 2 and bool((rotations.sum(0) == 0).all())


def _centring(group: SpaceGroup) -> FloatArray:
    pure = (np.asarray(group.rotations) == np.eye(3, dtype=int)).all((1, 2))
    return np.asarray(group.translations)[pure]


def _mod(point: FloatArray) -> tuple[int, ...]:
    return tuple((np.rint(SHIFT_GRID * np.asarray(point)).astype(int) % SHIFT_GRID).tolist())


@lru_cache(maxsize=1)
def _grid() -> IntArray:
    axis = np.arange(SHIFT_GRID)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def _shifts(group: SpaceGroup, linear: IntArray) -> list[FloatArray]:
    """Origin shifts t on the grid with (M, t) G (M, t)⁻¹ = G: for each operation (R, s), M s + (1 - R') t is the
    translation of R' = M R M⁻¹.
    """
    rotations = np.asarray(group.rotations)
    translations = np.rint(SHIFT_GRID * np.asarray(group.translations)).astype(int)
    inverse = np.rint(np.linalg.inv(linear)).astype(int)
    centring = {_mod(c) for c in _centring(group)}
    left = _grid()
    for axis in np.nonzero(polar_axes(rotations))[0]:
        left = left[left[:, axis] == 0]
    for rotation, translation in zip(rotations, translations, strict=True):
        image = linear @ rotation @ inverse
        k = int(np.nonzero((rotations == image).all((1, 2)))[0][0])
        wanted = translations[k] - linear @ translation
        off = (left - left @ image.T - wanted) % SHIFT_GRID
        left = left[np.isin(_code(off), [_code(np.array(c)) for c in centring])]
        if not len(left):
            return []
    return list(left / SHIFT_GRID)


def _code(points: IntArray) -> IntArray:
    return points @ np.array([SHIFT_GRID * SHIFT_GRID, SHIFT_GRID, 1])
