"""The figures of a generation report, as the data that :mod:`autoperi.figures.draw` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoperi.evaluation.common import entry
from autoperi.metrics.distribution import wasserstein
from autoperi.metrics.parallel import Failure
from autoperi.metrics.references import composition_of

if TYPE_CHECKING:
    from autoperi.evaluation.stability_judge import Judgement

PROPERTIES = (
    ("density", "density", "Density", "density", "g/cm³"),
    ("elements", "n_elements", "Number of elements", "elements", ""),
    ("min_distance", "min_distance", "Smallest distance", "smallest distance", "Å"),
    ("max_distance", "max_distance", "Largest distance", "largest distance in the cell", "Å"),
)
"""Columns of the properties: name of the figure, key of the distance, title, axis, unit."""
HULL_DIAGRAMS = 2
"""Chemical systems that get a diagram: those of two or three elements with the most judged crystals."""


def generation_series(
    result: Mapping[str, Any],
    *,
    properties: Sequence[Sequence[Any]],
    energies: Sequence[Sequence[float | None]],
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
    beside: dict[str, Any] = {"distance_label": "Wasserstein", "note": note}
    series: dict[str, Any] = {"validity": _shares("Validity", result["validity"])}
    for column, (name, key, title, label, unit) in enumerate(PROPERTIES):
        discrete = name == "elements"
        sets = {
            side: [None if isinstance(row, Failure) else (int if discrete else float)(row[column]) for row in rows]
            for side, rows in zip(("generated", "reference"), properties, strict=True)
        }
        how: dict[str, Any] = {"unit": unit, "sets": sets, "discrete": discrete, "distance": distances.get(key)}
        series[name] = entry("histogram", title, label, **how, **beside)
    energy = {"generated": list(energies[0]), "reference": list(energies[1])}
    apart = wasserstein(energies[0], energies[1], unit="eV/atom")
    how = {"unit": "eV/atom", "sets": energy, "distance": apart}
    series["formation_energy"] = entry("histogram", "Formation energy", f"formation energy by {model}", **how, **beside)
    for name, key in (("Crystal systems", "crystal_system"), ("Space groups", "space_group")):
        found = result["symmetry"][key]
        counts = {side: {str(k): v for k, v in found[side].items()} for side in ("generated", "reference")}
        words = f"Jensen-Shannon divergence {found['jensen_shannon']['value']} bits."
        series[f"{key}s"] = entry("histogram", name, name.lower().rstrip("s"), sets=counts, discrete=True, note=words)
    covered = {"COV-R (reference)": "cov_recall", "COV-P (generated)": "cov_precision"}
    curves = {words: {"x": curve["factor"], "y": curve[key]} for words, key in covered.items()}
    how = {"y_label": "share covered", "curves": curves, "share": True}
    series["coverage"] = entry("curve", "Coverage against the cutoffs", "factor on both cutoffs", **how)
    series["novelty"] = _shares(
        "Uniqueness and novelty", {k: v for k, v in result["novelty"].items() if k != "rediscovery"}
    )
    points = rediscovered["curve"]
    curves = {"found": {"x": [p["n"] for p in points], "y": [p["rediscovered"] for p in points]}}
    title, share = "Rediscovery of the reference set", "share of reference prototypes"
    series["rediscovery"] = entry("curve", title, "generated crystals", y_label=share, curves=curves)
    # as a share of the total variance of the reference: the only form in which spaces can stand side by side
    bars = {
        name: found["value"] / found["reference_variance"]
        for name, found in result["frechet"].items()
        if found.get("value") is not None and found.get("reference_variance")
    }
    label = "Fréchet distance over the reference's variance"
    note = "The distances themselves are in the table; each space has a scale of its own."
    series["frechet"] = entry("bars", "Fréchet distances", label, bars=bars, share=False, note=note)
    if judged.hull is None:
        return series
    label, sets = f"energy above hull by {result['stability']['judge']}", {"generated": list(judged.above_hull)}
    series["above_hull"] = entry("histogram", "Energy above the hull", label, unit="eV/atom", sets=sets)
    stable = ("stable_of_all", "metastable_of_all", "sun", "metastable_sun")
    series["stability"] = _shares("Stability", {k: result["stability"].get(k) for k in stable})
    return series | hull_diagrams(result, judged)


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
        entries, members = judged.hull.entries(elements), systems[elements]
        zero = dict.fromkeys(elements, 0.0)
        if judged.hull.references.kind == "total":
            zero = {e: judged.hull.elemental_energy(composition_of(e)) for e in elements}
        reference = _phases([e.composition for e in entries], [e.energy_per_atom for e in entries], elements, zero)
        reference["name"] = [e.composition.reduced_formula for e in entries]
        points = _phases(
            [composition_of(formulas[k]) for k in members], [judged.energies[k] for k in members], elements, zero
        )
        points |= {"e_above_hull": [judged.above_hull[k] for k in members], "name": [formulas[k] for k in members]}
        parts: dict[str, Any] = {"elements": list(elements), "reference": reference, "points": points}
        out["hull_" + "_".join(elements).lower()] = entry("hull", f"Convex hull of {'-'.join(elements)}", **parts)
    return out


def _phases(
    compositions: Sequence[Any], energies: Sequence[float | None], elements: Sequence[str], zero: Mapping[str, float]
) -> dict[str, Any]:
    """Amounts and formation energies per atom: the energies less those of the elements themselves in these amounts."""
    amounts = [c.get_el_amt_dict() for c in compositions]
    mixtures = [sum(n * zero[x] for x, n in a.items()) / sum(a.values()) for a in amounts]
    formed = [None if e is None else e - m for e, m in zip(energies, mixtures, strict=True)]
    return {"composition": [[a.get(x, 0.0) for x in elements] for a in amounts], "energy": formed}


def _shares(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of the quantities among the values, by readable names."""
    quantities = {k: v for k, v in found.items() if isinstance(v, Mapping) and "value" in v and "of" in v}
    return entry("bars", title, "share of crystals", bars={k.replace("_", " "): v for k, v in quantities.items()})
