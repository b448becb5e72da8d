"""Shares of stable and metastable crystals, and of those that are unique and novel as well (S.U.N.)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from autoperi.errors import RequestError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import mean, share

STABLE = 0.0
"""eV/atom above the hull, at most (FlowMM, Miller et al. 2024; LeMat-GenBench)."""
METASTABLE = 0.1
"""eV/atom above the hull, at most (MatterGen, Zeni et al. 2025, calls this stable)."""
ROUNDING_TOLERANCE = 1e-6
"""eV/atom, of energies that no relaxation was stopped at."""
RELAXED_TOLERANCE = 1e-3
"""eV/atom, of energies of crystals relaxed until forces fell below some 0.05 eV/Å."""


def within_hull(
    energies_above_hull: Sequence[float | None], threshold: float, *, tolerance: float = 0.0
) -> list[bool | None]:
    """Whether each crystal is at most ``threshold + tolerance`` eV/atom above the hull; None where that is unknown.

    Raises:
        RequestError: a threshold that is no number, or a negative tolerance.
    """
    if not math.isfinite(threshold) or not (math.isfinite(tolerance) and tolerance >= 0):
        raise RequestError(
            f"threshold={threshold!r}, tolerance={tolerance!r}: give eV/atom as finite numbers, the tolerance at "
            "least 0"
        )
    return [
        None if e is None or not math.isfinite(e) else bool(e <= threshold + tolerance) for e in energies_above_hull
    ]


def all_of(*verdicts: Sequence[bool | None]) -> list[bool | None]:
    """Crystal by crystal: False where one verdict is False, else None where one is unknown, else True.

    Raises:
        RequestError: not one verdict of each kind for each crystal.
    """
    counts = ", ".join("{}" for _ in verdicts)
    check_lengths(f"verdicts for {counts} crystals do not go together; give one of each kind a crystal", *verdicts)
    rows = [[None if v is None else bool(v) for v in row] for row in zip(*verdicts, strict=True)]
    return [False if False in row else None if None in row else True for row in rows]


def sun(
    stable: Sequence[bool | None],
    unique: Sequence[bool | None],
    novel: Sequence[bool | None],
    *,
    groups: Sequence[int | None] | None = None,
) -> dict[str, Any]:
    """Stable, unique and novel crystals over all that were generated: ``n(stable & unique & novel) / n``.

    By ``unique`` alone a kind is judged by its first member: where the first is not stable, or not novel, the kind
    counts 0, though a later member may be both. With ``groups`` a kind counts once where any of its members is stable
    and novel.

    Args:
        stable: verdict of each generated crystal; None where there is none.
        unique: the same; a crystal is unique where it is the first of its kind, so that each kind counts once. With
            ``groups`` it is not looked at.
        novel: the same.
        groups: kind of each generated crystal, ``same_as`` of :func:`~autoperi.metrics.novelty.uniqueness`; None where
            unknown.

    Returns:
        A share over every crystal generated. A crystal that cannot be judged counts against it and in ``missing`` (one
        that fails any of the three is judged). ``of_judged`` is the share among the judged alone. With ``groups`` the
        verdict on a kind stands with the member that decides it, and its other members are judged as not unique.

    Raises:
        RequestError: not one verdict of each kind for each crystal.
    """
    verdicts = all_of(stable, unique, novel) if groups is None else _once_a_kind(all_of(stable, novel), groups)
    out = share(verdicts, missing="stability, uniqueness or novelty unknown", against=True)
    if not any(v is not None for v in verdicts) and verdicts:  # nothing is known: that is no rate of zero
        out |= {"value": None, "reason": "stability, uniqueness or novelty unknown"}
    return {**out, "of_judged": share(verdicts, missing="stability, uniqueness or novelty unknown")}


def _once_a_kind(verdicts: Sequence[bool | None], groups: Sequence[int | None]) -> list[bool | None]:
    """The verdict on each kind, at its first member with True, else with None, else at its first; False at all others.

    A crystal of unknown kind may be of any: None, unless it fails itself.
    """
    check_lengths("{} groups for {} crystals; give one for each, None where it is unknown", groups, verdicts)
    best: dict[int, int] = {}
    rank = {True: 2, None: 1, False: 0}
    for i, (verdict, group) in enumerate(zip(verdicts, groups, strict=True)):
        if group is not None and (group not in best or rank[verdict] > rank[verdicts[best[group]]]):
            best[group] = i
    return [
        (False if verdict is False else None) if group is None else verdict if best[group] == i else False
        for i, (verdict, group) in enumerate(zip(verdicts, groups, strict=True))
    ]


def stability(
    energies_above_hull: Sequence[float | None],
    *,
    unique: Sequence[bool | None] | None = None,
    novel: Sequence[bool | None] | None = None,
    groups: Sequence[int | None] | None = None,
    stable: float = STABLE,
    metastable: float = METASTABLE,
    tolerance: float = ROUNDING_TOLERANCE,
) -> dict[str, Any]:
    """Everything a report says of energies above the hull.

    Args:
        energies_above_hull: eV/atom of each generated crystal; None where unknown.
        unique, novel: verdicts of each; without both there is no S.U.N.
        stable, metastable: thresholds in eV/atom.
        groups: kind of each crystal, so that S.U.N. counts a kind of which any member is stable and novel; see
            :func:`sun`.
        tolerance: eV/atom added to both. The default is for rounding alone. An energy relaxed to forces of 0.05 eV/Å is
            that far from its minimum that a crystal on the hull can lie above it by some tenths of a meV/atom:
            :data:`RELAXED_TOLERANCE`, 1e-3 eV/atom, suits relaxed crystals.

    Returns:
        ``stable`` and ``metastable`` (shares of the crystals that could be judged), ``stable_of_all`` and
        ``metastable_of_all`` (of all), ``mean_energy_above_hull`` (eV/atom), ``sun`` and ``metastable_sun`` (None
        without ``unique`` and ``novel``) and ``parameters``.

    Raises:
        RequestError: thresholds that are no numbers or in the wrong order; not one verdict of each kind for each
            crystal.
    """
    if stable > metastable:
        raise RequestError(
            f"stable={stable!r} is above metastable={metastable!r}; every stable crystal is metastable, so give it "
            "the lower one"
        )
    levels = {
        "stable": within_hull(energies_above_hull, stable, tolerance=tolerance),
        "metastable": within_hull(energies_above_hull, metastable, tolerance=tolerance),
    }
    why = "no energy above hull"
    out: dict[str, Any] = {name: share(flags, missing=why) for name, flags in levels.items()}
    for name, flags in levels.items():
        whole = share(flags, missing=why, against=True)
        out[f"{name}_of_all"] = (
            whole if out[name]["value"] is not None or not flags else {**whole, "value": None, "reason": why}
        )
    out["mean_energy_above_hull"] = mean(energies_above_hull, missing=why)
    told = unique is not None and novel is not None
    for name, key in (("stable", "sun"), ("metastable", "metastable_sun")):
        out[key] = sun(levels[name], unique, novel, groups=groups) if told else None  # type: ignore[arg-type]
    counts = "a kind by any member" if groups is not None else "a kind by its first member"
    return out | {
        "parameters": {
            "stable_eV_per_atom": stable,
            "metastable_eV_per_atom": metastable,
            "tolerance_eV_per_atom": tolerance,
            "sun": told,
            "sun_counts": counts if told else None,
        }
    }
