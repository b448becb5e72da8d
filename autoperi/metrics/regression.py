"""Numbers predicted against numbers known: errors, R², correlations and outliers, each with its counts.

A pair counts where both numbers are finite; the others are counted in ``missing``. What cannot be said of the pairs
that are left (an R² of one pair, a correlation with a constant) is None with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import quantity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

WHISKER = 1.5
"""Interquartile ranges from the box to the end of its whiskers, as PGCGM's Figure 4 draws them (Tukey)."""
ROUNDING = 1e-9
"""Nearer to a fence than this is on it: errors that are all equal up to rounding have no outliers."""


def pairs(predicted: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The pairs of which both numbers are finite, and how many are not.

    Args:
        predicted, reference: any shape, the same; None and NaN where there is no number.

    Raises:
        RequestError: different numbers of them.
    """
    x = np.asarray(predicted, dtype=np.float64).ravel()
    y = np.asarray(reference, dtype=np.float64).ravel()
    check_lengths("{} predicted and {} reference values are not pairs; give one prediction for each reference", x, y)
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good], int((~good).sum())


def mae(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """Mean absolute error, a quantity in the unit of the values."""
    x, y, missing = pairs(predicted, reference)
    return _mean(np.abs(x - y), missing)


def rmse(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """Root mean square error, a quantity in the unit of the values."""
    x, y, missing = pairs(predicted, reference)
    return _mean((x - y) ** 2, missing, lambda squares: np.sqrt(np.mean(squares)))


def r2(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """Coefficient of determination 1 - Σ(y - x)²/Σ(y - ȳ)², y the reference; negative where the mean would do
    better.
    """
    x, y, missing = pairs(predicted, reference)
    if len(y) < 2 or _constant(y):
        return quantity(None, of=len(y), missing=missing, reason=_too_few(y, missing, "reference"))
    return quantity(float(1 - np.sum((y - x) ** 2) / np.sum((y - y.mean()) ** 2)), of=len(y), missing=missing)


def pearson(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """Linear correlation coefficient."""
    return _correlation(predicted, reference, ranked=False)


def spearman(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """Rank correlation coefficient, ties sharing their mean rank."""
    return _correlation(predicted, reference, ranked=True)


def outliers(errors: ArrayLike, *, whisker: float = WHISKER) -> dict[str, Any]:
    """Share of errors beyond the whiskers of their box plot: below Q1 - 1.5 IQR or above Q3 + 1.5 IQR.

    PGCGM (Zhao et al. 2023), Figure 4, of relative errors of lattice lengths. Quartiles by linear interpolation, as
    NumPy's and matplotlib's. The fences come from the errors themselves: this is the weight of the tails beside the
    bulk, not a measure of how large the errors are, and it can only be compared beside R² or RMSE.

    Args:
        errors: signed errors, any shape; NaN where there is none.
        whisker: interquartile ranges to the fences.

    Returns:
        A quantity with ``count`` of outliers and the fences ``low`` and ``high`` (None where there are no errors).
    """
    every = np.asarray(errors, dtype=np.float64).ravel()
    found = every[np.isfinite(every)]
    missing = len(every) - len(found)
    if not len(found):
        return quantity(None, of=0, missing=missing, reason=_nothing(missing), count=0, low=None, high=None)
    first, third = np.quantile(found, [0.25, 0.75])
    low, high = first - whisker * (third - first), third + whisker * (third - first)
    count = int(((found < low - ROUNDING) | (found > high + ROUNDING)).sum())
    return quantity(
        count / len(found),
        of=len(found),
        missing=missing,
        count=count,
        low=round(float(low), 6),
        high=round(float(high), 6),
    )


def regression(predicted: ArrayLike, reference: ArrayLike) -> dict[str, Any]:
    """MAE, median absolute error, RMSE, mean signed error (predicted - reference), R², Pearson and Spearman: a dict of
    quantities.
    """
    x, y, missing = pairs(predicted, reference)
    error = x - y
    return {
        "mae": mae(predicted, reference),
        "median_error": _mean(np.abs(error), missing, np.median),
        "rmse": rmse(predicted, reference),
        "bias": _mean(error, missing),
        "r2": r2(predicted, reference),
        "pearson": pearson(predicted, reference),
        "spearman": spearman(predicted, reference),
    }


def mae_by(groups: Sequence[Any], predicted: ArrayLike, reference: ArrayLike) -> dict[str, dict[str, Any]]:
    """:func:`mae` of each group (say, number of elements), groups sorted; keys as words.

    Raises:
        RequestError: not one group for each pair.
    """
    x, y = np.asarray(predicted, dtype=np.float64).ravel(), np.asarray(reference, dtype=np.float64).ravel()
    check_lengths("{} groups, {} predictions and {} references; give one group for each pair", groups, x, y)
    members = {g: [i for i, v in enumerate(groups) if v == g] for g in sorted(set(groups))}
    return {str(g): mae(x[inside], y[inside]) for g, inside in members.items()}


def calibration(predicted: ArrayLike, std: ArrayLike, reference: ArrayLike, *, bins: int = 10) -> dict[str, Any]:
    """Whether uncertainties say how large errors are: a dict of quantities.

    ``coverage_68`` and ``coverage_95`` are the shares of references within one and two standard deviations (0.683 and
    0.954 of a normal distribution). ``ence`` is the expected normalised calibration error of Levi et al., Sensors 22,
    5540 (2022), eq. 8: over ``bins`` of equal counts of pairs sorted by std, the mean of |√⟨std²⟩ - RMSE| / √⟨std²⟩;
    zero is perfect. ``spearman`` ranks
    |error| against std, ``mean_std`` is the sharpness, in the unit of the values.

    Args:
        predicted, std, reference: any shape, the same; a triple counts where all are finite and std is positive.
        bins: at most; no bin holds fewer than ten pairs.

    Raises:
        RequestError: different numbers of them.
    """
    x, s, y = (np.asarray(v, dtype=np.float64).ravel() for v in (predicted, std, reference))
    check_lengths("{} predictions, {} uncertainties and {} references; give one of each for a crystal", x, s, y)
    good = np.isfinite(x) & np.isfinite(s) & np.isfinite(y) & (s > 0)
    missing, n = int((~good).sum()), int(good.sum())
    error, s = np.abs(x - y)[good], s[good]
    order = np.argsort(s, kind="stable")
    parts = np.array_split(order, max(1, min(bins, n // 10))) if n >= 10 else []
    spread, found = ([float(np.sqrt(np.mean(v[p] ** 2))) for p in parts] for v in (s, error))
    off = [abs(a - b) / a for a, b in zip(spread, found, strict=True)]
    return {
        "coverage_68": _mean(error <= s, missing),
        "coverage_95": _mean(error <= 2 * s, missing),
        "ence": quantity(
            float(np.mean(off)) if off else None,
            of=n,
            missing=missing,
            reason="fewer than ten pairs" if n else _nothing(missing),
        ),
        "spearman": spearman(s, error),
        "mean_std": _mean(s, missing),
    }


def _correlation(predicted: ArrayLike, reference: ArrayLike, *, ranked: bool) -> dict[str, Any]:
    x, y, missing = pairs(predicted, reference)
    if len(x) < 2 or _constant(x) or _constant(y):
        return quantity(None, of=len(x), missing=missing, reason=_too_few(x, missing, "predicted or all reference"))
    if ranked:
        from scipy.stats import rankdata

        x, y = rankdata(x), rankdata(y)
    dx, dy = x - x.mean(), y - y.mean()
    return quantity(float(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy))), of=len(x), missing=missing)


def _mean(values: NDArray[Any], missing: int, statistic: Callable[[NDArray[Any]], Any] = np.mean) -> dict[str, Any]:
    """The statistic of values that all exist, None of none."""
    n = len(values)
    return quantity(float(statistic(values)) if n else None, of=n, missing=missing, reason=_nothing(missing))


def _too_few(values: NDArray[np.float64], missing: int, which: str) -> str:
    """Why pairs have neither R² nor correlation."""
    return _nothing(missing) if not len(values) else "one pair" if len(values) == 1 else f"all {which} values are equal"


def _constant(values: NDArray[np.float64]) -> bool:
    """Equal up to rounding: an R² or a correlation would be a ratio of rounding errors."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _nothing(missing: int) -> str:
    return "no pair of numbers" if missing else "no crystals"
