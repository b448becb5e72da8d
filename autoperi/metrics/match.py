"""Crystal structure prediction: match rate and RMSE as the field defines them.

A prediction matches if ``StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)`` finds a mapping; its RMS displacement is
divided by (V/N)^(1/3). The match rate at k counts a test crystal if any of its first k predictions matches; the RMSE is
the mean, over matched crystals, of the smallest RMS (CDVAE, DiffCSP: ``RecEval`` and ``RecEvalBatch``), unfiltered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STOL, LTOL, ANGLE_TOL = 0.5, 0.3, 10.0


def matcher(*, stol: float = STOL, ltol: float = LTOL, angle_tol: float = ANGLE_TOL, **options: Any) -> Any:
    """pymatgen's StructureMatcher with the field's tolerances."""
    try:
        from pymatgen.core.structure_matcher import StructureMatcher
    except ImportError:  # pymatgen before the 2026 split
        from pymatgen.analysis.structure_matcher import StructureMatcher
    return StructureMatcher(stol=stol, ltol=ltol, angle_tol=angle_tol, **options)


def match_rms(predictions: Sequence[Any], reference: Any, *, judge: Any = None, first_only: bool = False) -> list[float | None]:
    """Normalised RMS of each prediction against the reference, None where they do not match.

    Args:
        predictions: pymatgen structures, best first.
        reference: the true structure.
        judge: a matcher; by default the field's.
        first_only: stop at the first match (the rest are None), enough for match rates.
    """
    judge = judge or matcher()
    out: list[float | None] = []
    for prediction in predictions:
        rms = judge.get_rms_dist(prediction, reference)
        out.append(None if rms is None else float(rms[0]))
        if first_only and rms is not None:
            break
    return out + [None] * (len(predictions) - len(out))


def match_summary(results: Sequence[Sequence[float | None]], *, ks: Sequence[int]) -> dict[str, Any]:
    """Match rates at each k, RMSE at the first and the last, and the number of crystals.

    Args:
        results: for each test crystal, the RMS of its predictions in order (see :func:`match_rms`).
        ks: numbers of predictions to count.

    Returns:
        ``match_at`` (k to rate), ``rmse`` (of first predictions that match), ``rmse_at_k`` (best of the first ``max(ks)``);
        a figure of no crystals is None, never zero.
    """
    n = len(results)
    rate = {k: (sum(any(r is not None for r in row[:k]) for row in results) / n if n else None) for k in ks}
    first = [row[0] for row in results if row and row[0] is not None]
    best = [min(found) for row in results if (found := [r for r in row[: max(ks)] if r is not None])]
    return {
        "n": n,
        "match_at": rate,
        "rmse": sum(first) / len(first) if first else None,
        "rmse_at_k": sum(best) / len(best) if best else None,
    }
