"""Lattice denoising: crystals deformed by exp(A), and how much of the error the relaxer removes (EMPNN, eq. 11-13)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autoperi.errors import RequestError
from autoperi.evaluation.common import decimals, facts, load
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
    sigmas = _sigmas(sigma)
    if calculator_limit is not None and calculator_limit < 1:
        raise RequestError(f"the calculator's limit of {calculator_limit} crystals is not positive; give at least 1")
    described = None
    if calculator is not None:
        from autoperi.evaluation.calculators import describe_calculator, make_calculator

        described = describe_calculator(calculator, calculator_options)
        calculator = make_calculator(calculator, calculator_options)
    table, rows = load(path, limit, seed)
    clean = table[rows]
    common: dict[str, Any] = {"definitions": DEFINITIONS, "calculator": described, "calculator_limit": calculator_limit}
    options: dict[str, Any] = {
        "steps": steps,
        "calculator": calculator,
        "calculator_limit": calculator_limit,
        "progress": progress,
    }
    results = [_one_sigma(peri, relax, clean, rows, seed, value, **options) for value in sigmas]
    parameters = {
        "sigma": sigmas[0] if len(sigmas) == 1 else sigmas,
        "limit": limit,
        "seed": seed,
        "steps": steps,
        "relax": None if relax is None else model_facts(peri, relax)["model"],
        "calculator": described,
        "calculator_limit": calculator_limit,
    }
    common |= facts(path, model_facts(peri, relax), seed, parameters=parameters)
    headline = {label: at for label, at in _HEADLINE.items() if calculator is not None or "energy" not in at}
    if len(sigmas) == 1:
        result, series = results[0]
        return {"task": "denoise", **result, "headline": headline, **common, "series": series}
    words = [f"{value:g}" for value in sigmas]
    drawn = {
        f"{key}_sigma_{word}": value
        for word, (_, series) in zip(words, results, strict=True)
        for key, value in series.items()
    }
    return {
        "task": "denoise",
        "n": len(rows),
        "sigma": sigmas,
        "steps": steps,
        "per_sigma": {word: result for word, (result, _) in zip(words, results, strict=True)},
        "headline": {
            f"{label}, σ = {word}": f"per_sigma.{word}.{at}" for word in words for label, at in headline.items()
        },
        **common,
        "series": _ladder(sigmas, [result for result, _ in results]) | drawn,
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
    return relaxed, {name: status.count(name) for name in sorted(set(status))}, seconds


def model_facts(peri: AutoPeri | None, relax: Relaxer | None) -> dict[str, Any]:
    """Name and hash of what was measured, for :func:`~autoperi.evaluation.common.facts`."""
    if relax is None and peri is not None:
        return peri.provenance()
    return {"model": getattr(relax, "__name__", type(relax).__name__), "sha256": None}


_HEADLINE = {
    "length improvement (Å)": "improvement.length_A",
    "angle improvement (degrees)": "improvement.angle_deg",
    "energy improvement (eV/atom)": "improvement.energy_eV_per_atom",
    "length MAE after (Å)": "after.length_mae_A",
    "angle MAE after (degrees)": "after.angle_mae_deg",
    "length R² after": "after.length_r2",
}


def _one_sigma(
    peri: AutoPeri | None,
    relax: Relaxer | None,
    clean: Any,
    rows: Sequence[int],
    seed: int,
    sigma: float,
    *,
    steps: int | None,
    calculator: Any,
    calculator_limit: int | None,
    progress: bool | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    noisy = deformed(clean, rows, seed, sigma)
    relaxed, status, seconds = run_relaxer(peri, relax, noisy, steps=steps, progress=progress)
    truth = clean.structures()
    before, after = lattice_errors(noisy, truth), lattice_errors(relaxed, truth)
    improvement = lattice_improvement(noisy, relaxed, truth)
    energy_seconds = None
    if calculator is not None:
        from autoperi.evaluation.calculators import energies

        judged = slice(0, calculator_limit)
        started = time.perf_counter()
        energy_before = energies(noisy[judged], calculator, progress=progress)
        answered = [k for k, s in enumerate(relaxed[judged]) if s is not None]
        energy_after = dict(
            zip(answered, energies([relaxed[k] for k in answered], calculator, progress=progress), strict=True)
        )
        energy_seconds = time.perf_counter() - started
        after_or_none = [energy_after[k].energy if k in energy_after else None for k in range(len(energy_before))]
        improvement |= energy_improvement([e.energy for e in energy_before], after_or_none)
        reasons = [e.reason for e in [*energy_before, *energy_after.values()] if e.reason is not None]
        improvement["energy_failures"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    removed = {
        key: decimals(1 - a / b) if a is not None and b else None
        for key, a, b in (
            ("length", _value(after["length_mae_A"]), _value(before["length_mae_A"])),
            ("angle", _value(after["angle_mae_deg"]), _value(before["angle_mae_deg"])),
        )
    }
    result = {
        "n": len(rows),
        "sigma": sigma,
        "steps": steps,
        "length_mae_before_A": decimals(_value(before["length_mae_A"])),
        "length_mae_after_A": decimals(_value(after["length_mae_A"])),
        "angle_mae_before_deg": decimals(_value(before["angle_mae_deg"])),
        "angle_mae_after_deg": decimals(_value(after["angle_mae_deg"])),
        "length_error_removed": removed["length"],
        "angle_error_removed": removed["angle"],
        "improvement": improvement,
        "before": before,
        "after": after,
        "status": status,
        "seconds": decimals(seconds, 1),
        "seconds_calculator": decimals(energy_seconds, 1),
        "crystals_per_second": decimals(len(rows) / seconds, 1) if seconds else None,
    }
    return result, _series(noisy, relaxed, truth, sigma)


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


def _series(noisy: list[Any], relaxed: list[Any], truth: list[Any], sigma: float) -> dict[str, Any]:
    before, after = absolute_parameter_errors(noisy, truth), absolute_parameter_errors(relaxed, truth)
    return {
        "length_errors": {
            "kind": "errors",
            "title": f"Length errors, σ = {sigma:g}",
            "x_label": "mean error of a, b, c",
            "unit": "Å",
            "sets": {"before": before[0], "after": after[0]},
        },
        "angle_errors": {
            "kind": "errors",
            "title": f"Angle errors, σ = {sigma:g}",
            "x_label": "mean error of α, β, γ",
            "unit": "degrees",
            "sets": {"before": before[1], "after": after[1]},
        },
        **{
            name: entry | {"title": f"{entry['title']}, σ = {sigma:g}"}
            for name, entry in lattice_parity(relaxed, truth, "relaxed").items()
        },
    }


def lattice_parity(predicted: list[Any], truth: list[Any], label: str) -> dict[str, Any]:
    """Series entries: lengths and volumes per atom of predicted cells against the true ones."""
    p, t = lattice_parameters(predicted), lattice_parameters(truth)
    atoms = np.array([len(s) for s in truth])
    words = {"kind": "parity", "x_label": "true", "y_label": label}
    return {
        "length_parity": {
            **words,
            "title": "Lattice lengths a, b, c",
            "unit": "Å",
            "x": t.lengths.ravel(),
            "y": p.lengths.ravel(),
        },
        "volume_parity": {
            **words,
            "title": "Volume per atom",
            "unit": "Å³",
            "x": t.volumes / atoms,
            "y": p.volumes / atoms,
        },
    }


def _ladder(sigmas: Sequence[float], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {
            "kind": "curve",
            "title": f"{word.capitalize()} error before and after relaxation, against σ",
            "x_label": "σ of the strain",
            "y_label": f"mean absolute error of {word}s",
            "y_unit": unit,
            "curves": {
                when: {"x": list(sigmas), "y": [r[f"{word}_mae_{when}_{key}"] for r in results]}
                for when in ("before", "after")
            },
        }
        for name, word, unit, key in (
            ("error_against_sigma", "length", "Å", "A"),
            ("angle_error_against_sigma", "angle", "degrees", "deg"),
        )
    }


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


def _value(found: dict[str, Any]) -> float | None:
    return found["value"]
