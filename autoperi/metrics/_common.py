"""What the metrics share: refusals of arguments, libraries kept quiet, and the reason of a failure in one line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np

from autoperi.errors import RequestError, StructureError
from autoperi.progress import progress_bar


def check_lengths(message: str, *sequences: Sized) -> None:
    """Refuse sequences of different lengths.

    Args:
        message: of the error; each ``{}`` is the length of a sequence, in order.
        *sequences: all that must be equally long.

    Raises:
        RequestError: they are not.
    """
    if len({len(s) for s in sequences}) > 1:
        raise RequestError(message.format(*map(len, sequences)))


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of libraries nor of NumPy: they belong to no crystal of the caller's."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def reason_of(error: Exception) -> str:
    """An exception as one phrase; that of a :class:`StructureError` speaks for itself, others carry their class."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, StructureError) else f"{type(error).__name__}: {text}".rstrip(": ")


def failure_of(calculator: Any, error: Exception) -> str:
    """:func:`reason_of`; what the failed crystal left in the calculator must not answer for the next one."""
    if hasattr(calculator, "reset"):
        calculator.reset()
    return reason_of(error)


def judge_crystals(
    function: Callable[..., Any],
    crystals: Sequence[Any],
    calculator: Any,
    settings: Mapping[str, Any],
    *,
    progress: bool | None,
    description: str,
) -> list[Any]:
    """``function(crystal, calculator, **settings)`` of each crystal, beside a bar."""
    rows = []
    with progress_bar(len(crystals), enabled=progress, description=description) as bar:
        for crystal in crystals:
            rows.append(function(crystal, calculator, **settings))
            bar.update()
    return rows


def rounded(value: float | None, digits: int = 4) -> float | None:
    """The number with so many digits; None for None and what is not finite."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
