"""Lattice reconstruction (EMPNN, "Reconstruction task"): the lattice is taken away, and the model is asked for it.

Every crystal keeps its elements and fractional coordinates and gets a start lattice, by one of two protocols:

- ``unit cube``: 1 Å on a side, as in the paper;
- ``radii cube``: a cube of the volume of the atoms' covalent spheres over a packing fraction of 0.6
  (:func:`radii_volume`).

EMPNN's published errors (its Table 3) are of the first. The right cell is the one that the table gives, in its own
basis: fractional coordinates alone do not tell a primitive cell of 159° from a cube, so that ``cells="niggli"`` asks
for the Niggli cell instead, as CDVAE's preprocessing of these data sets does, whose splits EMPNN uses. No equivariant
model can leave a cube whose atoms have all its symmetry: in 2.5 % of the Niggli cells of ``mp20_test`` this costs more
than 1° (of the cells as given, in 7 %).

A relaxer of small deformations (:class:`~autoperi.models.empnn.Empnn`) was never shown either start, and from the unit
cube the right answer lies beyond the growth that ``relax_lattice`` accepts (``exploded``);
:class:`~autoperi.models.lattice_relaxer.LatticeRelaxer` was shown cubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.io import CrystalTable, read_table
from autoperi.errors import RequestError, StructureError
from autoperi.evaluation.common import decimals, facts, file_name, load, options_of, per_second
from autoperi.evaluation.denoise import Relaxer, lattice_series, model_facts, run_relaxer
from autoperi.metrics.lattice import DEFINITIONS, lattice_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoperi.auto import AutoPeri

UNIT_CUBE, RADII_CUBE = "unit cube", "radii cube"
PROTOCOLS = {
    UNIT_CUBE: "start lattice: a cube of 1 Å on a side",
    RADII_CUBE: "start lattice: a cube of volume Σ 4/3 π r³ / 0.6, r covalent radii",
}
PACKING = 0.6
"""Σ 4/3 π r³ / V: median over the 28,645 Materials Project crystals of the training table (quartiles 0.41 and 0.77)."""
MAX_PAIRS = 150_000
"""Pairs within 5 Å that a crystal in the unit cube may have, N² 4/3 π 5³, for a network that reads it as it is: 1 GB
holds about 200,000.
"""
CELLS = {
    "given": "cells as the table has them, neither reduced nor permuted",
    "niggli": "Niggli cells of the table's crystals",
}


def evaluate_reconstruct(
    peri: AutoPeri | None,
    path: str | Path,
    *,
    predict: Relaxer | None = None,
    protocols: Sequence[str] = (UNIT_CUBE, RADII_CUBE),
    cells: str = "given",
    train: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    max_pairs: int | None = MAX_PAIRS,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Errors of reconstructed lattices beside baselines that see no positions.

    Args:
        peri: the model, asked by ``relax_lattice``; None where ``predict`` stands in its place.
        path: table of crystals.
        predict: structures with the start lattice to structures with the predicted one, in order; None where there is
            none. It sees elements and fractional coordinates and must not need more.
        protocols: start lattices, of :data:`PROTOCOLS`.
        cells: of :data:`CELLS`: the basis in which fractional coordinates are given and lattices compared.
        train: table from which the baselines take their volumes; without it, the mean volume per atom is that of the
            test rows.
        limit, seed: rows, and how they are drawn.
        steps: passes of ``peri.relax_lattice``; by default the model's.
        max_pairs: with a ``peri`` whose network reads the unit cube as it is, a crystal with more pairs than this
            within 5 Å is not tried and counts as missing, because its graph would not fit into memory; None tries all.
            A ``predict`` of your own sees all.
        progress: show a bar; None shows it on a terminal.

    Returns:
        ``protocols``: for each the :func:`~autoperi.metrics.lattice.lattice_errors`, how predictions ended (``status``)
            and seconds;
        ``baselines``: the errors of cubes (start lattices unchanged, mean volume per atom, element volumes fitted on
            ``train``);
        ``definitions``, ``series``.

    Raises:
        RequestError: an unknown protocol, nothing to measure, a ``predict`` that moves or exchanges atoms or returns
            too few crystals.
        DataError: a table cannot be read.
    """
    parameters = options_of(locals())
    chosen = list(protocols)
    unknown = [p for p in chosen if p not in PROTOCOLS]
    if unknown or not chosen:
        raise RequestError(
            f"protocols {chosen} are not known; choose at least one of {', '.join(map(repr, PROTOCOLS))}"
        )
    if cells not in CELLS:
        raise RequestError(f"cells={cells!r} is not known; choose {' or '.join(map(repr, CELLS))}")
    table, rows = load(path, limit, seed)
    fit = None if train is None else read_table(train)
    picked = table[rows] if cells == "given" else _niggli(table[rows])
    truth = picked.structures()
    results: dict[str, Any] = {}
    series: dict[str, Any] = {}
    for name in chosen:
        start = start_structures(picked, name)
        tried = list(range(len(start)))
        crowded = name == UNIT_CUBE and predict is None and peri is not None and _reads_as_given(peri)
        if crowded and max_pairs is not None:
            tried = [k for k in tried if _pairs(len(start[k])) <= max_pairs]
        size: int | str = 1 if crowded else "auto"  # one crystal there has as many pairs as hundreds elsewhere
        answers, status, seconds = run_relaxer(
            peri, predict, [start[k] for k in tried], steps=steps, batch_size=size, progress=progress
        )
        predicted: list[Any] = [None] * len(start)
        for k, answer in zip(tried, answers, strict=True):
            predicted[k] = answer
            _check_atoms(answer, start[k], k)
        if len(tried) < len(start):
            status["not tried: too many pairs"] = len(start) - len(tried)
        results[name] = {
            "start": PROTOCOLS[name],
            **lattice_errors(predicted, truth),
            "status": status,
            "seconds": decimals(seconds, 1),
            "crystals_per_second": per_second(len(tried), seconds),
        }
        both = {"start": start, "reconstructed": predicted}
        drawn = lattice_series(both, truth, "reconstructed", name)
        series |= {f"{key}_{name.replace(' ', '_')}": each for key, each in drawn.items()}
    model = model_facts(peri, predict)
    # the keys in the order of earlier results
    parameters["predict"] = parameters.pop("predict") and model["model"]
    parameters |= {"protocols": chosen, "train": file_name(train), "max_pairs": parameters.pop("max_pairs")}
    parameters["packing"] = PACKING
    return {
        "task": "reconstruct",
        "n": len(rows),
        "steps": steps,
        "protocols": results,
        "baselines": _baselines(picked, fit, truth),
        "baselines_fitted_on": file_name(train) or "the test rows",
        "headline": {
            f"{words} ({name})": f"protocols.{name}.{key}"
            for name in chosen
            for words, key in (("length MAE (Å)", "length_mae_A"), ("angle MAE (degrees)", "angle_mae_deg"))
        },
        "definitions": DEFINITIONS | {"cells": CELLS[cells]},
        **facts(path, model, seed, parameters=parameters, others={"train": train}),
        "series": series,
    }


def radii_volume(atomic_numbers: NDArray[Any]) -> float:
    """Å³ of a cell with these atoms: the volume of their covalent spheres over :data:`PACKING`."""
    from autoperi.data.elements import covalent_radii

    return float((4 / 3 * np.pi * covalent_radii()[np.asarray(atomic_numbers, dtype=int)] ** 3).sum() / PACKING)


def start_structures(table: CrystalTable, protocol: str) -> list[Any]:
    """The crystals in the start lattice of ``protocol`` (a key of :data:`PROTOCOLS`), with no label left that could
    tell the answer.
    """
    volumes = [1.0 if protocol == UNIT_CUBE else radii_volume(z) for z in table.atomic_numbers]
    return _cubes(table, volumes)


def _cubes(table: CrystalTable, volumes: Sequence[float]) -> list[Any]:
    from autoperi.data.convert import arrays_to_structures

    return arrays_to_structures(
        [
            (np.eye(3) * volume ** (1 / 3), coords, numbers)
            for volume, coords, numbers in zip(volumes, table.frac_coords, table.atomic_numbers, strict=True)
        ]
    )


def _baselines(table: CrystalTable, fit: CrystalTable | None, truth: list[Any]) -> dict[str, Any]:
    """Cubes: their angles are 90°, so their angle error is that of every model that says nothing of angles."""
    counts = np.array([len(z) for z in table.atomic_numbers])
    known = table if fit is None else fit
    sizes = np.array([len(z) for z in known.atomic_numbers])
    per_atom = float((_volumes(known) / sizes).mean())
    cubes = {
        UNIT_CUBE: np.ones(len(table)),
        RADII_CUBE: np.array([radii_volume(z) for z in table.atomic_numbers]),
        "cube of the mean volume per atom": per_atom * counts,
    }
    if fit is not None:
        from autoperi.prior.learn import additive_volumes

        volumes = additive_volumes(_compositions(fit), _volumes(fit))
        additive = _compositions(table) @ volumes
        # an element that no row of the fit holds has no volume of its own: the mean stands in
        unseen = _compositions(table)[:, _compositions(fit).sum(0) == 0].sum(1)
        cubes["cube of element volumes"] = additive + per_atom * unseen
    return {
        name: {
            **lattice_errors(list(np.eye(3) * np.cbrt(v)[:, None, None]), truth),
            **({"volume_per_atom_A3": decimals(per_atom)} if "mean" in name else {}),
        }
        for name, v in cubes.items()
    }


def _compositions(table: CrystalTable) -> NDArray[np.float64]:
    from autoperi.units import MAX_ATOMIC_NUMBER

    return np.array([np.bincount(z, minlength=MAX_ATOMIC_NUMBER + 1) for z in table.atomic_numbers], dtype=np.float64)


def _volumes(table: CrystalTable) -> NDArray[np.float64]:
    return np.abs(np.linalg.det(table.lattice))


def _niggli(table: CrystalTable) -> CrystalTable:
    import torch

    from autoperi.geometry.reduction import reduce_crystal

    reduced = [
        tuple(t.numpy() for t in crystal) for crystal in reduce_crystal(table.batch(dtype=torch.float64)).unbatch()
    ]
    return replace(table, lattice=np.stack([c[0] for c in reduced]), frac_coords=[c[1] for c in reduced])


def _reads_as_given(peri: AutoPeri) -> bool:
    """Whether the relaxer builds its graph in any cell that it is given, instead of growing those of absurd density
    first.
    """
    from autoperi.models.lattice_relaxer import KIND

    return peri.bundle.components["empnn"].config.get("kind") != KIND


def _pairs(n: int) -> float:
    return float(n * n * 4 / 3 * np.pi * 5.0**3)


def _check_atoms(answer: Any, start: Any, k: int) -> None:
    """A reconstruction keeps the basis; parameters of another cell would be compared with the wrong ones."""
    if answer is None:
        return
    from autoperi.data.convert import as_structure

    try:
        found = as_structure(answer, name=f"crystal {k}")
    except StructureError as error:
        raise RequestError(f"predict returned for crystal {k} what is no crystal: {error}") from None
    same = len(found) == len(start) and [s.specie.Z for s in found] == [s.specie.Z for s in start]
    if same:
        shift = np.array(found.frac_coords) - np.array(start.frac_coords)
        same = bool(np.abs(shift - np.rint(shift)).max() < 1e-4)
    if not same:
        raise RequestError(
            f"predict changed the atoms or fractional coordinates of crystal {k}; only the lattice may change"
        )
