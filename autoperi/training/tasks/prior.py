"""Training of the prototype prior: learn the library, then its ranker. Needs no Lightning."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from autoperi.chemistry.descriptors import element_descriptors
from autoperi.data.files import write_atomically
from autoperi.data.io import CrystalTable, read_table
from autoperi.errors import DataError, RequestError, WeightsError
from autoperi.hub.bundle import Component
from autoperi.prior.component import prior_component
from autoperi.prior.learn import Crystal, learn_library
from autoperi.prior.library import FIELDS, OPTIONAL_FIELDS, PrototypeLibrary
from autoperi.prior.ranker import train_ranker
from autoperi.progress import progress_bar
from autoperi.training.prepare import SETTINGS_FILE, run_settings
from autoperi.training.request import Trained, TrainingRequest

LIBRARY_FILE = "library.safetensors"


DEFAULTS: dict[str, Any] = {"model": "prior", "epochs": 12, "seed": 0, "reference": None}


def train_component(request: TrainingRequest) -> Trained:
    """Learn the prior from a table of crystals.

    Raises:
        RequestError, DataError: before any work, what makes no run.
    """
    for name, value in {**request.settings, **request.options}.items():
        if name not in DEFAULTS:
            raise RequestError(f"{name}={value} does not apply to the prior; leave it out")
    said = {**request.settings, "model": "prior", "reference": request.reference}
    settings = run_settings(said, DEFAULTS, directory=request.checkpoints, resume=request.resume)
    table = read_table(request.data)
    if request.max_atoms is not None:
        table = table[np.array([len(numbers) <= request.max_atoms for numbers in table.atomic_numbers])]
    if not len(table):
        raise RequestError(f"--max-atoms {request.max_atoms} leaves no crystal of {request.data}; allow more")
    crystals = list(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True))
    weights = None if settings["reference"] is None else reference_weights(table, settings["reference"])

    def track(items: Any, description: str) -> Any:
        total = len(items) if hasattr(items, "__len__") else None
        with progress_bar(total, enabled=request.bar, description=description, unit="") as bar:
            for item in items:
                yield item
                bar.update()

    component, summary = train_prior(
        crystals,
        epochs=settings["epochs"],
        weights=weights,
        reference=settings["reference"],
        seed=settings["seed"],
        directory=request.checkpoints,
        resume=request.resume,
        track=track,
        report=lambda row: request.note(", ".join(f"{key} {_short(value)}" for key, value in row.items())),
    )
    return Trained(component, settings, summary)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def train_prior(
    crystals: Sequence[Crystal],
    *,
    epochs: int,
    directory: str | Path,
    weights: np.ndarray | None = None,
    reference: str | None = None,
    seed: int = 0,
    resume: bool = False,
    track: Callable[[Iterable, str], Iterable] | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Component, dict[str, Any]]:
    """Learn the prior from ``(lattice, frac_coords, atomic_numbers)`` triples.

    Args:
        crystals: to learn from.
        epochs: of the ranker.
        directory: where the library and ``training.json`` go as soon as they are there.
        weights: how much of the reference of draws without a composition each crystal is, uint8, see
            :func:`reference_weights`; None for alike.
        reference: what made the weights, for the record.
        seed: of the ranker's start and order.
        resume: take the library from ``directory``, if it is there: learning it is most of the work.
        track: wraps loops to show progress, ``track(items, description)``.
        report: called with a dictionary after each epoch.

    Returns:
        The component, and what the card should say of the run.

    Raises:
        DataError: crystals that hold no prototype twice, from which nothing can be learned.
        WeightsError: the stored library is damaged or of other crystals.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    settings = {"model": "prior", "epochs": epochs, "seed": seed, "crystals": len(crystals), "reference": reference}
    stored = directory / LIBRARY_FILE
    if resume and stored.exists():
        library, owner = _load(stored, len(crystals))
    else:
        library, owner, origin = learn_library(crystals, **({"track": track} if track is not None else {}))
        if weights is not None:
            library = PrototypeLibrary({**library.tensors, "member_weight": torch.as_tensor(weights[origin])})
        tensors = {**library.tensors, "owner": torch.as_tensor(owner), "crystals": torch.tensor(len(crystals))}
        write_atomically(stored, save({name: value.contiguous() for name, value in tensors.items()}))
    write_atomically(directory / SETTINGS_FILE, json.dumps(settings, indent=1))
    members = np.diff(library["member_start"])
    if not any(members[rows].sum() > 1 for rows in library.by_counts.values()):
        raise DataError(
            f"no two of {len(crystals)} crystals have the same counts of atoms, so there is nothing to rank; give at "
            "least some dozens"
        )
    history: list[dict[str, Any]] = []

    def each(row: dict[str, Any]) -> None:
        history.append(row)
        if report is not None:
            report(row)

    ranker = train_ranker(library, descriptors=element_descriptors(), epochs=epochs, seed=seed, report=each)
    summary = {
        "epochs": epochs,
        "crystals": len(crystals),
        "prototypes": len(library),
        "seconds_last_run": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "final": history[-1] if history else {},
    }
    return prior_component(library, ranker), summary


def _load(path: Path, n: int) -> tuple[PrototypeLibrary, np.ndarray]:
    try:
        tensors = load_file(str(path))
        owner, crystals = tensors.pop("owner").numpy(), int(tensors.pop("crystals"))
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read ({' '.join(str(error).split())}); remove it and train again"
        ) from None
    if crystals != n:
        raise WeightsError(
            f"{path} was learned from {crystals} crystals, not from {n}; give the same data to resume, or choose "
            "another directory"
        )
    return PrototypeLibrary({name: tensors[name] for name in (*FIELDS, *OPTIONAL_FIELDS) if name in tensors}), owner


def reference_weights(table: CrystalTable, reference: str) -> np.ndarray:
    """1 for the rows that ``"COLUMN=VALUE,VALUE"`` names, 0 for the others, ``[n]`` uint8.

    Raises:
        RequestError: no such column, or no row with such a value.
    """
    column, equals, values = reference.partition("=")
    if not equals or column not in table.labels:
        raise RequestError(
            f"--reference {reference} names no column; give COLUMN=VALUE,VALUE with one of "
            f"{', '.join(map(str, table.labels)) or 'none'}"
        )
    found = table.labels[column].astype(str).isin(values.split(",")).to_numpy()
    if not found.any():
        raise RequestError(f"--reference {reference} names no row; give values of column {column!r}")
    return found.astype(np.uint8)
