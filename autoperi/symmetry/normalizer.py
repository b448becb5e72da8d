"""Which Wyckoff letters of a space group stand for one another: its normaliser, as permutations of letters.

A crystal can be described in its space group's setting in several ways: other origins (NaCl with sodium on 4a or on 4b
of Fm-3m), other axes (orthorhombic a, b, c renamed). They are the elements of the group's normaliser, the affine maps
that carry the group to itself (International Tables A, chapter 3.5); each permutes the Wyckoff positions. Labels are
canonical once the smallest description under these permutations is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from autoperi.symmetry.normalizer_table import TABLE
from autoperi.symmetry.spacegroup import FloatArray, IntArray, check_number, space_group
from autoperi.symmetry.wyckoff import GENERIC, LETTERS, locate, wyckoff_positions

if TYPE_CHECKING:
    from autoperi.symmetry.analysis import SpaceGroup

SHIFT_GRID = 24
"""Origin shifts are looked for among multiples of 1/24, which hold those of all 230 groups but the continuous ones of
polar groups: these leave every letter in place.
"""
MAX_ENTRIES = 4
"""Most entries ±1 of the linear parts that are tried: shears one by one, axes in every order, sixfold rotations. They
generate the others but for C2/m and P2/c (12, 13), whose shears by two lattice vectors are left out: there some
crystals keep two descriptions (e and f exchanged).
"""


@lru_cache(maxsize=230)
def letter_permutations(number: int) -> tuple[tuple[int, ...], ...]:
    """Permutations p of Wyckoff letters, as indices, identity first: a position k of one description is p[k] in another
    of the same crystal.

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    identity = tuple(range(len(wyckoff_positions(check_number(number)))))
    return closure(identity, _table().get(number, ()))


def closure(identity: tuple[int, ...], generators: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The group of permutations that ``generators`` make, identity first."""
    chosen = sorted(generators)
    found, front = {identity}, [identity]
    while front:
        fresh = {tuple(g[k] for k in p) for p in front for g in chosen} - found
        found |= fresh
        front = sorted(fresh)
    return (identity, *sorted(found - {identity}))


@lru_cache(maxsize=1)
def _table() -> dict[int, tuple[tuple[int, ...], ...]]:
    table: dict[int, tuple[tuple[int, ...], ...]] = {}
    for word in TABLE.split():
        if word.isdigit():
            table[int(word)] = ()
        else:
            table[max(table)] += (tuple(LETTERS.index(letter) for letter in word),)
    return table


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


@lru_cache(maxsize=230)
def origin_shifts(number: int) -> tuple[FloatArray, ...]:
    """Translations of the normaliser, one of each coset of the group's own, zero first; those along polar axes are left
    out.

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    group = space_group(check_number(number))
    centring = _centring(group)
    seen: set[tuple[int, ...]] = set()
    found = []
    for shift in sorted(_shifts(group, np.eye(3, dtype=int)), key=lambda s: tuple(s)):
        if _mod(shift) not in seen:
            found.append(shift)
            seen |= {_mod(shift + c) for c in centring}
    return tuple(found)


def polar_axes(rotations: IntArray) -> np.ndarray:
    """Axes of the cell along which a shift commutes with every rotation; oblique polar directions hold none of them."""
    return np.array([bool((rotations[:, :, k] == np.eye(3, dtype=int)[k]).all()) for k in range(3)])
