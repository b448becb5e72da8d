"""Uniqueness, novelty and rediscovery of generated crystals, by StructureMatcher, prototype key and structure type.

Two crystals can be the same only if their reduced compositions are, so each is compared with those of its own
composition alone, and of these with those whose primitive cells hold as many atoms (:mod:`autoperi.metrics.groups`).
The work is linear in the number of crystals of different composition; within one composition it grows with crystals
times kinds. Every verdict stands beside its crystal, for S.U.N.

Uniqueness by matcher depends on the order, since matching is not transitive: crystals are taken in the order given, and
each is compared with the first member of every group so far, as pymatgen's ``group_structures`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, Unpack

import numpy as np

from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.data.io import CrystalTable
from autoperi.errors import RequestError, StructureError
from autoperi.metrics.consistency import conventional_cells, reduced_formula
from autoperi.metrics.counts import mean, quantity, share
from autoperi.metrics.groups import find_crystals, group_crystals
from autoperi.metrics.pairs import (
    Arrays,
    Key,
    arrays_of,
    by_composition,
    check_tolerances,
    compare_pairs,
    composition_key,
)
from autoperi.metrics.parallel import CachedRun, Failure, Run, featurise
from autoperi.symmetry.analysis import SYMPREC, SYMPREC_LADDER, analyse
from autoperi.symmetry.normalizer import letter_permutations
from autoperi.symmetry.orbits import contents_of, read_orbits
from autoperi.symmetry.wyckoff import LETTERS

Known: TypeAlias = Sequence[Any] | CrystalTable
"""Crystals to compare with: structures, atoms, or a table, of which only the rows that are needed become structures."""


def uniqueness(
    crystals: Sequence[Any],
    *,
    tolerances: str = "default",
    stol: float | None = None,
    ltol: float | None = None,
    angle_tol: float | None = None,
    **run: Unpack[Run],
) -> dict[str, Any]:
    """Share of crystals that match none before them.

    Args:
        crystals: pymatgen structures or ASE atoms.
        tolerances: ``"default"`` (0.2/0.3/5: FlowMM, MatterGen), ``"adit"`` (0.3/0.5/10) or ``"csp"``.
        stol, ltol, angle_tol: instead of those of the name; the angle in degrees.
        **run: see :class:`~autoperi.metrics.parallel.Run`.

    Returns:
        ``unique``, the share; ``flags``, a verdict a crystal (None for one that cannot be read, or whose comparison
        went beyond its budget); ``same_as``, the position of the first crystal of its group, its own if it is unique;
        ``matcher``.

    Raises:
        RequestError: tolerances that are none. StructureError: something that is no crystal.
    """
    limits = check_tolerances(tolerances, {"stol": stol, "ltol": ltol, "angle_tol": angle_tol})
    arrays = arrays_of(crystals)
    same_as = group_crystals(arrays, tolerances=limits, **run)
    flags = [None if first is None else first == i for i, first in enumerate(same_as)]
    return {
        "unique": share(flags, missing="no crystal can be compared"),
        "flags": flags,
        "same_as": same_as,
        "matcher": limits,
    }


def novelty(
    crystals: Sequence[Any],
    known: Known,
    *,
    tolerances: str = "default",
    stol: float | None = None,
    ltol: float | None = None,
    angle_tol: float | None = None,
    **run: Unpack[Run],
) -> dict[str, Any]:
    """Share of crystals that match no known one (of the training set) of the same reduced composition.

    Args:
        crystals: pymatgen structures or ASE atoms.
        known: the training set; a table is the fastest.
        tolerances, stol, ltol, angle_tol, **run: as in :func:`uniqueness`.

    Returns:
        ``novel``, the share; ``flags``, a verdict a crystal (None as in :func:`uniqueness`); ``same_as``, the position
        of the first known crystal that it matches, None where there is none; ``new_composition``, the share whose
        composition is not known at all; ``matcher``.

    Raises:
        RequestError: tolerances that are none. StructureError: something that is no crystal.
    """
    limits = check_tolerances(tolerances, {"stol": stol, "ltol": ltol, "angle_tol": angle_tol})
    arrays, training = arrays_of(crystals), _known_arrays(known)
    known_groups = by_composition(training)
    found = find_crystals(arrays, training, tolerances=limits, **run)
    flags = [None if isinstance(match, Failure) else match is None for match in found]
    same_as = [match if isinstance(match, int) else None for match in found]
    new = [None if isinstance(a, Failure) else composition_key(a[2]) not in known_groups for a in arrays]
    return {
        "novel": share(flags, missing="no crystal can be compared"),
        "flags": flags,
        "same_as": same_as,
        "new_composition": share(new, missing="no crystal can be read"),
        "known": len(training),
        "matcher": limits,
    }


def prototype_keys(crystals: Known, *, symprec: float = SYMPREC, **run: Unpack[CachedRun]) -> list[str | None]:
    """PGCGM's key of each crystal, "reduced formula - space group - number of atoms"; None where no space group is
    found.

    The atoms are those of the conventional standard cell, so that the key does not depend on the cell that is given.

    Args:
        crystals: pymatgen structures, ASE atoms or a table.
        symprec: Å.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.

    Raises:
        RequestError: ``symprec`` is not positive.
    """
    if not symprec > 0:
        raise RequestError(f"symprec={symprec!r} is not a positive distance in Å; give one such as {SYMPREC}")
    structures = arrays_to_structures(list(_known_arrays(crystals))) if isinstance(crystals, CrystalTable) else crystals  # type: ignore[arg-type]
    key: dict[str, Any] = {"parameters": {"symprec": symprec}, "packages": ("spglib",)}
    found = featurise(_prototype, structures, name="prototype", version=1, **key, **run)
    return [
        None if isinstance(f, Failure) else f"{reduced_formula(to_arrays(s)[2])}-{int(f[0])}-{int(f[1])}"
        for s, f in zip(structures, found, strict=True)
    ]


def prototype_uniqueness(keys: Sequence[str | None]) -> dict[str, Any]:
    """Share of crystals whose key (:func:`prototype_keys`) none before them has; ``flags`` holds a verdict each."""
    first = {key: members[0] for key, members in _positions(keys).items()}
    flags = [None if key is None else first[key] == i for i, key in enumerate(keys)]
    return {"unique": share(flags, missing="no space group"), "flags": flags}


def prototype_novelty(
    crystals: Sequence[Any], known: Known, *, symprec: float = SYMPREC, **run: Unpack[CachedRun]
) -> dict[str, Any]:
    """Share of crystals whose prototype key no known crystal has; only known crystals of their compositions are
    analysed.

    Arguments as in :func:`novelty` and :func:`prototype_keys`.
    """
    compositions = set(by_composition(arrays_of(crystals)))
    training = _known_arrays(known)
    rows = [j for key, members in by_composition(training).items() if key in compositions for j in members]
    keys = prototype_keys(crystals, symprec=symprec, **run)
    seen = set(prototype_keys(arrays_to_structures([training[j] for j in rows]), symprec=symprec, **run))  # type: ignore[misc]
    flags = [None if key is None else key not in seen for key in keys]
    return {"novel": share(flags, missing="no space group"), "flags": flags, "known": len(training), "symprec": symprec}


def structure_type_keys(crystals: Known, **run: Unpack[CachedRun]) -> list[str | None]:
    """The structure type of each crystal, "space group: Wyckoff letters of each element", without the elements; None
    where no orbits are found.

    Of the descriptions that origins and axes exchange (:mod:`autoperi.symmetry.normalizer`) the smallest is taken, so
    that NaCl and MgO, with either element on 4a, have one key. Crystals of one structure type have one key; crystals of
    one key may differ in their free coordinates and cells (they are isopointal).

    Args:
        crystals: pymatgen structures, ASE atoms or a table.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.
    """
    structures = arrays_to_structures(list(_known_arrays(crystals))) if isinstance(crystals, CrystalTable) else crystals  # type: ignore[arg-type]
    how: dict[str, Any] = {"parameters": {"symprecs": list(SYMPREC_LADDER)}, "packages": ("spglib",)}
    found = featurise(_structure_type, structures, name="structure_type", version=1, **how, **run)
    return [None if isinstance(f, Failure) else str(f) for f in found]


def structure_type_novelty(crystals: Sequence[Any], known: Known, **run: Unpack[CachedRun]) -> dict[str, Any]:
    """Share of crystals whose structure type (:func:`structure_type_keys`) no known crystal has, whatever its elements.

    A lower bound: of crystals with a known key some may still be of a new type, by their coordinates. Only known
    crystals with the same numbers of atoms of some elements are analysed.

    Args:
        crystals: pymatgen structures or ASE atoms.
        known: the training set; a table is the fastest.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.

    Returns:
        ``novel``, the share; ``flags``, a verdict a crystal (None where no orbits are found); ``known``.
    """
    training = _known_arrays(known)
    wanted = {_anonymous(key) for key in by_composition(arrays_of(crystals))}
    rows = [j for key, members in by_composition(training).items() if _anonymous(key) in wanted for j in members]
    keys = structure_type_keys(crystals, **run)
    seen = set(structure_type_keys(arrays_to_structures([training[j] for j in rows]), **run))  # type: ignore[misc]
    flags = [None if key is None else key not in seen for key in keys]
    return {"novel": share(flags, missing="no orbits"), "flags": flags, "known": len(training)}


def rediscovery(
    crystals: Sequence[Any],
    references: Known,
    *,
    at: Sequence[int] | None = None,
    symprec: float = SYMPREC,
    tolerances: str = "default",
    **run: Unpack[CachedRun],
) -> dict[str, Any]:
    """How much of a reference set the first n generated crystals find (PGCGM, Figure 1a), by prototype and by matcher.

    A prototype is found by the first generated crystal with its key. Of a prototype that is found, every pair of a
    generated crystal and a reference is matched (ltol 0.2, stol 0.3, 5°), and the least RMS counts.

    Args:
        crystals: generated, in the order of generation.
        references: the set to find again.
        at: numbers n of generated crystals; by default ten equal steps.
        symprec: Å, of the keys.
        tolerances: name of :data:`~autoperi.metrics.pairs.TOLERANCES`.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.

    Returns:
        ``prototypes``, distinct ones of the reference; ``curve``, a dictionary each n with ``rediscovered`` (share of
        prototypes) and ``matched`` (share of them with a match within the first n); ``match_rate``, of the prototypes
        found; ``rms``, mean of the least; ``pairs``, ``(generated, reference, rms)`` of the least RMS of each matched
        prototype, for parity plots.

    Raises:
        RequestError: an ``n`` that is not between 1 and the number of crystals.
    """
    limits = check_tolerances(tolerances, {})
    steps = list(at) if at is not None else sorted({-(-len(crystals) * s // 10) for s in range(1, 11)} - {0})
    if any(isinstance(n, bool) or not 1 <= n <= len(crystals) for n in steps):
        raise RequestError(f"at={steps!r} must be numbers from 1 to {len(crystals)}, the generated crystals")
    keys, wanted = (prototype_keys(side, symprec=symprec, **run) for side in (crystals, references))
    made, held = _positions(keys), _positions(wanted)
    found = [key for key in held if key in made]
    pairs = [(i, j) for key in found for i in made[key] for j in held[key]]
    left, right = arrays_of(crystals), _known_arrays(references)
    uncached: Any = {name: value for name, value in run.items() if name != "cache"}
    rms = compare_pairs(left, right, pairs, tolerances=limits, description="rediscovery", **uncached)
    least: dict[str, tuple[float, int, int]] = {}
    first_match: dict[str, int] = {}
    for (i, j), r in zip(pairs, rms, strict=True):
        key = wanted[j]
        if key is not None and isinstance(r, float):
            least[key] = min(least.get(key, (r, i, j)), (r, i, j))
            first_match[key] = min(first_match.get(key, i), i)
    n = len(held)
    curve = []
    for step in steps:
        seen, same = sum(made[key][0] < step for key in found), sum(i < step for i in first_match.values())
        curve.append(
            {
                "n": step,
                "rediscovered": quantity(seen / n if n else None, of=n, count=seen),
                "matched": quantity(same / n if n else None, of=n, count=same),
            }
        )
    return {
        "prototypes": n,
        "without_key": {"generated": sum(k is None for k in keys), "references": sum(k is None for k in wanted)},
        "curve": curve,
        "match_rate": share([key in least for key in found], missing="nothing is rediscovered"),
        "rms": mean([r for r, _, _ in least.values()], missing="nothing matches"),
        "pairs": [(i, j, r) for r, i, j in least.values()],
        "given_up": sum(isinstance(r, Failure) for r in rms),
        "matcher": limits,
        "symprec": symprec,
    }


def _prototype(crystal: Any, *, symprec: float) -> Any:
    lattice, coords, numbers = to_arrays(crystal)
    info = analyse(lattice, coords, numbers, symprec=symprec)
    return np.array([info.number, len(info.primitive_numbers) * conventional_cells(info)], dtype=np.int64)


def _structure_type(crystal: Any, *, symprecs: Sequence[float]) -> Any:
    """The key as a NumPy string, so that it can be remembered."""
    read = read_orbits(*to_arrays(crystal), symprecs=symprecs)
    if read is None:
        raise StructureError("no Wyckoff orbits are found at any tolerance")
    info, orbits = read
    letters = contents_of(orbits)[0].values()
    smallest = min(
        tuple(sorted(tuple(sorted(p[k] for k in own)) for own in letters)) for p in letter_permutations(info.number)
    )
    return np.array(f"{info.number}: " + " ".join("".join(LETTERS[k] for k in own) for own in smallest))


def _anonymous(key: Key) -> tuple[int, ...]:
    """Numbers of atoms of a reduced composition, sorted."""
    return tuple(sorted(count for _, count in key))


def _positions(keys: Sequence[str | None]) -> dict[str, list[int]]:
    """Positions of each key, in order."""
    out: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            out.setdefault(key, []).append(i)
    return out


def _known_arrays(known: Known) -> Sequence[Arrays | Failure]:
    if isinstance(known, CrystalTable):
        return list(zip(known.lattice, known.frac_coords, known.atomic_numbers, strict=True))
    return arrays_of(known)
