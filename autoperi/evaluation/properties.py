"""Property prediction: the model beside a mean predictor, a composition-only network and other systems, and what its
uncertainties are worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.chemistry.properties import METAL_EV, PROPERTIES, Property
from autoperi.data.io import read_table
from autoperi.data.splits import SPLITS, splits_of
from autoperi.errors import DataError, RequestError, WeightsError
from autoperi.evaluation.common import (
    decimals,
    entry,
    facts,
    file_name,
    load,
    numbers_of,
    options_of,
    per_second,
    sample_rows,
)
from autoperi.metrics.counts import quantity
from autoperi.metrics.regression import calibration, mae, mae_by, regression

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

LABEL = "formation_energy_per_atom"
BASELINE_STEPS = 1500
"""Steps that the composition-only network is trained for at least; 40 epochs where they are more."""
BASELINES = {"cgcnn": "CGCNN", "crystal_transformer": "crystal transformer"}
"""Bundled networks for the formation energy that stand beside the model, and what figures call them."""


def targets() -> dict[str, Property]:
    """The properties by the labels that they are judged by: the column of ``score`` without the unit at its end, as
    ``band_gap`` for ``band_gap_eV``.

    Those that tables of Materials Project and matbench call otherwise go by either name.
    """
    every = PROPERTIES.values()
    return {label: p for p in every for label in (p.column.removesuffix(f"_{_unit(p)}"), p.label) if label}


def _unit(goal: Property) -> str:
    """The unit as a key has it, without "per atom"."""
    return {"eV/atom": "eV", "1/cm": "per_cm"}.get(goal.unit, goal.unit)


def evaluate_properties(
    peri: AutoPeri,
    path: str | Path,
    *,
    label: str = LABEL,
    train: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Errors of a predicted property against its label.

    Args:
        peri: the model.
        path: table with the column ``label``; a row without a number there is left out and counted.
        label: one that the model predicts (:func:`targets`).
        train: table on which to fit the baselines; without it the mean is that of the test rows, and the composition
            network is left out.
        split: ``"train"``, ``"val"`` or ``"test"``: only these rows of ``path`` by their ids
            (:func:`autoperi.data.splits.split_of`), and the baselines are fitted on the ``"train"`` rows of ``train``;
            None takes every row.
        limit, seed: rows, and how they are drawn.
        progress: show a bar; None shows it on a terminal.

    Returns:
        The plain errors (``mae_…``, ``median_error_…``, baselines), ``errors``
        (:func:`~autoperi.metrics.regression.regression`), ``mae_by_elements`` (number of elements to error), ``cgcnn``
        and ``crystal_transformer`` (the same for these bundled baselines, formation energy only), for moduli
        ``mae_log10…`` (of the crystals whose label and prediction are positive), ``uncertainty`` where the model gives
        one (:func:`~autoperi.metrics.regression.calibration`; of the decimal logarithm for moduli and peaks),
        ``is_metal`` beside a band gap, ``series``.

    Raises:
        RequestError: a label that the model does not predict, or no such split. DataError: a table without it, or
            without ids to split by.
    """
    parameters = options_of(locals()) | {"train": file_name(train)}

    known_targets = targets()
    if label not in known_targets:
        choices = ", ".join(sorted(known_targets))
        raise RequestError(f"the property {label!r} is not predicted by the model; choose from {choices}")
    goal = known_targets[label]
    offered = getattr(peri, "score_properties", {p.name: (p.column,) for p in PROPERTIES.values()})
    if goal.column not in offered.get(goal.name, ()):
        raise RequestError(
            f"the property {label!r} is not predicted by this model, which has {', '.join(offered)}; load one with "
            "property heads"
        )
    if split is not None and split not in SPLITS:
        raise RequestError(f"split {split!r} is not known; choose from {', '.join(SPLITS)}")
    table, rows = load(path, limit if split is None else None, seed)
    if split is not None:
        chosen_rows = _split_rows(table, path, split)
        rows = [chosen_rows[k] for k in sample_rows(len(chosen_rows), limit, seed)]
    labels = _label(table, path, label)[rows]
    target = labels[np.isfinite(labels)]
    # a bad table is an error before any work
    fit = None if train is None else _fit_table(train, label, "train" if split else None)
    picked = table[[r for r, ok in zip(rows, np.isfinite(labels), strict=True) if ok]]
    n = len(target)
    started = time.perf_counter()
    scored: Any = {goal.column: np.zeros(0)}
    if n:
        scored = peri.score(picked.structures(), properties=[goal.name], progress=progress)
    seconds = time.perf_counter() - started
    wanted = (goal.column, goal.std, "is_metal_probability")
    columns = {name: np.asarray(scored[name], dtype=float) for name in scored if name in wanted}
    predicted = columns[goal.column]
    guess = None
    reference_mean = _mean(target, goal.positive)
    if fit is not None:
        reference_mean, guess = _baselines(fit, picked, seed, goal.positive)
    mean = np.full(n, reference_mean)
    every = regression(predicted, target)
    elements = [len(set(z.tolist())) for z in picked.atomic_numbers]
    unit = _unit(goal)
    suffix = f"{unit}_per_atom" if goal.unit.endswith("/atom") else unit
    result: dict[str, Any] = {
        "task": "properties",
        "property": label,
        "split": split,
        "n": n,
        "without_label": len(labels) - n,
        f"mae_{suffix}": decimals(every["mae"]["value"]),
        f"median_error_{suffix}": decimals(every["median_error"]["value"]),
        f"mean_predictor_mae_{unit}": decimals(mae(mean, target)["value"]),
        f"composition_only_mae_{unit}": None if guess is None else decimals(mae(guess, target)["value"]),
        "baselines_fitted_on": file_name(train),
        "errors": every,
        "mae_by_elements": mae_by(elements, predicted, target),
    }
    if unit == "GPa":
        for name, values in (("", predicted), ("mean_predictor_", mean), ("composition_only_", guess)):
            found = None if values is None else mae(_log10(values), _log10(target))
            result[f"{name}mae_log10_GPa"] = found
    if goal.std in columns:
        result["uncertainty"] = _uncertainty(goal, predicted, columns[goal.std], target)
    if label == "band_gap" and "is_metal_probability" in columns:
        result["is_metal"] = _is_metal(columns["is_metal_probability"], target)
    errors = {"AutoPeri": predicted} | ({} if guess is None else {"composition only": guess})
    series = {"parity": _parity(label, goal, target, predicted, "AutoPeri"), "errors": {}}
    for name, words in BASELINES.items() if label == LABEL else ():
        predict = _predictor(name)
        if predict is None or not n:
            result[name] = None
            continue
        values = errors[words] = predict(picked, progress)
        result[name] = {**regression(values, target), "mae_by_elements": mae_by(elements, values, target)}
        series[f"parity_{name}"] = _parity(label, goal, target, values, words)
    sets = {words: np.abs(values - target) for words, values in errors.items()}
    series["errors"] = entry("errors", "Absolute errors", "absolute error", unit=goal.unit, sets=sets)
    return {
        **result,
        "seconds": decimals(seconds, 1),
        "crystals_per_second": per_second(n, seconds) if n else None,
        "headline": {f"MAE ({goal.unit})": "errors.mae", f"RMSE ({goal.unit})": "errors.rmse", "R²": "errors.r2"},
        **facts(path, peri.provenance(), seed, parameters=parameters, others={"train": train}),
        "series": series,
    }


def _predictor(name: str) -> Callable[[Any, bool | None], np.ndarray] | None:
    import torch

    from autoperi.hub.networks import load_pretrained_network
    from autoperi.progress import progress_bar

    try:
        network = load_pretrained_network(name).double()  # in which batchmates change nothing
    except WeightsError:
        return None

    def predict(table: Any, progress: bool | None) -> np.ndarray:
        batch = table.batch(dtype=next(network.parameters()).dtype)
        out = []
        with torch.no_grad(), progress_bar(len(batch), enabled=progress, description=BASELINES[name]) as bar:
            for start in range(0, len(batch), 64):
                out.append(network(batch[start : start + 64]).double().numpy())
                bar.update(len(out[-1]))
        return np.concatenate(out)

    return predict


def _uncertainty(goal: Property, predicted: np.ndarray, std: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    if not goal.positive:
        return {"of": goal.unit, **calibration(predicted, std, target)}
    logarithm = std / (np.log(10) * np.maximum(predicted, 1e-9))  # σ of log10 y from that of y, as score made it
    return {"of": "log10", **calibration(_log10(predicted), logarithm, _log10(target))}


def _is_metal(probability: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Accuracy at one half, the Brier score, and the share of metals and their mean probability."""
    truth, n = target < METAL_EV, len(target)
    values = {
        "accuracy": (probability > 0.5) == truth,
        "brier": (probability - truth) ** 2,
        "share_of_metals": truth,
        "mean_probability": probability,
    }
    reason = None if n else "no crystals"
    return {k: quantity(float(np.mean(v)) if n else None, of=n, reason=reason) for k, v in values.items()}


def _split_rows(table: Any, path: str | Path, split: str) -> list[int]:
    if table.ids == [str(k) for k in range(len(table))]:  # what a table without ids is read with
        raise DataError(
            f"{path} has no column 'id' or 'material_id' by which rows are split (row numbers name no "
            "crystal); add one, or leave the split out"
        )
    return [row for row, name in enumerate(splits_of(table.ids)) if name == split]


def _mean(values: np.ndarray, logarithmic: bool) -> float:
    """Arithmetic mean, or the geometric one of the positive values; NaN where there are none."""
    values = _log10(values)[values > 0] if logarithmic else values
    mean = float(values.mean()) if len(values) else float("nan")
    return 10.0**mean if logarithmic else mean


def _fit_table(train: str | Path, label: str, split: str | None) -> tuple[Any, np.ndarray]:
    table = read_table(train)
    if split is not None:
        table = table[_split_rows(table, train, split)]
    values = _label(table, train, label)
    rows = np.nonzero(np.isfinite(values))[0].tolist()
    if not rows:
        remedy = "give a table with labels to fit the baselines on"
        raise DataError(f"{train} has no number in its column {label!r}; {remedy}")
    return table[rows], values[rows]


def _baselines(fit: tuple[Any, np.ndarray], picked: Any, seed: int, logarithmic: bool) -> tuple[float, np.ndarray]:
    """Mean and composition-only predictions; those of moduli and peaks are fitted on their logarithms."""
    import torch

    from autoperi.models.composition_network import fit_composition_network

    table, values = fit
    mean = _mean(values, logarithmic)
    if logarithmic:
        positive = np.nonzero(values > 0)[0].tolist()
        table, values = table[positive], np.log10(values[positive])
    epochs = max(40, -(-BASELINE_STEPS // -(-len(values) // 256)))  # small tables take more rounds of 256-row batches
    batch, labels = table.batch(dtype=torch.float32), torch.tensor(values, dtype=torch.float32)
    network = fit_composition_network(batch, labels, epochs=epochs, seed=seed)
    with torch.no_grad():
        guess = network(picked.batch(dtype=torch.float32)).double().numpy()
    return mean, 10.0**guess if logarithmic else guess


def _label(table: Any, path: str | Path, label: str) -> np.ndarray:
    if label not in table.labels:
        has = ", ".join(map(str, table.labels.columns)) or "no labels"
        raise DataError(f"{path} has no column {label!r}; it has {has}")
    remedy = "give numbers, and leave unknown ones empty"
    return numbers_of(table.labels, label, f"{path}: the column {label!r}", remedy)


def _log10(values: np.ndarray) -> np.ndarray:
    return np.log10(values, where=values > 0, out=np.full(len(values), np.nan))


def _parity(label: str, goal: Property, target: np.ndarray, predicted: np.ndarray, words: str) -> dict[str, Any]:
    title = f"{label.removesuffix('_per_atom').replace('_', ' ').capitalize()}: {words}"
    reason = None if len(target) else "no row has this label"
    return entry("parity", title, "label", y_label=words, unit=goal.unit, x=target, y=predicted, reason=reason)
