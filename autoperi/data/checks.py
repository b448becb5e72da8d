"""Checks of numbers that a caller gave, each written once: one line that names the value and the remedy."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from autoperi.errors import AutoPeriError, RequestError


def whole_number(
    value: Any,
    name: str,
    *,
    least: int = 1,
    most: int | None = None,
    refusal: str = "",
    error: type[AutoPeriError] = RequestError,
) -> int:
    """``value`` as an int; NumPy's whole numbers are whole numbers, truth values are not.

    Args:
        value: what was given.
        name: of the argument, for the message.
        least, most: the smallest and the largest number allowed; no largest one where ``most`` is None.
        refusal: what the message says after ``name=value``, where the general words do not fit.
        error: class of the error.

    Raises:
        RequestError: it is no whole number, or out of range (``error`` where another class is given).
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else least - 1
    if number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(f"{name}={value!r} {refusal or f'is not a whole number {limits}; give one'}")
    return number


def positive_number(value: Any, name: str, *, refusal: str = "") -> float:
    """``value`` as a float; infinity, NaN, truth values and text are no positive numbers.

    Args:
        value: what was given.
        name: of the argument, for the message.
        refusal: what the message says after ``name=value``, where the general words do not fit.

    Raises:
        RequestError: it is no number, not finite, or not above 0.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise RequestError(f"{name}={value!r} {refusal or 'is not a positive number; leave it out for the default'}")
    return float(value)
