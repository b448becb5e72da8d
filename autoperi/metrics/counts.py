"""How every metric states a number: the value, what it was counted from, and why it is missing where it is.

A fraction of nothing is None with its reason, never zero; what could not be judged is counted, never dropped in
silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

DIGITS = 6


def share(flags: Iterable[bool | None], *, missing: str = "unknown", against: bool = False) -> dict[str, Any]:
    """Share of True among verdicts.

    Args:
        flags: one verdict a crystal; None where there is none.
        missing: why a verdict may be missing, for ``reason`` where none is left.
        against: count a missing verdict against the share (its denominator is then all crystals), as COV-P does with
            crystals without a fingerprint.

    Returns:
        ``value`` (None where nothing was judged), ``count`` of True, ``of`` (denominator), ``missing`` verdicts and
        ``reason``.
    """
    verdicts = list(flags)
    judged = [bool(v) for v in verdicts if v is not None]
    of = len(verdicts) if against else len(judged)
    return quantity(
        sum(judged) / of if of else None, of=of, missing=len(verdicts) - len(judged), reason=missing, count=sum(judged)
    )


def mean(values: Iterable[float | None], *, missing: str = "unknown") -> dict[str, Any]:
    """Arithmetic mean of the values that exist and are finite; the others are counted in ``missing``."""
    every = list(values)
    found = [float(v) for v in every if v is not None and math.isfinite(v)]
    return quantity(
        math.fsum(found) / len(found) if found else None, of=len(found), missing=len(every) - len(found), reason=missing
    )


def quantity(
    value: float | None, *, of: int, missing: int = 0, reason: str | None = None, **more: Any
) -> dict[str, Any]:
    """A number with its counts.

    Args:
        value: the number; None (or NaN, infinity) where it cannot be said.
        of: crystals that went into it.
        missing: crystals that could not.
        reason: why it is missing; kept only where ``value`` is None.
        **more: further counts.
    """
    known = value is not None and math.isfinite(value)
    why = None if known else (reason if missing or of else "no crystals")
    return {
        "value": round(float(value), DIGITS) if known and value is not None else None,
        **more,
        "of": of,
        "missing": missing,
        "reason": why,
    }
