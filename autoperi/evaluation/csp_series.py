"""The figures and the summary of a crystal structure prediction, as the data that the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoperi.metrics.counts import quantity


def csp_match(curve: Sequence[Mapping[str, Any]], metre: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that papers print, each as a quantity.

    Args:
        curve: points 1..k of :func:`~autoperi.metrics.match.match_curve`.
        metre: METRe's figures of the first candidates, ``all`` and ``valid``.

    Returns:
        ``at_1``, ``at_5``, ``at_k`` and the SMACT-filtered ``at_1_smact``; ``rmse`` and ``corrected_rmse`` of first
        candidates, ``rmse_at_k`` of the best; ``metre``, ``metre_valid`` and ``crmse`` of first candidates. ``at_5``
        has no value below five candidates, and says so.
    """
    k, first, last = len(curve), curve[0], curve[-1]
    n = first["match_rate"]["of"]
    few = f"{k} candidate{'s' if k > 1 else ''} for each composition; ask for 5 or more"
    return {
        "at_1": first["match_rate"],
        "at_5": curve[4]["match_rate"] if k >= 5 else quantity(None, of=0, missing=n, reason=few),
        "at_k": last["match_rate"],
        "at_1_smact": first["match_rate_filtered"],
        "rmse": first["rmse"],
        "rmse_at_k": last["rmse"],
        "corrected_rmse": first["corrected_rmse"],
        "metre": metre["all"]["metre"],
        "metre_valid": metre["valid"]["metre"],
        "crmse": metre["all"]["crmse"],
    }


def csp_headline(k: int) -> dict[str, str]:
    """Labels and the paths of their quantities in the result, for k candidates."""
    rates = {"match rate at 1": "match.at_1"}
    rates |= {"match rate at 5": "match.at_5"} if k >= 5 else {}
    rates |= {f"match rate at {k}": "match.at_k"} if k not in (1, 5) else {}
    errors = {"RMSE at 1": "match.rmse"} | ({f"RMSE at {k}": "match.rmse_at_k"} if k > 1 else {})
    return {
        **rates,
        "match rate at 1, SMACT-filtered": "match.at_1_smact",
        **errors,
        "corrected RMSE at 1": "match.corrected_rmse",
        "METRe at 1": "match.metre",
        "METRe at 1, valid crystals": "match.metre_valid",
        "cRMSE at 1": "match.crmse",
    }


def csp_series(
    results: Sequence[Sequence[float | None]], curve: Sequence[Mapping[str, Any]], stol: float
) -> dict[str, Any]:
    """Rates and RMSE against the number of candidates, and the RMS of what matches.

    Args:
        results: for each test crystal, the RMS of its candidates in order, None where one does not match.
        curve: points 1..k with the quantities of the match rate and of METRe.
        stol: RMS of a crystal without a match in corrected figures.
    """
    k = [point["k"] for point in curve]

    def line(name: str) -> dict[str, Any]:
        return {"x": k, "y": [point[name] for point in curve]}

    return {
        "match_rate": {
            "kind": "curve",
            "title": "Match rate",
            "x_label": "candidates",
            "y_label": "share of test crystals",
            "curves": {
                "unfiltered": line("match_rate"),
                "SMACT-filtered": line("match_rate_filtered"),
                "METRe": line("metre"),
            },
            "share": True,
            "note": "METRe: a candidate may match any test crystal of its composition.",
        },
        "rmse": {
            "kind": "curve",
            "title": "RMSE of the best candidate",
            "x_label": "candidates",
            "y_label": "RMS over (V/N)^(1/3)",
            "curves": {
                "RMSE, matched crystals": line("rmse"),
                "corrected RMSE": line("corrected_rmse"),
                "cRMSE of METRe": line("crmse"),
            },
            "note": f"Corrected: over all test crystals, {stol:g} for one without a match.",
        },
        "first_match_rms": {
            "kind": "histogram",
            "title": "RMS of matching crystals",
            "x_label": "RMS over (V/N)^(1/3)",
            "sets": {
                "first candidate": [row[0] for row in results if row and row[0] is not None],
                **({"first that matches": first} if len(k) > 1 and (first := _first(results)) else {}),
            },
            "reason": "no candidate matches its test crystal",
        },
    }


def _first(results: Sequence[Sequence[float | None]]) -> list[float]:
    return [found[0] for row in results if (found := [r for r in row if r is not None])]
