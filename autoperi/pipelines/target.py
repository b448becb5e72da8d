"""``generate(target={"band_gap": 1.5})``: of many candidates, those whose predicted properties come nearest to what is
wanted.

The score heads judge candidates that were drawn without regard to the target; the nearest are returned, each with what
was wanted and what is predicted. A target is a wish, not a promise: composition, space group and size are exact, a
predicted property is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

POOL, MOST = 10, 2000
"""Candidates that are judged for each crystal that is wanted, and at most."""
TARGETS: dict[str, tuple[str, float, bool]] = {
    "formation_energy": ("formation_energy_per_atom_eV", 0.1, False),
    "band_gap": ("band_gap_eV", 0.3, False),
    "bulk_modulus": ("bulk_modulus_GPa", 0.15, True),
    "shear_modulus": ("shear_modulus_GPa", 0.15, True),
    "last_phonon_peak": ("last_phonon_peak_per_cm", 0.1, True),
}
"""Column of ``score``, the distance that costs half a nat, and whether that is one of logarithms."""


def check_target(target: Any) -> dict[str, float]:
    """Names of :data:`TARGETS` and finite numbers.

    Raises:
        RequestError: anything else.
    """
    if not isinstance(target, Mapping) or not target:
        raise RequestError(f"target={target!r} names no property; give a mapping such as {{'band_gap': 1.5}}")
    found: dict[str, float] = {}
    for name, value in target.items():
        if name not in TARGETS:
            raise RequestError(f"target names {name!r}; choose from {', '.join(TARGETS)}")
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
            raise RequestError(
                f"target {name}={value!r} is not a number; give one in the units of score()'s {TARGETS[name][0]}"
            )
        if TARGETS[name][2] and float(value) <= 0:
            raise RequestError(
                f"target {name}={value!r} is not positive; give one in the units of score()'s {TARGETS[name][0]}"
            )
        found[name] = float(value)
    return found


def pool_size(n: int) -> int:
    """Candidates to judge where ``n`` are wanted."""
    return max(n, min(POOL * n, MOST))


def nearest(
    target: Mapping[str, float], table: pd.DataFrame, log_p: Sequence[float | None], n: int
) -> list[tuple[int, dict[str, Any]]]:
    """Rows of the best ``n`` candidates, and what to say of each.

    Args:
        target: of :func:`check_target`.
        table: of ``score``, one row a candidate.
        log_p: log-probabilities; None counts as the least of them.
        n: how many.
    """
    known = [p for p in log_p if p is not None]
    cost = -np.array([min(known, default=0.0) if p is None else p for p in log_p])
    for name, wanted in target.items():
        column, width, logarithmic = TARGETS[name]
        values = table[column].to_numpy(dtype=float, na_value=np.nan)
        apart = np.log(np.maximum(values, 1e-9) / wanted) if logarithmic else values - wanted
        cost = cost + np.where(np.isfinite(apart), 0.5 * (apart / width) ** 2, np.inf)
    order = np.argsort(np.round(cost, 6), kind="stable")[:n]
    return [(int(k), {name: _told(table, int(k), name, wanted) for name, wanted in target.items()}) for k in order]


def _told(table: pd.DataFrame, k: int, name: str, wanted: float) -> dict[str, float | None]:
    column = TARGETS[name][0]
    predicted = table[column].iloc[k]
    std = table[f"{column}_std"].iloc[k] if f"{column}_std" in table else None
    return {"wanted": wanted, "predicted": _number(predicted), "std": _number(std)}


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 6)
