"""Shares of stable and metastable crystals, and of those that are unique and novel as well (S.U.N.)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from autoperi.errors import RequestError
from autoperi.metrics.counts import mean, share

STABLE = 0.0
"""eV/atom above the hull, at most (FlowMM, Miller et al. 2024; LeMat-GenBench)."""
METASTABLE = 0.1
"""eV/atom above the hull, at most (MatterGen, Zeni et al. 2025, calls this stable)."""


def within_hull(energies_above_hull: Sequence[float | None], threshold: float, *, tolerance: float = 0.0) -> list[bool | None]:
    """Whether each crystal is at most ``threshold + tolerance`` eV/atom above the hull; None where that is unknown.

    Raises:
        RequestError: a threshold that is no number, or a negative tolerance.
    """
    if not math.isfinite(threshold) or not (math.isfinite(tolerance) and tolerance >= 0):
        raise RequestError(f"threshold={threshold!r}, tolerance={tolerance!r}: give eV/atom as finite numbers, the tolerance at least 0")
    return [None if e is None or not math.isfinite(e) else bool(e <= threshold + tolerance) for e in energies_above_hull]


def all_of(*verdicts: Sequence[bool | None]) -> list[bool | None]:
    """Crystal by crystal: False where one verdict is False, else None where one is unknown, else True.

    Raises:
        RequestError: not one verdict of each kind for each crystal.
    """
    if len({len(v) for v in verdicts}) > 1:
        raise RequestError(
            f"verdicts for {', '.join(str(len(v)) for v in verdicts)} crystals do not go together; give one of each kind a crystal"
        )
    out: list[bool | None] = []
    for row in zip(*verdicts, strict=True):
        known = [None if v is None else bool(v) for v in row]
        out.append(False if False in known else (None if None in known else True))
    return out


def sun(stable: Sequence[bool | None], unique: Sequence[bool | None], novel: Sequence[bool | None]) -> dict[str, Any]:
    """Stable, unique and novel crystals over all that were generated: ``n(stable & unique & novel) / n``.

    Args:
        stable: verdict of each generated crystal; None where there is none.
        unique: the same; a crystal is unique where it is the first of its kind, so that each kind counts once.
        novel: the same.

    Returns:
        A share over every crystal generated. A crystal that cannot be judged counts against it and in ``missing`` (one that
        fails any of the three is judged). ``of_judged`` is the share among the judged alone.

    Raises:
        RequestError: not one verdict of each kind for each crystal.
    """
    verdicts = all_of(stable, unique, novel)
    out = share(verdicts, missing="stability, uniqueness or novelty unknown", against=True)
    if not any(v is not None for v in verdicts) and verdicts:  # nothing is known: that is no rate of zero
        out |= {"value": None, "reason": "stability, uniqueness or novelty unknown"}
    return {**out, "of_judged": share(verdicts, missing="stability, uniqueness or novelty unknown")}


def stability(
    energies_above_hull: Sequence[float | None],
    *,
    unique: Sequence[bool | None] | None = None,
    novel: Sequence[bool | None] | None = None,
    stable: float = STABLE,
    metastable: float = METASTABLE,
    tolerance: float = 1e-6,
) -> dict[str, Any]:
    """Everything a report says of energies above the hull.

    Args:
        energies_above_hull: eV/atom of each generated crystal; None where unknown.
        unique, novel: verdicts of each; without both there is no S.U.N.
        stable, metastable: thresholds in eV/atom.
        tolerance: eV/atom added to both, for rounding.

    Returns:
        ``stable`` and ``metastable`` (shares of the crystals that could be judged), ``stable_of_all`` and
        ``metastable_of_all`` (of all), ``mean_energy_above_hull`` (eV/atom), ``sun`` and ``metastable_sun`` (None without
        ``unique`` and ``novel``) and ``parameters``.

    Raises:
        RequestError: thresholds that are no numbers or in the wrong order; not one verdict of each kind for each crystal.
    """
    if stable > metastable:
        raise RequestError(
            f"stable={stable!r} is above metastable={metastable!r}; every stable crystal is metastable, so give it the lower one"
        )
    levels = {
        "stable": within_hull(energies_above_hull, stable, tolerance=tolerance),
        "metastable": within_hull(energies_above_hull, metastable, tolerance=tolerance),
    }
    why = "no energy above hull"
    out: dict[str, Any] = {name: share(flags, missing=why) for name, flags in levels.items()}
    for name, flags in levels.items():
        whole = share(flags, missing=why, against=True)
        out[f"{name}_of_all"] = whole if out[name]["value"] is not None or not flags else {**whole, "value": None, "reason": why}
    out["mean_energy_above_hull"] = mean(energies_above_hull, missing=why)
    told = unique is not None and novel is not None
    out["sun"] = sun(levels["stable"], unique, novel) if unique is not None and novel is not None else None
    out["metastable_sun"] = sun(levels["metastable"], unique, novel) if unique is not None and novel is not None else None
    out["parameters"] = {
        "stable_eV_per_atom": stable,
        "metastable_eV_per_atom": metastable,
        "tolerance_eV_per_atom": tolerance,
        "sun": told,
    }
    return out
