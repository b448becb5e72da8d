"""Which Wyckoff letters of a space group stand for one another: its normaliser, as permutations of letters.

A crystal can be described in its space group's setting in several ways: other origins (NaCl with sodium on 4a or on 4b
of Fm-3m), other axes (orthorhombic a, b, c renamed). They are the elements of the group's normaliser, the affine maps
that carry the group to itself (International Tables A, chapter 3.5); each permutes the Wyckoff positions. Labels are
canonical once the smallest description under these permutations is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from autoperi.symmetry.spacegroup import FloatArray, IntArray, check_number, space_group
from autoperi.symmetry.wyckoff import LETTERS, read_table, wyckoff_positions

TABLE = "normalizers.json"
"""Generators of the permutations of each space group: the k-th letter of a word is what position k becomes. Groups that
are not named have none but the identity.

All were found by a search over linear parts with at most four entries ±1 (shears one by one, axes in every order,
sixfold rotations) and every origin shift, which the tests repeat. These generate the others but for C2/m and P2/c
(12, 13), whose shears by two lattice vectors are left out: there some crystals keep two descriptions (e and f
exchanged).
"""
SHIFT_GRID = 24
"""Origin shifts are looked for among multiples of 1/24, which hold those of all 230 groups but the continuous ones of
polar groups: these leave every letter in place.
"""


@lru_cache(maxsize=230)
def letter_permutations(number: int) -> tuple[tuple[int, ...], ...]:
    """Permutations p of Wyckoff letters, as indices, identity first: a position k of one description is p[k] in another
    of the same crystal.

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    identity = tuple(range(len(wyckoff_positions(check_number(number)))))
    return closure(identity, [tuple(map(LETTERS.index, word)) for word in read_table(TABLE).get(str(number), ())])


def closure(identity: tuple[int, ...], generators: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The group of permutations that ``generators`` make, identity first."""
    chosen = sorted(generators)
    found, front = {identity}, [identity]
    while front:
        fresh = {tuple(g[k] for k in p) for p in front for g in chosen} - found
        found |= fresh
        front = sorted(fresh)
    return (identity, *sorted(found - {identity}))


@lru_cache(maxsize=230)
def origin_shifts(number: int) -> tuple[FloatArray, ...]:
    """Translations of the normaliser, one of each coset of the group's own, zero first; those along polar axes are left
    out.

    Raises:
        RequestError: ``number`` is not in 1..230.
    """
    group = space_group(check_number(number))
    pure = (group.rotations == np.eye(3, dtype=int)).all((1, 2))
    centring = np.rint(SHIFT_GRID * group.translations[pure]).astype(int)
    grid = np.indices((SHIFT_GRID,) * 3).reshape(3, -1).T
    left = grid[(grid[:, polar_axes(group.rotations)] == 0).all(1)]
    for rotation in group.rotations:
        # a shift t makes (R, s + t - R t) of (R, s), which is the group's own where t - R t is one of its translations
        off = (left - left @ rotation.T) % SHIFT_GRID
        left = left[(off[:, None] == centring).all(2).any(1)]
    seen: set[tuple[int, ...]] = set()
    found = []
    for shift in left:
        if tuple(shift.tolist()) not in seen:
            found.append(shift / SHIFT_GRID)
            seen |= {tuple(same) for same in ((shift + centring) % SHIFT_GRID).tolist()}
    return tuple(found)


def polar_axes(rotations: IntArray) -> np.ndarray:
    """Axes of the cell along which a shift commutes with every rotation, ``[3]``; oblique polar directions hold none of
    them.
    """
    return (np.asarray(rotations) == np.eye(3, dtype=int)).all((0, 1))
