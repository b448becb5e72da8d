"""The figures of a generation report, as the data that :mod:`autoperi.evaluation.figures` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoperi.metrics.distribution import wasserstein
from autoperi.metrics.parallel import Failure
from autoperi.metrics.references import composition_of

if TYPE_CHECKING:
    from autoperi.evaluation.judging import Judgement

HULL_DIAGRAMS = 2
"""Chemical systems that get a diagram: those of two or three elements with the most judged crystals."""


def generation_series(
    result: Mapping[str, Any],
    *,
    properties: tuple[Sequence[Any], Sequence[Any]],
    energies: tuple[Sequence[float | None], Sequence[float | None]],
    curve: Mapping[str, Any],
    rediscovered: Mapping[str, Any],
    judged: Judgement,
    model: str,
) -> dict[str, Any]:
    """Entries by name; see :mod:`autoperi.evaluation.report` for their form.

    Args:
        result: the report so far.
        properties: rows of density, number of elements, smallest and largest distance, of generated and reference
            crystals.
        energies: formation energies of both in eV/atom.
        curve: coverage against the cutoffs.
        rediscovered: result of :func:`~autoperi.metrics.novelty.rediscovery`.
        judged: stability.
        model: name of the model whose energies these are.
    """
    distances = result["distribution"]["all_crystals"]
    note = "All generated crystals; GenEval's distances, of valid ones alone, are in the table."
    series: dict[str, Any] = {
        "validity": {
            "kind": "bars",
            "title": "Validity",
            "x_label": "share of crystals",
            "bars": _shares(result["validity"]),
        },
        "density": _histogram("Density", "density", "g/cm³", properties, 0, distances.get("density"), note),
        "elements": _histogram(
            "Number of elements", "elements", "", properties, 1, distances.get("n_elements"), note, discrete=True
        ),
        "min_distance": _histogram(
            "Smallest distance", "smallest distance", "Å", properties, 2, distances.get("min_distance"), note
        ),
        "max_distance": _histogram(
            "Largest distance", "largest distance in the cell", "Å", properties, 3, distances.get("max_distance"), note
        ),
        "formation_energy": {
            "kind": "histogram",
            "title": "Formation energy",
            "x_label": f"formation energy by {model}",
            "unit": "eV/atom",
            "sets": {"generated": list(energies[0]), "reference": list(energies[1])},
            "distance": wasserstein(energies[0], energies[1], unit="eV/atom"),
            "distance_label": "Wasserstein",
            "note": note,
        },
        "crystal_systems": _symmetry("Crystal systems", result["symmetry"]["crystal_system"]),
        "space_groups": _symmetry("Space groups", result["symmetry"]["space_group"]),
        "coverage": {
            "kind": "curve",
            "title": "Coverage against the cutoffs",
            "x_label": "factor on both cutoffs",
            "y_label": "share covered",
            "curves": {
                "COV-R (reference)": {"x": curve["factor"], "y": curve["cov_recall"]},
                "COV-P (generated)": {"x": curve["factor"], "y": curve["cov_precision"]},
            },
            "share": True,
        },
        "novelty": {
            "kind": "bars",
            "title": "Uniqueness and novelty",
            "x_label": "share of crystals",
            "bars": _shares({k: v for k, v in result["novelty"].items() if k != "rediscovery"}),
        },
        "rediscovery": {
            "kind": "curve",
            "title": "Rediscovery of the reference set",
            "x_label": "generated crystals",
            "y_label": "share of reference prototypes",
            "curves": {
                "found": {
                    "x": [p["n"] for p in rediscovered["curve"]],
                    "y": [p["rediscovered"] for p in rediscovered["curve"]],
                },
            },
        },
        "frechet": {
            "kind": "bars",
            "title": "Fréchet distances",
            "x_label": "Fréchet distance over the reference's variance",
            "bars": {
                name: value for name, found in result["frechet"].items() if (value := _relative(found)) is not None
            },
            "share": False,
            "note": "The distances themselves are in the table; each space has a scale of its own.",
        },
    }
    if judged.hull is not None:
        series["above_hull"] = {
            "kind": "histogram",
            "title": "Energy above the hull",
            "x_label": f"energy above hull by {result['stability']['judge']}",
            "unit": "eV/atom",
            "sets": {"generated": list(judged.above_hull)},
        }
        series["stability"] = {
            "kind": "bars",
            "title": "Stability",
            "x_label": "share of crystals",
            "bars": _shares(
                {k: result["stability"].get(k) for k in ("stable_of_all", "metastable_of_all", "sun", "metastable_sun")}
            ),
        }
        series |= hull_diagrams(result, judged)
    return series


def hull_diagrams(result: Mapping[str, Any], judged: Judgement) -> dict[str, Any]:
    """Hull diagrams of the chemical systems with the most judged crystals."""
    if judged.hull is None:
        return {}
    formulas = [row.get("formula") for row in result["crystals"]]
    systems: dict[tuple[str, ...], list[int]] = {}
    for k, (formula, above) in enumerate(zip(formulas, judged.above_hull, strict=True)):
        if formula and above is not None:
            elements = tuple(sorted(composition_of(formula).get_el_amt_dict()))
            if len(elements) in (2, 3):
                systems.setdefault(elements, []).append(k)
    out = {}
    for elements in sorted(systems, key=lambda e: (-len(systems[e]), len(e), e))[:HULL_DIAGRAMS]:
        entries = judged.hull.entries(elements)
        members = systems[elements]
        zero = dict.fromkeys(elements, 0.0)
        if judged.hull.references.kind == "total":
            zero = {e: judged.hull.elemental_energy(composition_of(e)) for e in elements}
        amounts = [composition_of(formulas[k]).get_el_amt_dict() for k in members]
        out["hull_" + "_".join(elements).lower()] = {
            "kind": "hull",
            "title": f"Convex hull of {'-'.join(elements)}",
            "elements": list(elements),
            "reference": {
                "composition": [[e.composition.get_el_amt_dict().get(x, 0.0) for x in elements] for e in entries],
                "energy": [e.energy_per_atom - _mixture(e.composition.get_el_amt_dict(), zero) for e in entries],
                "name": [e.composition.reduced_formula for e in entries],
            },
            "points": {
                "composition": [[a.get(x, 0.0) for x in elements] for a in amounts],
                "energy": [
                    None if (energy := judged.energies[k]) is None else energy - _mixture(a, zero)
                    for k, a in zip(members, amounts, strict=True)
                ],
                "e_above_hull": [judged.above_hull[k] for k in members],
                "name": [formulas[k] for k in members],
            },
        }
    return out


def _mixture(amounts: Mapping[str, float], zero: Mapping[str, float]) -> float:
    """Energy per atom of the elements themselves in these amounts."""
    return sum(n * zero[x] for x, n in amounts.items()) / sum(amounts.values())


def _histogram(
    title: str,
    label: str,
    unit: str,
    properties: tuple[Sequence[Any], Sequence[Any]],
    column: int,
    distance: Any,
    note: str,
    *,
    discrete: bool = False,
) -> dict[str, Any]:
    sets = {
        name: [None if isinstance(row, Failure) else float(row[column]) for row in rows]
        for name, rows in zip(("generated", "reference"), properties, strict=True)
    }
    if discrete:
        sets = {name: [None if v is None else int(v) for v in values] for name, values in sets.items()}
    return {
        "kind": "histogram",
        "title": title,
        "x_label": label,
        "unit": unit,
        "sets": sets,
        "discrete": discrete,
        "distance": distance,
        "distance_label": "Wasserstein",
        "note": note,
    }


def _symmetry(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    sets = {name: {str(k): v for k, v in found[name].items()} for name in ("generated", "reference")}
    entry: dict[str, Any] = {
        "kind": "histogram",
        "title": title,
        "x_label": title.lower().rstrip("s"),
        "sets": sets,
        "discrete": True,
    }
    note = f"Jensen-Shannon divergence {found['jensen_shannon']['value']} bits."
    return entry | {"note": note}


def _relative(found: Mapping[str, Any]) -> float | None:
    """A Fréchet distance as a share of the total variance of the reference: the only form in which spaces can stand
    side by side.
    """
    value, variance = found.get("value"), found.get("reference_variance")
    return value / variance if value is not None and variance else None


def _shares(found: Mapping[str, Any]) -> dict[str, Any]:
    """The quantities among the values, by readable names."""
    return {
        name.replace("_", " "): value
        for name, value in found.items()
        if isinstance(value, Mapping) and "value" in value and "of" in value
    }
