"""An ASE calculator against a table of DFT frames: energies, forces and stresses, by element set."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoperi.data.io import CrystalTable
from autoperi.errors import DataError, RequestError
from autoperi.evaluation.calculators import describe_calculator, make_calculator
from autoperi.evaluation.common import (
    decimals,
    entry,
    facts,
    load,
    numbers_of,
    options_of,
    per_second,
    sample_rows,
    tally,
)
from autoperi.metrics.potential import (
    DEFINITIONS,
    Frame,
    compositions,
    element_constants,
    potential_errors,
    shift,
)
from autoperi.progress import progress_bar
from autoperi.units import EV_PER_A3_IN_GPA

ENERGY, FORCES, STRESS = "energy_eV", "forces_eV_per_A", "stress_GPa"
HEADLINE = {
    "energy MAE, one constant per element removed (meV/atom)": "energy.mae_shifted",
    "energy MAE, raw (meV/atom)": "energy.mae",
    "force MAE (meV/Å)": "force.mae",
    "force MAE of zero forces (meV/Å)": "force.mae_of_zero",
    "force cosine": "force.cosine",
    "stress MAE (GPa)": "stress.mae",
}
PARITY_POINTS = 20_000
"""Points of a parity figure; of more, evenly spaced ones are drawn and the figure says so."""


def evaluate_potential(
    calculator: Any,
    path: str | Path,
    *,
    options: Mapping[str, Any] | str | None = None,
    split: str | None = "test",
    group: str | None = "tag",
    only: Sequence[str] | None = None,
    element_energies: Mapping[Any, float] | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Errors of a potential on DFT frames; see :mod:`autoperi.metrics.potential` for what is compared and how.

    Args:
        calculator: any ASE calculator, or what :func:`~autoperi.evaluation.calculators.make_calculator` takes.
        path: table with the columns ``energy_eV`` (of the whole cell), ``forces_eV_per_A`` (3 n numbers) and
            ``stress_GPa`` (9 numbers, rows, tension positive). A missing column or label is counted.
        options: of the calculator.
        split: rows whose column ``split`` says this; None for all. A table without that column has no splits, and all
            rows count.
        group: column whose values get rows of their own (``by_group``), and so does what stands before a slash in them:
            ``Ge/AIMD-NVT`` counts for ``Ge`` too. None for none.
        only: groups to measure, in either form; None for all.
        element_energies: eV/atom by element to subtract from the predictions; None fits them on these frames.
        limit: frames, drawn with ``seed`` after the choice of split and groups.
        seed: of the draw.
        progress: show a bar; None shows it on a terminal.

    Returns:
        :func:`~autoperi.metrics.potential.potential_errors`, ``failed`` (frames without a prediction) and ``failures``
        (their reasons with counts), ``no_stress`` (predicted frames for which the calculator gave none),
        ``definitions``, times, ``series``.

    Raises:
        RequestError: an unknown calculator, split or group; element energies that are none.
        DataError: a table without any of the three columns, or with labels of the wrong length.
    """
    recorded = options_of(locals()) | {"only": None if only is None else list(only)}
    constants = None if element_energies is None else element_constants(element_energies)
    described = describe_calculator(calculator, options)
    judge = make_calculator(calculator, options)
    table, every = load(path, None, seed)
    chosen = _choose(table, every, path, split, group, only)
    chosen = [chosen[k] for k in sample_rows(len(chosen), limit, seed)]
    picked = table[chosen]
    reference = _labels(picked, path)
    predicted: list[Frame] = []
    reasons: list[str] = []
    stress_reasons: list[str] = []
    started = time.perf_counter()
    with progress_bar(len(picked), enabled=progress, description="potential", unit="frame") as bar:
        for cell, coords, numbers in zip(picked.lattice, picked.frac_coords, picked.atomic_numbers, strict=True):
            frame, reason, no_stress = predict_frame(judge, cell, coords, numbers)
            predicted.append(frame)
            reasons += [reason] if reason else []
            stress_reasons += [no_stress] if no_stress else []
            bar.update()
    seconds = time.perf_counter() - started
    names = (
        None if group is None or group not in picked.labels else [_groups(v) for v in picked.labels[group].astype(str)]
    )
    errors = potential_errors(predicted, reference, picked.atomic_numbers, element_energies=constants, groups=names)
    atoms = sum(len(z) for z in picked.atomic_numbers)
    fixed = {str(e): float(v) for e, v in (element_energies or {}).items()}
    recorded |= {
        "calculator": described,
        "element_energies": fixed if element_energies is not None else "fitted on the frames",
    }
    del recorded["options"]
    return {
        "task": "potential",
        "n": len(picked),
        "atoms": atoms,
        **{key: value for key, value in errors.items() if key != "n"},
        "failed": len(reasons),
        "failures": tally(reasons),
        "no_stress": len(stress_reasons),
        "no_stress_reasons": tally(stress_reasons),
        "without_label": {
            what: sum(getattr(frame, what) is None for frame in reference) for what in ("energy", "forces", "stress")
        },
        "seconds": decimals(seconds, 1),
        "atoms_per_second": per_second(atoms, seconds),
        "calculator": described,
        "definitions": DEFINITIONS,
        "headline": HEADLINE,
        **facts(path, {"model": described["calculator"], "sha256": None}, seed, parameters=recorded),
        "series": _series(predicted, reference, picked.atomic_numbers, errors),
    }


def predict_frame(
    calculator: Any, cell: np.ndarray, coords: np.ndarray, numbers: np.ndarray
) -> tuple[Frame, str | None, str | None]:
    """Energy, forces and stress of one crystal.

    Args:
        calculator: of ASE.
        cell: ``[3, 3]`` in Å.
        coords: fractional, ``[n, 3]``.
        numbers: atomic numbers ``[n]``.

    Returns:
        The frame, why there is none (energy or forces failed or are not finite), and why there is no stress.
    """
    from ase import Atoms

    atoms = Atoms(numbers=numbers, cell=cell, scaled_positions=coords, pbc=True)
    atoms.calc = calculator
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            energy = float(atoms.get_potential_energy())
            forces = np.array(atoms.get_forces(), dtype=np.float64)
            if not np.isfinite(energy) or not np.isfinite(forces).all():
                raise ValueError("energy or forces are not finite")
        except Exception as error:  # a calculator may raise anything; the frame failed, not the run
            if hasattr(calculator, "reset"):
                calculator.reset()  # what the failed frame left behind must not answer for the next
            return Frame(), _reason(error), None
        try:
            stress = np.array(atoms.get_stress(voigt=False), dtype=np.float64) * EV_PER_A3_IN_GPA
            if not np.isfinite(stress).all():
                raise ValueError("the stress is not finite")
        except Exception as error:
            return Frame(energy, forces), None, _reason(error)
    return Frame(energy, forces, stress), None, None


def _choose(
    table: CrystalTable,
    rows: list[int],
    path: str | Path,
    split: str | None,
    group: str | None,
    only: Sequence[str] | None,
) -> list[int]:
    labels = table.labels
    if split is not None and "split" in labels:
        values = labels["split"].astype(str).tolist()
        rows = [r for r in rows if values[r] == split]
        if not rows:
            raise RequestError(f"{path} has no rows of split {split!r}; it has {', '.join(sorted(set(values)))}")
    if only is not None:
        if group is None or group not in labels:
            raise RequestError(
                f"only {', '.join(map(repr, only)) or 'nothing'} needs a column to look in, and group {group!r} is "
                f"none of {path}"
            )
        values = [_groups(v) for v in labels[group].astype(str)]
        known = {name for r in rows for name in values[r]}
        unknown = [name for name in only if name not in known]
        if unknown or not only:
            raise RequestError(
                f"only {', '.join(map(repr, unknown)) or 'nothing'}: {path} has no such rows in {group!r}; it has "
                f"{', '.join(sorted(known))}"
            )
        rows = [r for r in rows if set(values[r]) & set(only)]
    return rows


def _groups(value: str) -> tuple[str, ...]:
    """``Ge/AIMD-NVT`` is of ``Ge`` and of itself."""
    return tuple(dict.fromkeys([value.split("/")[0], value]))


def _labels(table: CrystalTable, path: str | Path) -> list[Frame]:
    columns = table.labels
    if not {ENERGY, FORCES, STRESS} & set(columns):
        raise DataError(
            f"{path} has none of the columns {ENERGY}, {FORCES}, {STRESS}; it has "
            f"{', '.join(map(str, columns.columns)) or 'no labels'}"
        )
    energies = np.full(len(table), np.nan)
    if ENERGY in columns:
        energies = numbers_of(columns, ENERGY, f"{path}: the column {ENERGY}", "give eV of the whole cell")
    frames = []
    for k, (energy, numbers) in enumerate(zip(energies, table.atomic_numbers, strict=True)):
        forces, stress = (
            _array(columns, name, k, shape, path, table.ids[k])
            for name, shape in ((FORCES, (len(numbers), 3)), (STRESS, (3, 3)))
        )
        frames.append(Frame(float(energy) if np.isfinite(energy) else None, forces, stress))
    return frames


def _array(columns: Any, name: str, k: int, shape: tuple[int, int], path: str | Path, row: str) -> np.ndarray | None:
    value = columns[name].iloc[k] if name in columns else None
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{path}, {row}: {name} holds what is no list of numbers; mend the table") from None
    if array.size != shape[0] * shape[1]:
        raise DataError(
            f"{path}, {row}: {name} holds {array.size} numbers where {shape[0] * shape[1]} belong; mend the table"
        )
    return array.reshape(shape) if np.isfinite(array).all() else None


def _series(
    predicted: Sequence[Frame],
    reference: Sequence[Frame],
    atomic_numbers: Sequence[np.ndarray],
    errors: Mapping[str, Any],
) -> dict[str, Any]:
    from ase.stress import full_3x3_to_voigt_6_stress

    counts = compositions(atomic_numbers)
    size = counts.sum(1)
    constants = element_constants(errors["element_energies"])
    e, t = (
        np.array([np.nan if f.energy is None else f.energy for f in frames], dtype=np.float64)
        for frames in (predicted, reference)
    )
    both = list(zip(predicted, reference, strict=True))
    forces = [(p.forces, r.forces) for p, r in both if p.forces is not None and r.forces is not None]
    stress = [
        (full_3x3_to_voigt_6_stress(p.stress), full_3x3_to_voigt_6_stress(r.stress))
        for p, r in both
        if p.stress is not None and r.stress is not None
    ]
    energies = {"x": t / size, "y": (e - shift(constants, counts)) / size}
    title = "Energies, one constant per element removed"
    parts = (
        ("energy", title, "eV/atom", energies),
        ("force", "Force components", "eV/Å", _thinned(forces, "no forces")),
        ("stress", "Stress components", "GPa", _thinned(stress, "no stresses")),
    )
    words: dict[str, Any] = {"y_label": "potential"}
    return {f"{k}_parity": entry("parity", title, "DFT", **words, unit=unit, **xy) for k, title, unit, xy in parts}


def _thinned(found: Sequence[tuple[np.ndarray, np.ndarray]], reason: str) -> dict[str, Any]:
    if not found:
        return {"x": [], "y": [], "reason": reason}
    y, x = (np.concatenate([pair[k].ravel() for pair in found]) for k in (0, 1))
    step = -(-len(x) // PARITY_POINTS)
    note = {"note": f"Every {step}th of {len(x):,} components is drawn."} if step > 1 else {}
    return {"x": x[::step], "y": y[::step], **note}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
