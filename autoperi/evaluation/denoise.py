"""Lattice denoising: crystals deformed by exp(A), and how much of the error the relaxer removes (EMPNN, eq. 11-13)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autoperi.errors import RequestError
from autoperi.evaluation.calculators import describe_calculator, energies, make_calculator
from autoperi.evaluation.common import decimals, entry, facts, load, options_of, per_second, tally
from autoperi.metrics.lattice import (
    DEFINITIONS,
    absolute_parameter_errors,
    energy_improvement,
    lattice_errors,
    lattice_improvement,
    lattice_parameters,
)

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri
    from autoperi.data.io import CrystalTable

Relaxer: TypeAlias = Callable[[list[Any]], Sequence[Any]]
"""Structures to structures of the same atoms with other lattices, in order; None where there is no answer."""


def evaluate_denoise(
    peri: AutoPeri | None,
    path: str | Path,
    *,
    sigma: float | Sequence[float] = 0.1,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    relax: Relaxer | None = None,
    calculator: Any = None,
    calculator_options: Mapping[str, Any] | str | None = None,
    calculator_limit: int | None = 32,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Errors of lengths (Å) and angles (degrees) before and after relaxation, and what eqs. 11 to 13 make of them.

    Every crystal is deformed by its own symmetric A with entries N(0, ``sigma``), drawn from ``(seed, row)``: another
    ``sigma`` is the same deformation scaled.

    Args:
        peri: the model; None where ``relax`` stands in its place.
        path: table of crystals.
        sigma: standard deviation of the strain's entries, or several of them, one after the other. At 0 the errors
            after are how far crystals move that are right already.
        limit, seed: rows, and how they and the strains are drawn.
        steps: passes of ``peri.relax_lattice``; by default the model's.
        relax: another relaxer to measure, such as a lambda around an ASE optimiser.
        calculator: judge of the energies (eq. 13): any ASE calculator or a name that
            :func:`~autoperi.evaluation.calculators.make_calculator` knows; None leaves the energy out.
        calculator_options: its keyword arguments.
        calculator_limit: crystals that the judge sees, the first of the rows drawn (EMPNN: 32); None for all.
        progress: show a bar; None shows it on a terminal.

    Returns:
        For one sigma: the plain mean absolute errors and the shares removed, ``improvement`` (eqs. 11-13), ``before``
        and ``after`` (:func:`~autoperi.metrics.lattice.lattice_errors`), ``definitions``, ``series``. For several,
        ``per_sigma`` holds these for each, in words of the sigma.

    Raises:
        RequestError: no sigma, a negative one, a relaxer that returns another number of crystals, an unknown
            calculator.
        DataError: the table cannot be read.
    """
    parameters = options_of(locals())
    sigmas = _sigmas(sigma)
    if calculator_limit is not None and calculator_limit < 1:
        raise RequestError(f"the calculator's limit of {calculator_limit} crystals is not positive; give at least 1")
    described = None
    if calculator is not None:
        described = describe_calculator(calculator, calculator_options)
        calculator = make_calculator(calculator, calculator_options)
    table, rows = load(path, limit, seed)
    clean = table[rows]
    truth = clean.structures()
    results, drawn = {}, {}
    for value in sigmas:
        noisy = deformed(clean, rows, seed, value)
        relaxed, status, seconds = run_relaxer(peri, relax, noisy, steps=steps, progress=progress)
        energy = _energies(noisy, relaxed, calculator, calculator_limit, progress)
        one = {"n": len(rows), "sigma": value, "steps": steps} | _errors(noisy, relaxed, truth, energy)
        one |= {"status": status, "seconds": decimals(seconds, 1), "seconds_calculator": energy.pop("seconds", None)}
        results[f"{value:g}"] = one | {"crystals_per_second": per_second(len(rows), seconds)}
        cells = {"before": noisy, "after": relaxed}
        drawn[f"{value:g}"] = lattice_series(cells, truth, "relaxed", f"σ = {value:g}")
    model = model_facts(peri, relax)
    parameters |= {
        "sigma": sigmas[0] if len(sigmas) == 1 else sigmas,
        "relax": None if relax is None else model["model"],
        "calculator": described,
    }
    common = {"definitions": DEFINITIONS, "calculator": described, "calculator_limit": calculator_limit}
    common |= facts(path, model, seed, parameters=parameters)
    headline = {label: at for label, at in HEADLINE.items() if calculator is not None or "energy" not in at}
    if len(sigmas) == 1:
        ((word, result),) = results.items()
        return {"task": "denoise", **result, "headline": headline, **common, "series": drawn[word]}
    every = {f"{key}_sigma_{word}": value for word, series in drawn.items() for key, value in series.items()}
    labels = [(f"{label}, σ = {word}", f"per_sigma.{word}.{at}") for word in results for label, at in headline.items()]
    return {
        "task": "denoise",
        "n": len(rows),
        "sigma": sigmas,
        "steps": steps,
        "per_sigma": results,
        "headline": dict(labels),
        **common,
        "series": _against_sigma(sigmas, list(results.values())) | every,
    }


def run_relaxer(
    peri: AutoPeri | None,
    relax: Relaxer | None,
    structures: list[Any],
    *,
    steps: int | None = None,
    batch_size: int | str = "auto",
    progress: bool | None = None,
) -> tuple[list[Any], dict[str, int], float]:
    """Relax by ``relax`` where it is given, else by ``peri``, ``batch_size`` crystals a pass (which changes no result,
    only memory).

    Returns:
        The structures (None where there is no answer), how relaxations ended where the relaxer says so, and the
        seconds.

    Raises:
        RequestError: neither or both given, or not one answer for each crystal.
    """
    if relax is None:
        if peri is None:
            raise RequestError("there is nothing to measure; give a model or relax=, a function of structures")
        started = time.perf_counter()
        relaxed = list(peri.relax_lattice(structures, steps=steps, batch_size=batch_size, progress=progress))
    else:
        if steps is not None:
            raise RequestError(
                f"steps={steps} is an option of the model and relax= stands in its place; leave one of them out"
            )
        started = time.perf_counter()
        relaxed = list(relax(structures))
    seconds = time.perf_counter() - started
    if len(relaxed) != len(structures):
        raise RequestError(
            f"the relaxer returned {len(relaxed)} of {len(structures)} crystals; return one for each, None where it "
            "failed"
        )
    status = ["no answer" if s is None else _status(s) for s in relaxed]
    return relaxed, tally(status), seconds


def model_facts(peri: AutoPeri | None, relax: Relaxer | None) -> dict[str, Any]:
    """Name and hash of what was measured, for :func:`~autoperi.evaluation.common.facts`."""
    if relax is None and peri is not None:
        return peri.provenance()
    return {"model": getattr(relax, "__name__", type(relax).__name__), "sha256": None}


HEADLINE = {
    "length improvement (Å)": "improvement.length_A",
    "angle improvement (degrees)": "improvement.angle_deg",
    "energy improvement (eV/atom)": "improvement.energy_eV_per_atom",
    "length MAE after (Å)": "after.length_mae_A",
    "angle MAE after (degrees)": "after.angle_mae_deg",
    "length R² after": "after.length_r2",
}


def _errors(noisy: list[Any], relaxed: list[Any], truth: list[Any], energy: Mapping[str, Any]) -> dict[str, Any]:
    """Errors before and after, in short and with their counts, and the share of them that is gone."""
    before, after = lattice_errors(noisy, truth), lattice_errors(relaxed, truth)
    found: dict[str, Any] = {}
    removed = {}
    for word, key in (("length", "A"), ("angle", "deg")):
        b, a = (errors[f"{word}_mae_{key}"]["value"] for errors in (before, after))
        found |= {f"{word}_mae_before_{key}": decimals(b), f"{word}_mae_after_{key}": decimals(a)}
        removed[f"{word}_error_removed"] = decimals(1 - a / b) if a is not None and b else None
    improvement = lattice_improvement(noisy, relaxed, truth) | {k: v for k, v in energy.items() if k != "seconds"}
    return found | removed | {"improvement": improvement, "before": before, "after": after}


def _energies(
    noisy: list[Any], relaxed: list[Any], calculator: Any, limit: int | None, progress: bool | None
) -> dict[str, Any]:
    """Energies before and after (eq. 13), why some are missing, and the seconds; nothing without a calculator."""
    if calculator is None:
        return {}
    started = time.perf_counter()
    before = energies(noisy[:limit], calculator, progress=progress)
    answered = [k for k, s in enumerate(relaxed[:limit]) if s is not None]
    after = dict(zip(answered, energies([relaxed[k] for k in answered], calculator, progress=progress), strict=True))
    seconds = time.perf_counter() - started
    known = [after[k].energy if k in after else None for k in range(len(before))]
    found = energy_improvement([e.energy for e in before], known)
    failures = tally(e.reason for e in [*before, *after.values()] if e.reason is not None)
    return found | {"energy_failures": failures, "seconds": decimals(seconds, 1)}


def deformed(clean: CrystalTable, rows: Sequence[int], seed: int, sigma: float) -> list[Any]:
    """The crystals of a table strained by L·exp(A), symmetric A with entries N(0, ``sigma``) drawn from ``(seed,
    row)``, as structures.
    """
    import torch

    from autoperi.data.convert import to_structures
    from autoperi.data.random import torch_generator
    from autoperi.geometry.lattice import random_strain, symmetric_exp

    batch = clean.batch(dtype=torch.float64)
    strains = torch.cat([random_strain(torch_generator(seed, row), sigma, 1, dtype=torch.float64) for row in rows])
    return to_structures(batch.replace(lattice=batch.lattice @ symmetric_exp(strains)))


def lattice_series(cells: Mapping[str, list[Any]], truth: list[Any], label: str, suffix: str) -> dict[str, Any]:
    """Series entries: the errors of two sets of cells by name, and the second one's parity with the true ones.

    Args:
        cells: the start lattices and the predicted ones.
        truth: the right ones.
        label: of the predicted ones.
        suffix: of every title.
    """
    errors = {name: absolute_parameter_errors(crystals, truth) for name, crystals in cells.items()}
    p, t = lattice_parameters(list(cells.values())[1]), lattice_parameters(truth)
    atoms = np.array([len(s) for s in truth])
    lengths, angles = ({name: e[k] for name, e in errors.items()} for k in (0, 1))
    words = {"y_label": label}
    return {
        "length_errors": entry("errors", f"Length errors, {suffix}", "mean error of a, b, c", unit="Å", sets=lengths),
        "angle_errors": entry(
            "errors", f"Angle errors, {suffix}", "mean error of α, β, γ", unit="degrees", sets=angles
        ),
        "length_parity": entry(
            "parity",
            f"Lattice lengths a, b, c, {suffix}",
            "true",
            **words,
            unit="Å",
            x=t.lengths.ravel(),
            y=p.lengths.ravel(),
        ),
        "volume_parity": entry(
            "parity", f"Volume per atom, {suffix}", "true", **words, unit="Å³", x=t.volumes / atoms, y=p.volumes / atoms
        ),
    }


def _against_sigma(sigmas: Sequence[float], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, word, unit, key in (("error", "length", "Å", "A"), ("angle_error", "angle", "degrees", "deg")):
        curves = {
            w: {"x": list(sigmas), "y": [r[f"{word}_mae_{w}_{key}"] for r in results]} for w in ("before", "after")
        }
        title = f"{word.capitalize()} error before and after relaxation, against σ"
        height = {"y_label": f"mean absolute error of {word}s", "y_unit": unit}
        found[f"{name}_against_sigma"] = entry("curve", title, "σ of the strain", **height, curves=curves)
    return found


def _sigmas(sigma: float | Sequence[float]) -> list[float]:
    values = [float(s) for s in (sigma if isinstance(sigma, Sequence) else [sigma])]
    if not values:
        raise RequestError("sigma holds no values; give at least one, such as 0.1")
    for value in values:
        if not (np.isfinite(value) and value >= 0):
            raise RequestError(
                f"sigma {value} is not a standard deviation; give a strain such as 0.1, or 0 for crystals as they are"
            )
    if len(set(values)) != len(values):
        raise RequestError(f"sigma {', '.join(map(str, values))} holds a value twice; give each once")
    return values


def _status(structure: Any) -> str:
    note = getattr(structure, "properties", None) or getattr(structure, "info", None) or {}
    return str(note.get("autoperi", {}).get("relaxation", {}).get("status", "answered"))
