"""Comparing crystals pair by pair with pymatgen's StructureMatcher: in several processes, and never for minutes on one
pair.

What the metrics of matching, uniqueness, novelty and rediscovery have in common: which crystals can match at all (those
of one reduced composition), and the comparison itself, with a bound on its work. The bound counts operations, not
seconds, so that the result is the same on every machine; a pair beyond it is a
:class:`~autoperi.metrics.parallel.Failure`, which the metrics count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from autoperi.data.checks import positive_number
from autoperi.data.convert import arrays_to_structures, kind_of, to_arrays
from autoperi.errors import RequestError, StructureError
from autoperi.metrics.parallel import Failure, Run, parallel_map

Arrays: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Lattice ``[3, 3]`` in Å, fractional coordinates ``[n, 3]``, atomic numbers ``[n]``."""
Key: TypeAlias = tuple[tuple[int, int], ...]

CSP: Mapping[str, float] = MappingProxyType({"stol": 0.5, "ltol": 0.3, "angle_tol": 10.0})
"""The matcher of crystal structure prediction (CDVAE, ``RecEval``; DiffCSP): lengths, sites, degrees."""
TOLERANCES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"csp": CSP, "default": MappingProxyType({"stol": 0.3, "ltol": 0.2, "angle_tol": 5.0}), "adit": CSP}
)
"""Tolerances by name: those of crystal structure prediction (CDVAE, DiffCSP), pymatgen's defaults (FlowMM, MatterGen,
PGCGM) and ADiT's, which are those of crystal structure prediction.
"""

BUDGET = 1e7
"""Work that one comparison may cost; about three seconds of one core. Pairs of twenty atoms take a twentieth of it at
worst.
"""
_MAX_POINTS = 2e6
_MAX_ATOMS = 500
FLAT = 1e-3
"""Polar sine V/(abc) below which OMatG compares no cell."""
INLINE = 64
"""Fewer comparisons than this are not worth the start of other processes."""


def check_tolerances(preset: str, given: dict[str, float | None]) -> dict[str, float]:
    """The tolerances of a preset, those that are given put in their place.

    Raises:
        RequestError: no such preset, or a tolerance that is not positive.
    """
    if preset not in TOLERANCES:
        raise RequestError(f"tolerances={preset!r} are not known; choose one of {', '.join(TOLERANCES)}")
    out = dict(TOLERANCES[preset])
    for name, value in given.items():
        if value is None:
            continue
        out[name] = positive_number(value, name, refusal=f"is not a positive number; leave it out for {out[name]}")
    return out


def arrays_of(crystals: Iterable[Any]) -> list[Arrays | Failure]:
    """Arrays of each crystal; a failure in the place of one that cannot be read (NaN, disordered, no volume).

    Raises:
        StructureError: something that is no crystal at all; the message names its position.
    """
    out: list[Arrays | Failure] = []
    for i, crystal in enumerate(crystals):
        if isinstance(crystal, (tuple, Failure)):  # arrays already
            out.append(crystal)
            continue
        kind_of(crystal, name=f"crystal {i}")
        try:
            out.append(to_arrays(crystal))
        except StructureError as error:
            out.append(Failure(str(error)))
    return out


def composition_key(numbers: NDArray[np.int64]) -> Key:
    """``((atomic number, count), …)`` of the reduced composition, sorted."""
    elements, counts = np.unique(np.asarray(numbers), return_counts=True)
    divisor = math.gcd(*counts.tolist())
    return tuple((z, c // divisor) for z, c in zip(elements.tolist(), counts.tolist(), strict=True))


def by_composition(crystals: Sequence[Arrays | Failure]) -> dict[Key, list[int]]:
    """Positions of the readable crystals of each reduced composition, both in the order given."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for i, crystal in enumerate(crystals):
        if not isinstance(crystal, Failure):
            groups[composition_key(crystal[2])].append(i)
    return dict(groups)


def polar_sine(lattice: Any) -> float:
    """V/(abc): 1 for a rectangular cell, 0 for a flat one. ``lattice`` ``[3, 3]``."""
    rows = np.asarray(lattice, dtype=np.float64)
    product = float(np.prod(np.linalg.norm(rows, axis=1)))
    return abs(float(np.linalg.det(rows))) / product if product > 0 else 0.0


class TooCostly(Exception):  # noqa: N818
    """One comparison would have gone beyond its budget."""


def check_reducible(structure: Any) -> None:
    """Whether the primitive, Niggli-reduced cell of a structure can be found in a few seconds.

    Raises:
        TooCostly: it cannot: more than 500 atoms, or a cell shaped like a needle.
    """
    if len(structure) > _MAX_ATOMS:
        raise TooCostly(f"{len(structure)} atoms, more than {_MAX_ATOMS}")
    lattice = structure.lattice.get_lll_reduced_lattice()
    _check_points(max(lattice.lengths), lattice.volume)


def _check_points(radius: float, volume: float) -> None:
    """Lattice points within the longest edge: gigabytes of them in a needle-shaped cell, and pymatgen lists them
    all.
    """
    points = 4.2 * radius**3 / volume
    if points > _MAX_POINTS:
        raise TooCostly(f"the comparison needs {points:.2g} lattice points")


@lru_cache(maxsize=1)
def _bounded_class() -> type:
    from pymatgen.core.structure_matcher import StructureMatcher

    class BoundedMatcher(StructureMatcher):
        """StructureMatcher that counts its work. It overrides the two steps of its search that the time goes to."""

        budget = BUDGET
        _spent = 0.0

        def _spend(self, cost: float) -> None:
            self._spent += cost
            if self._spent > self.budget:
                raise TooCostly(f"the comparison took more than {self.budget:g} units of work")

        def _preprocess(self, struct1: Any, struct2: Any, *args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("skip_structure_reduction"):
                check_reducible(struct1)
                check_reducible(struct2)
            return super()._preprocess(struct1, struct2, *args, **kwargs)

        def _match(self, *args: Any, **kwargs: Any) -> Any:
            self._spent = 0.0
            return super()._match(*args, **kwargs)

        def _get_lattices(self, target_lattice: Any, s: Any, supercell_size: int = 1) -> Any:
            _check_points(max(target_lattice.lengths) * (1 + self.ltol), s.lattice.volume)
            for found in super()._get_lattices(target_lattice, s, supercell_size):
                self._spend(200)
                yield found

        def _cmp_fstruct(self, s1: Any, s2: Any, frac_tol: Any, mask: Any) -> Any:
            self._spend(10 + len(s2) ** 2 / 100)
            return super()._cmp_fstruct(s1, s2, frac_tol, mask)

        def _cart_dists(self, s1: Any, s2: Any, *args: Any, **kwargs: Any) -> Any:
            self._spend(150 + len(s2) ** 2 / 2)
            return super()._cart_dists(s1, s2, *args, **kwargs)

    return BoundedMatcher


def bounded_matcher(*, stol: float, ltol: float, angle_tol: float, budget: float = BUDGET, **options: Any) -> Any:
    """pymatgen's StructureMatcher that raises :class:`TooCostly` instead of going on for minutes; results within the
    budget are the same.

    Large cells with many equal atoms are the slow ones: the search tries every lattice mapping with every translation.
    """
    judge = _bounded_class()(stol=stol, ltol=ltol, angle_tol=angle_tol, **options)
    judge.budget = budget
    return judge


def rms_or_failure(judge: Any, left: Any, right: Any) -> float | Failure | None:
    """Normalised RMS of two structures, None where they do not match, a failure where that could not be found out."""
    try:
        found = judge.get_rms_dist(left, right)
    except Exception as error:  # pymatgen fails in many ways on crystals that no chemist drew
        return Failure(str(error) or type(error).__name__)
    return None if found is None else float(found[0])


def _rms(pair: tuple[Arrays, Arrays], *, tolerances: Mapping[str, float]) -> float | Failure | None:
    return rms_or_failure(bounded_matcher(**tolerances), *arrays_to_structures(pair))


def compare_pairs(
    left: Sequence[Arrays | Failure],
    right: Sequence[Arrays | Failure],
    pairs: Sequence[tuple[int, int]],
    *,
    tolerances: dict[str, float],
    description: str = "matching",
    **run: Unpack[Run],
) -> list[float | Failure | None]:
    """Normalised RMS of ``left[i]`` against ``right[j]`` for each pair (i, j), in order.

    None where they do not match (or cannot, being of different compositions); a failure where one of the two cannot be
    read or the comparison is beyond :data:`BUDGET`. ``run`` as in :class:`~autoperi.metrics.parallel.Run`.
    """
    out: list[Any] = [None] * len(pairs)
    todo: list[int] = []
    left_key, right_key = (cache(lambda i, side=side: composition_key(side[i][2])) for side in (left, right))
    for n, (i, j) in enumerate(pairs):
        failed = next((one for one in (left[i], right[j]) if isinstance(one, Failure)), None)
        if failed is not None:
            out[n] = failed
        elif left_key(i) == right_key(j):
            todo.append(n)
    # a reference with all that is compared with it: pymatgen remembers reduced cells for a while
    todo.sort(key=lambda n: (pairs[n][1], n))
    tasks = [(left[pairs[n][0]], right[pairs[n][1]]) for n in todo]
    how: dict[str, Any] = {"inline": INLINE, "description": description, "unit": "pair"}
    for n, result in zip(todo, parallel_map(partial(_rms, tolerances=tolerances), tasks, **how, **run), strict=True):
        out[n] = result
    return out
