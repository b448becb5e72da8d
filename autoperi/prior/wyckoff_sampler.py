"""Random crystals of a given composition and space group: the fallback where the prototype library has nothing to
offer.

Orbits, cell shape and free coordinates are drawn, not learned (as in PyXtal, Fredericks et al. 2021, and the random
searches before it):

1. every way to fill whole Wyckoff orbits with the wanted atoms (an exact cover) is counted by a dynamic programme, and
   one is drawn;
2. the cell is a random strain of an equilateral one, within what the group leaves free, at the wanted volume;
3. orbits are placed one after another, with uniform free coordinates, each at a distance from those already there;
4. spglib must find exactly the wanted group, and no smaller cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from autoperi.data.elements import covalent_radii
from autoperi.errors import RequestError, StructureError
from autoperi.symmetry.analysis import STRICT_SYMPREC, analyse, strain_projector
from autoperi.symmetry.freedom import equal_edges
from autoperi.symmetry.spacegroup import FloatArray, IntArray, check_number, primitive_transform, space_group
from autoperi.symmetry.wyckoff import LETTERS, WyckoffPosition, wyckoff_positions
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from collections.abc import Mapping

ORBIT_COST = 1.5
"""Natural log by which each orbit makes a choice less likely: few large orbits come first."""
FREEDOM_GAIN = 1.5
"""Natural log by which each free coordinate makes a choice likelier: orbits without freedom tend to have a larger group
than the wanted.

Both numbers are a maximum-likelihood fit, to half units, to the orbits of 600 crystals of the training set, given
composition and group. On 900 others of that set they are 1.7 nats a crystal better than choosing evenly.
"""
STRAIN_DEVIATION = 0.4
"""Standard deviation of each free component of the logarithmic strain that shapes the cell: the middle of what crystals
of the training set show, 0.2 (triclinic) to 0.9 (rhombohedral).
"""
MAX_PLACEMENTS = 20
"""Draws of the free coordinates of one orbit before the whole crystal is begun again."""


@dataclass(frozen=True, eq=False)
class SampledCrystal:
    """A crystal in the standard primitive setting of its group
    (:func:`~autoperi.symmetry.spacegroup.primitive_transform`).

    The operations are those of the setting. Among the cells that have them, spglib's own pick may differ where the
    lattice leaves a choice: it sorts axes of orthorhombic cells by length and takes the shortest monoclinic ones.

    Attributes:
        lattice: rows in Å, ``[3, 3]``.
        frac_coords: in [0, 1), ``[n, 3]``; they obey ``space_group(number).primitive`` exactly.
        numbers: atomic numbers, ``[n]``, ascending.
        orbits: index of each atom's orbit, ``[n]``, 0 to ``len(letters) - 1``.
        letters: Wyckoff letter of each orbit.
    """

    lattice: FloatArray
    frac_coords: FloatArray
    numbers: IntArray
    orbits: IntArray
    letters: tuple[str, ...]


def sample_crystal(
    numbers_and_counts: Mapping[int, int],
    group_number: int,
    volume: float,
    generator: np.random.Generator,
    *,
    min_distance_ratio: float = 0.6,
    attempts: int = 200,
) -> SampledCrystal | None:
    """A random crystal of exactly this composition and space group, or None where none was found.

    The answer depends on the arguments and the state of ``generator`` alone, not on the order of the mapping.

    Args:
        numbers_and_counts: atomic number to atoms in the primitive cell.
        group_number: 1..230.
        volume: of the primitive cell, Å³.
        generator: source of every draw; see :func:`autoperi.data.random.numpy_generator`.
        min_distance_ratio: no two atoms or images are nearer than this part of the sum of their covalent radii.
        attempts: draws of orbits and cell before giving up; each of them also draws coordinates several times.

    Returns:
        None where no orbits add up to the composition, or no attempt passed the checks, as for compositions that can
        only sit on orbits of a supergroup.

    Raises:
        RequestError: a group, element, count or volume that does not exist. A request that merely cannot be met is
            None.
    """
    counts = _check(numbers_and_counts, volume)
    covers = _covers(check_number(group_number), tuple(counts.values()))
    if covers.log_total == -np.inf:
        return None
    elements, radii = list(counts), covalent_radii()
    for _ in range(attempts):
        chosen = covers.draw(generator)
        lattice = _draw_lattice(group_number, volume, generator)
        orbits = [(z, position) for z, group in zip(elements, chosen, strict=True) for position in group]
        placed = _place(orbits, lattice, min_distance_ratio * radii, generator)
        if placed is None:
            continue
        sizes = [len(points) for points in placed]
        coords = np.concatenate(placed)
        numbers = np.repeat(np.array([z for z, _ in orbits], dtype=np.int64), sizes)
        if _is_exactly(lattice, coords, numbers, group_number):
            letters = tuple(position.letter for _, position in orbits)
            return SampledCrystal(lattice, coords, numbers, np.repeat(np.arange(len(orbits)), sizes), letters)
    return None


def _check(numbers_and_counts: Mapping[int, int], volume: float) -> dict[int, int]:
    if not (math.isfinite(volume) and volume > 0):
        raise RequestError(f"volume={volume!r} Å³ is not positive; give the volume of the primitive cell")
    counts = {int(z): int(c) for z, c in sorted(numbers_and_counts.items())}
    if not counts or any(
        not 1 <= z <= MAX_ATOMIC_NUMBER or c < 1 or c != numbers_and_counts[z] for z, c in counts.items()
    ):
        raise RequestError(
            f"composition {dict(numbers_and_counts)!r} is empty or holds no atoms; give atomic numbers 1 to 118 and "
            "counts"
        )
    return counts


# --- orbits


class Covers:
    """All ways to make atoms of given counts, one count an element, out of whole orbits of a group's primitive cell.

    A position without free coordinates holds one orbit in all, one with free coordinates any number. A cover gives each
    element a multiset of positions; its weight is exp(gain × free coordinates - cost × orbits), and the weights are
    summed exactly, in log space.
    """

    def __init__(
        self, number: int, counts: tuple[int, ...], *, gain: float = FREEDOM_GAIN, cost: float = ORBIT_COST
    ) -> None:
        positions = wyckoff_positions(number)
        self.counts, self.gain, self.cost = counts, gain, cost
        self._fixed: dict[int, list[WyckoffPosition]] = {}
        for p in positions:
            if p.dof == 0:
                self._fixed.setdefault(p.primitive_multiplicity, []).append(p)
        self._movable = [p for p in positions if p.dof]
        # multisets[i, r]: log-sum over multisets of the movable positions i, i+1, … that hold r atoms
        self._multisets = np.full((len(self._movable) + 1, max(counts) + 1), -np.inf)
        self._multisets[-1, 0] = 0.0
        for i in reversed(range(len(self._movable))):
            size, weight = self._movable[i].primitive_multiplicity, gain * self._movable[i].dof - cost
            row = self._multisets[i]
            row[:] = self._multisets[i + 1]
            for r in range(size, len(row)):
                row[r] = np.logaddexp(row[r], weight + row[r - size])
        self._left = tuple(len(group) for group in self._fixed.values())
        self._memo: dict[tuple[int, tuple[int, ...]], float] = {}
        self.log_total = self._value(0, self._left)

    def _options(self, e: int, left: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
        """How many fixed positions of each size element e takes, and the log weight of all covers of e, e+1, … that
        follow.
        """
        count, options = self.counts[e], []
        most = (min(many, count // size) for many, size in zip(left, self._fixed, strict=True))
        for used in product(*(range(n + 1) for n in most)):
            rest = count - sum(u * size for u, size in zip(used, self._fixed, strict=True))
            if rest < 0 or self._multisets[0, rest] == -np.inf:
                continue
            ways = math.prod(map(math.comb, left, used))
            after = self._value(e + 1, tuple(many - u for many, u in zip(left, used, strict=True)))
            if after > -np.inf:
                options.append((used, math.log(ways) - self.cost * sum(used) + float(self._multisets[0, rest]) + after))
        return options

    def _value(self, e: int, left: tuple[int, ...]) -> float:
        if e == len(self.counts):
            return 0.0
        if (e, left) not in self._memo:
            self._memo[e, left] = float(np.logaddexp.reduce([-np.inf, *(w for _, w in self._options(e, left))]))
        return self._memo[e, left]

    def draw(self, generator: np.random.Generator) -> list[list[WyckoffPosition]]:
        """One cover with probability proportional to its weight: the positions of each element, in order of letters."""
        free = {size: list(group) for size, group in self._fixed.items()}
        left, cover = self._left, []
        for e, count in enumerate(self.counts):
            options = self._options(e, left)
            logs = np.array([w for _, w in options])
            weights = np.exp(logs - logs.max())
            used = options[generator.choice(len(weights), p=weights / weights.sum())][0]
            chosen: list[WyckoffPosition] = []
            for size, u in zip(self._fixed, used, strict=True):
                taken = generator.choice(len(free[size]), size=u, replace=False).tolist() if u else []
                chosen += [free[size].pop(k) for k in sorted(taken, reverse=True)]
            rest = count - sum(p.primitive_multiplicity for p in chosen)
            chosen += self._draw_movable(rest, generator)
            cover.append(sorted(chosen, key=lambda p: LETTERS.index(p.letter)))
            left = tuple(many - u for many, u in zip(left, used, strict=True))
        return cover

    def _draw_movable(self, rest: int, generator: np.random.Generator) -> list[WyckoffPosition]:
        chosen, i = [], 0
        while rest or i < len(self._movable):
            position = self._movable[i]
            without = self._multisets[i + 1, rest]
            if generator.random() < math.exp(without - self._multisets[i, rest]):
                i += 1
            else:
                chosen.append(position)
                rest -= position.primitive_multiplicity
        return chosen


@lru_cache(maxsize=512)
def _covers(number: int, counts: tuple[int, ...]) -> Covers:
    return Covers(number, counts)


# --- cell


@lru_cache(maxsize=230)
def _equilateral(number: int) -> tuple[FloatArray, FloatArray]:
    """The group's cell of equal edges, and the strains ``[6, 3, 3]`` that keep the group."""
    from autoperi.geometry.lattice import log_metric_basis

    rotations = space_group(number).primitive.rotations
    lattice = equal_edges(number)
    return lattice, np.einsum("kl,lij->kij", strain_projector(lattice, rotations), log_metric_basis().numpy())


def _draw_lattice(number: int, volume: float, generator: np.random.Generator) -> FloatArray:
    """Rows of a primitive cell of this volume, ``[3, 3]`` in Å: conventional a along x, b in the xy plane, as spglib
    has them.
    """
    lattice, strains = _equilateral(number)
    values, vectors = np.linalg.eigh(np.einsum("k,kij->ij", STRAIN_DEVIATION * generator.normal(size=6), strains))
    lattice = lattice @ (vectors * np.exp(values)) @ vectors.T
    if number <= 2:
        # any basis is a setting of P1 and P-1, and the reduced one is the standard
        import spglib

        reduced = spglib.niggli_reduce(lattice)
        lattice = lattice if reduced is None else np.asarray(reduced)
    transform = primitive_transform(space_group(number))
    conventional = np.linalg.inv(transform) @ lattice
    rows = transform @ np.linalg.cholesky(conventional @ conventional.T)
    return rows * (volume / np.linalg.det(rows)) ** (1 / 3)


# --- coordinates


def _place(
    orbits: list[tuple[int, WyckoffPosition]], lattice: FloatArray, radii: FloatArray, generator: np.random.Generator
) -> list[FloatArray] | None:
    """Points ``[p, 3]`` of each orbit, no two atoms or images i, j nearer than radii_i + radii_j (by atomic number, Å),
    or None.

    Free coordinates are uniform given the orbits placed before: those without freedom first, then the largest.
    """
    from pymatgen.core import Lattice

    cell, largest = Lattice(lattice), max(radii[z] for z, _ in orbits)
    images = cell.get_points_in_sphere([[0, 0, 0]], [0, 0, 0], 2 * largest)
    nearest_image = min((distance for _, distance, *_ in images if distance > 0), default=np.inf)
    order = sorted(
        range(len(orbits)),
        key=lambda k: (orbits[k][1].dof > 0, -orbits[k][1].primitive_multiplicity * radii[orbits[k][0]] ** 3),
    )
    placed: list[FloatArray] = [np.zeros((0, 3))] * len(orbits)
    around, reach = np.zeros((0, 3)), np.zeros(0)
    for k in order:
        z, position = orbits[k]
        for _ in range(MAX_PLACEMENTS if position.dof else 1):
            points = position.points(generator.random(3) if position.dof else np.zeros(3), primitive=True)
            # the group takes any atom of an orbit to the first and leaves the orbits placed before in place: the first
            # stands for all
            others, limits = np.concatenate([points, around]), np.append(np.full(len(points), radii[z]), reach)
            apart = cell.get_all_distances(points[:1], others)[0]
            apart[0] = nearest_image
            if (apart >= limits + radii[z]).all():
                placed[k], around, reach = points, others, limits
                break
        else:
            return None
    return placed


def _is_exactly(lattice: FloatArray, coords: FloatArray, numbers: IntArray, group_number: int) -> bool:
    """Whether spglib finds this group, in a cell no smaller."""
    try:
        found = analyse(lattice, coords, numbers, symprec=STRICT_SYMPREC)
    except StructureError:
        return False
    return found.number == group_number and len(found.primitive_numbers) == len(numbers)
