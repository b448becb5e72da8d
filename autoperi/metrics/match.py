"""Crystal structure prediction: match rate and RMSE as the field defines them, and METRe.

A prediction matches if ``StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)`` finds a mapping; its RMS displacement is
divided by (V/N)^(1/3). The match rate at k counts a test crystal if any of its first k predictions matches; the RMSE is
the mean, over matched crystals, of the smallest RMS (CDVAE, DiffCSP: ``RecEval`` and ``RecEvalBatch``), unfiltered. The
corrected RMSE is the mean over all crystals, those without a match at ``stol`` (OMatG, ``omg/analysis/analysis.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from autoperi.data.checks import whole_number
from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import quantity
from autoperi.metrics.pairs import (
    CSP,
    FLAT,
    Arrays,
    arrays_of,
    by_composition,
    check_tolerances,
    compare_pairs,
    composition_key,
    polar_sine,
)
from autoperi.metrics.parallel import Failure, Run

STOL, LTOL, ANGLE_TOL = CSP["stol"], CSP["ltol"], CSP["angle_tol"]


def matcher(*, stol: float = STOL, ltol: float = LTOL, angle_tol: float = ANGLE_TOL, **options: Any) -> Any:
    """pymatgen's StructureMatcher with the field's tolerances."""
    from pymatgen.core.structure_matcher import StructureMatcher

    return StructureMatcher(stol=stol, ltol=ltol, angle_tol=angle_tol, **options)


def match_rms(
    predictions: Sequence[Any], reference: Any, *, judge: Any = None, first_only: bool = False
) -> list[float | None]:
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
        ``match_at`` (k to rate), ``rmse`` (of first predictions that match), ``rmse_at_k`` (best of the first
        ``max(ks)``); a figure of no crystals is None, never zero.
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


def match_curve(
    results: Sequence[Sequence[float | None]],
    *,
    k: int | None = None,
    passed: Sequence[bool | None] | None = None,
    stol: float = STOL,
) -> list[dict[str, Any]]:
    """Match rate, RMSE and corrected RMSE at 1..k.

    Args:
        results: for each test crystal, the RMS of its predictions in order, None where one does not match.
        k: the last point; by default the largest number of predictions.
        passed: for each test crystal whether it passes the filter (SMACT's verdict on its composition). In the filtered
            figures, whose names end in ``_filtered``, one that does not pass, or has no verdict, counts as not matched;
            the denominator stays.
        stol: RMS of a crystal without a match, for the corrected RMSE.

    Returns:
        One dictionary a point: ``k``, ``match_rate``, ``rmse``, ``corrected_rmse``, and the filtered ones where
        ``passed`` is given.

    Raises:
        RequestError: ``k`` below 1, or not one verdict a crystal.
    """
    if k is not None:
        whole_number(k, "k", refusal="is not a positive whole number; give at least 1")
    if passed is not None:
        check_lengths("{} verdicts for {} crystals; give one for each", passed, results)
    curve = []
    best: list[float | None] = [None] * len(results)
    for rank in range(k if k is not None else max(map(len, results), default=0)):
        for i, row in enumerate(results):
            best[i] = smaller(best[i], row[rank] if rank < len(row) else None)
        point = {"k": rank + 1} | summarise(best, stol=stol)
        if passed is not None:
            kept = [b if ok is True else None for b, ok in zip(best, passed, strict=True)]
            point |= {f"{name}_filtered": value for name, value in summarise(kept, stol=stol).items()}
        curve.append(point)
    return curve


def smaller(a: float | None, b: float | None) -> float | None:
    """The smaller of two numbers that may be missing."""
    return b if a is None else a if b is None else min(a, b)


def summarise(best: Sequence[float | None], *, stol: float = STOL) -> dict[str, dict[str, Any]]:
    """``match_rate``, ``rmse`` (over matched crystals) and ``corrected_rmse`` (over all) of each crystal's smallest
    RMS, None unmatched.
    """
    n, matched = len(best), [b for b in best if b is not None]
    unmatched = n - len(matched)
    total = math.fsum(matched)
    return {
        "match_rate": quantity(len(matched) / n if n else None, of=n, count=len(matched)),
        "rmse": quantity(
            total / len(matched) if matched else None, of=len(matched), missing=unmatched, reason="nothing matches"
        ),
        "corrected_rmse": quantity((total + unmatched * stol) / n if n else None, of=n, unmatched=unmatched),
    }


def metre(
    generated: Sequence[Any],
    references: Sequence[Any],
    *,
    oxidation_states: str = "pymatgen-all",
    tolerances: str = "csp",
    stol: float | None = None,
    ltol: float | None = None,
    angle_tol: float | None = None,
    **run: Unpack[Run],
) -> dict[str, Any]:
    """METRe: share of references that any generated crystal of the same composition matches, and the corrected RMSE
    (cRMSE).

    Every generated crystal is compared with every reference of the same reduced composition; each reference keeps its
    smallest RMS. cRMSE is the mean over all references, ``stol`` for one without a match. A cell of polar sine V/(abc)
    below 1e-3 matches nothing.

    Args:
        generated, references: pymatgen structures or ASE atoms.
        oxidation_states: list for the verdicts (:func:`~autoperi.metrics.validity.validity`) of the "valid" figures, in
            which only two valid crystals can match.
        tolerances: name of :data:`~autoperi.metrics.pairs.TOLERANCES`.
        stol, ltol, angle_tol: instead of those of the name; the angle in degrees.
        **run: see :class:`~autoperi.metrics.parallel.Run`.

    Returns:
        ``all`` and ``valid``, each with ``metre``, ``rmse`` and ``crmse``; ``rms`` and ``rms_valid``, the smallest of
        each reference; the numbers of crystals, of those ``rejected`` (flat or unreadable) and of comparisons
        ``given_up``; and the parameters.

    Raises:
        RequestError: unknown tolerances or oxidation states.
        StructureError: something that is no crystal.
    """
    from autoperi.chemistry.smact import check_states

    limits = check_tolerances(tolerances, {"stol": stol, "ltol": ltol, "angle_tol": angle_tol})
    check_states(oxidation_states)
    left, right = reject_flat(arrays_of(generated)), reject_flat(arrays_of(references))
    pairs = same_composition(left, right)
    found = compare_pairs(left, right, pairs, tolerances=limits, description="METRe", **run)
    matched = [(i, j, r) for (i, j), r in zip(pairs, found, strict=True) if isinstance(r, float)]
    best = smallest(matched, len(references))
    best_valid = smallest(of_valid(matched, left, right, oxidation_states), len(references))
    return {
        "all": metre_names(summarise(best, stol=limits["stol"])),
        "valid": metre_names(summarise(best_valid, stol=limits["stol"])),
        "generated": len(generated),
        "references": len(references),
        "comparisons": len(pairs),
        "rejected": {"generated": failures(left), "references": failures(right)},
        "given_up": failures(found),
        "rms": best,
        "rms_valid": best_valid,
        "matcher": limits,
        "oxidation_states": oxidation_states,
        "polar_sine": FLAT,
    }


def reject_flat(crystals: Sequence[Arrays | Failure]) -> list[Arrays | Failure]:
    """A failure in the place of each cell of polar sine V/(abc) below 1e-3, which OMatG does not compare."""
    return [
        Failure(f"the cell is flat: polar sine {sine:.2g}")
        if not isinstance(c, Failure) and (sine := polar_sine(c[0])) < FLAT
        else c
        for c in crystals
    ]


def same_composition(left: Sequence[Arrays | Failure], right: Sequence[Arrays | Failure]) -> list[tuple[int, int]]:
    """Pairs of positions (i, j) of the readable crystals of one reduced composition, by j, then i."""
    groups = by_composition(left)
    return [
        (i, j)
        for j, crystal in enumerate(right)
        if not isinstance(crystal, Failure)
        for i in groups.get(composition_key(crystal[2]), [])
    ]


def metre_names(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of :func:`summarise` under OMatG's names."""
    return {"metre": figures["match_rate"], "rmse": figures["rmse"], "crmse": figures["corrected_rmse"]}


def failures(results: Sequence[Any]) -> int:
    """How many of the results are failures."""
    return sum(isinstance(r, Failure) for r in results)


def smallest(matched: Iterable[tuple[int, int, float]], n: int) -> list[float | None]:
    """The smallest RMS of each of ``n`` references j among matches (i, j, RMS), None without one."""
    best: list[float | None] = [None] * n
    for _, j, rms in matched:
        best[j] = smaller(best[j], rms)
    return best


def of_valid(
    matched: Sequence[tuple[int, int, float]],
    left: Sequence[Arrays | Failure],
    right: Sequence[Arrays | Failure],
    oxidation_states: Any,
) -> list[tuple[int, int, float]]:
    """The matches of two valid crystals, by CDVAE's validity; only crystals that match anything are judged."""
    from autoperi.data.convert import arrays_to_structures
    from autoperi.metrics.validity import validity

    def valid(crystals: Sequence[Arrays | Failure], chosen: set[int]) -> set[int]:
        order = sorted(chosen)
        structures = arrays_to_structures([c for i in order if not isinstance(c := crystals[i], Failure)])
        judged = [validity(s, oxidation_states=oxidation_states).valid for s in structures]
        return {i for i, verdict in zip(order, judged, strict=True) if verdict is True}

    valid_left, valid_right = valid(left, {i for i, _, _ in matched}), valid(right, {j for _, j, _ in matched})
    return [(i, j, rms) for i, j, rms in matched if i in valid_left and j in valid_right]
