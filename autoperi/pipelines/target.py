"""``generate(target={"band_gap": 1.5})``: of many candidates, those whose predicted properties come nearest to the
target.

Candidates are drawn without regard to the target, the score heads judge them, and the nearest are returned, each with
what was wanted and what is predicted. A target is a wish, not a promise: composition, space group and size are exact, a
predicted property is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from autoperi.chemistry.properties import PROPERTIES
from autoperi.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

CANDIDATES_EACH, MAX_CANDIDATES = 10, 2000
"""Candidates that are judged for each crystal that is wanted, and at most."""


def check_target(target: Any) -> dict[str, float]:
    """Names of :data:`~autoperi.chemistry.properties.PROPERTIES` and finite numbers.

    Raises:
        RequestError: anything else.
    """
    if not isinstance(target, Mapping) or not target:
        raise RequestError(f"target={target!r} names no property; give a mapping such as {{'band_gap': 1.5}}")
    found: dict[str, float] = {}
    for name, value in target.items():
        if name not in PROPERTIES:
            raise RequestError(f"target names {name!r}; choose from {', '.join(PROPERTIES)}")
        remedy = f"give one in the units of score()'s {PROPERTIES[name].column}"
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
            raise RequestError(f"target {name}={value!r} is not a number; {remedy}")
        if PROPERTIES[name].positive and float(value) <= 0:
            raise RequestError(f"target {name}={value!r} is not positive; {remedy}")
        found[name] = float(value)
    return found


def candidates_for(n: int) -> int:
    """Candidates to judge where ``n`` are wanted."""
    return max(n, min(CANDIDATES_EACH * n, MAX_CANDIDATES))


def nearest(
    target: Mapping[str, float], table: pd.DataFrame, log_p: Sequence[float | None], n: int
) -> list[tuple[int, dict[str, Any]]]:
    """Rows of the best ``n`` candidates, and what the provenance says of each.

    Args:
        target: of :func:`check_target`.
        table: of ``score``, one row a candidate.
        log_p: log-probabilities; None counts as the least of them.
        n: how many.
    """
    import numpy as np  # here, because the command line reads the names of targets without it

    known = [p for p in log_p if p is not None]
    cost = -np.array([min(known, default=0.0) if p is None else p for p in log_p])
    for name, wanted in target.items():
        row = PROPERTIES[name]
        values = table[row.column].to_numpy(dtype=float, na_value=np.nan)
        apart = np.log(np.maximum(values, 1e-9) / wanted) if row.positive else values - wanted
        cost = cost + np.where(np.isfinite(apart), 0.5 * (apart / row.width) ** 2, np.inf)
    order = np.argsort(np.round(cost, 6), kind="stable")[:n]
    return [(int(k), {name: _compared(table, int(k), name, wanted) for name, wanted in target.items()}) for k in order]


def _compared(table: pd.DataFrame, k: int, name: str, wanted: float) -> dict[str, float | None]:
    row = PROPERTIES[name]
    std = table[row.std].iloc[k] if row.std in table else None
    return {"wanted": wanted, "predicted": _number(table[row.column].iloc[k]), "std": _number(std)}


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
