"""Property prediction: the model beside a mean predictor and a composition-only network trained on the same rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoperi.errors import DataError
from autoperi.evaluation.common import decimals, facts, load
from autoperi.io import read_table
from autoperi.models.baselines import fit_composition_network

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

LABEL = "formation_energy_per_atom"


def evaluate_properties(
    peri: AutoPeri,
    path: str | Path,
    *,
    train: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Mean absolute error of the formation energy in eV/atom.

    Args:
        peri: the model.
        path: table with the label ``formation_energy_per_atom``.
        train: table on which to fit the baselines; without it the mean is that of the test rows, and the composition
            network is left out.
        limit, seed: rows, and how they are drawn.
        progress: show a bar; None shows it on a terminal.
    """
    table, rows = load(path, limit, seed)
    target = _label(table, path)[rows]
    known = np.isfinite(target)
    chosen = [r for r, ok in zip(rows, known, strict=True) if ok]
    target = target[known]
    started = time.perf_counter()
    scored = peri.score(table[chosen].structures(), properties=["formation_energy"], progress=progress)
    seconds = time.perf_counter() - started
    error = np.abs(scored["formation_energy_per_atom_eV"].to_numpy() - target)
    baselines: dict[str, Any] = {"mean_predictor_mae_eV": decimals(np.abs(target - target.mean()).mean()), "composition_only_mae_eV": None}
    if train is not None:
        fit_table = read_table(train)
        fit_target = _label(fit_table, train)
        fit_rows = np.nonzero(np.isfinite(fit_target))[0].tolist()
        network = fit_composition_network(
            fit_table[fit_rows].batch(dtype=torch.float32), torch.tensor(fit_target[fit_rows], dtype=torch.float32), seed=seed
        )
        with torch.no_grad():
            guess = network(table[chosen].batch(dtype=torch.float32)).double().numpy()
        baselines = {
            "mean_predictor_mae_eV": decimals(np.abs(target - fit_target[fit_rows].mean()).mean()),
            "composition_only_mae_eV": decimals(np.abs(guess - target).mean()),
        }
    return {
        "task": "properties",
        "property": LABEL,
        "n": len(chosen),
        "without_label": int((~known).sum()),
        "mae_eV_per_atom": decimals(error.mean()) if len(error) else None,
        "median_error_eV_per_atom": decimals(float(np.median(error))) if len(error) else None,
        **baselines,
        "baselines_fitted_on": None if train is None else Path(train).name,
        "seconds": decimals(seconds, 1),
        "crystals_per_second": decimals(len(chosen) / seconds, 1),
    } | facts(path, peri.provenance(), seed)


def _label(table: Any, path: str | Path) -> np.ndarray:
    if LABEL not in table.labels:
        raise DataError(f"{path} has no column {LABEL!r}; it has {', '.join(map(str, table.labels.columns)) or 'no labels'}")
    return table.labels[LABEL].to_numpy(dtype=float, na_value=np.nan)
