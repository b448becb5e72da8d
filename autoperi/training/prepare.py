"""From tables of crystals and options to what a training run takes, refusing what it could not use before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.data.io import CrystalTable, read_table
from autoperi.errors import DataError, RequestError
from autoperi.training.data import TensorCrystals

LABEL = "formation_energy_per_atom"
ORIGIN = "label_origin"
"""Column that says where a label comes from where it is not computed as the others are."""
FOREIGN_WEIGHT = 0.3
"""Weight of such a label in the loss; 1 elsewhere."""
SETTINGS_FILE = "training.json"
PROGRESS_FILES = ("last.ckpt", "library.safetensors")


def training_crystals(
    path: str | Path, *, label: str = LABEL, required: bool = True, max_atoms: int | None = None
) -> TensorCrystals:
    """Crystals and labels of a file, see :func:`tensor_crystals`.

    Raises:
        DataError: as :func:`autoperi.data.io.read_table` and :func:`tensor_crystals`.
    """
    return tensor_crystals(read_table(path), label=label, required=required, max_atoms=max_atoms, source=str(path))


def tensor_crystals(
    table: CrystalTable,
    *,
    label: str = LABEL,
    required: bool = True,
    max_atoms: int | None = None,
    source: str = "the table",
) -> TensorCrystals:
    """A table as float32 tensors with the labels ``formation_energy_per_atom`` (eV/atom, NaN where missing) and
    ``label_weight``.

    A label weighs 1, or :data:`FOREIGN_WEIGHT` where the column :data:`ORIGIN` is not null.

    Args:
        table: crystals with labels.
        label: column of the formation energy.
        required: refuse a table without a single label.
        max_atoms: leave out larger crystals.
        source: name of the table in messages.

    Raises:
        DataError: no such column, something else than numbers in it, no label, or no crystal left.
    """
    table = at_most(table, max_atoms, source)
    energy = torch.full((len(table),), float("nan"))
    if label in table.labels:
        try:
            values = table.labels[label].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise DataError(
                f"column {label!r} of {source} holds something else than numbers; give energies in eV/atom"
            ) from None
        energy = torch.as_tensor(np.where(np.isfinite(values), values, np.nan).astype(np.float32))
    elif required:
        raise DataError(
            f"{source} has no column {label!r}; its labels are {', '.join(map(str, table.labels)) or 'none'}: name "
            "one as label"
        )
    if required and not bool(torch.isfinite(energy).any()):
        raise DataError(f"column {label!r} of {source} has no value; give energies in eV/atom")
    foreign = table.labels[ORIGIN].notna().to_numpy() if ORIGIN in table.labels else np.zeros(len(table), bool)
    weight = torch.as_tensor(np.where(foreign, FOREIGN_WEIGHT, 1.0).astype(np.float32))
    crystals: CrystalBatch = table.batch()
    return TensorCrystals(crystals, {LABEL: energy, "label_weight": weight})


def at_most(table: CrystalTable, max_atoms: int | None, source: str) -> CrystalTable:
    """The crystals of at most ``max_atoms`` atoms, all where it is None; ``source`` is what an error calls the table.

    Raises:
        DataError: there are none.
    """
    if max_atoms is not None:
        table = table[np.array([len(numbers) <= max_atoms for numbers in table.atomic_numbers])]
        if len(table) == 0:
            raise DataError(f"{source} has no crystal of at most {max_atoms} atoms; allow more, or give other data")
    return table


def run_settings(
    given: Mapping[str, Any], defaults: Mapping[str, Any], *, directory: str | Path, resume: bool
) -> dict[str, Any]:
    """The settings of a run: those given, else those of the run that is resumed, else the defaults; settings that are
    mappings entry by entry.

    Args:
        given: settings, None where nothing was said.
        defaults: of every setting.
        directory: where the run keeps its checkpoints.
        resume: go on with the run in ``directory``.

    Raises:
        DataError: a run is there already and ``resume`` is False, or its record is damaged.
        RequestError: a setting other than the number of epochs differs from that of the run that is resumed.
    """
    folder = Path(directory)
    said = {key: value for key, value in given.items() if value is not None}
    if not resume and any((folder / name).exists() for name in PROGRESS_FILES):
        raise DataError(f"{folder} holds an earlier run; go on with it (--resume), or choose another directory")
    record = folder / SETTINGS_FILE
    if not resume or not record.exists():
        return _merged(defaults, said)
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
        # an earlier run may not have recorded options that had their defaults
        kept = _merged(defaults, {key: stored[key] for key in defaults if key in stored})
        kept = {key: value for key, value in kept.items() if key in stored}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{record} cannot be read ({' '.join(str(error).split())}); choose another directory") from None
    for key, value, old in _changes(said, kept):
        if key != "epochs":
            raise RequestError(
                f"{key}={value!r} differs from {old!r} of the run in {folder}; resume with its own settings, or "
                "choose another directory"
            )
    return _merged({**defaults, **kept}, said)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {**old, **{k: {**(old.get(k) or {}), **v} if isinstance(v, Mapping) else v for k, v in new.items()}}


def _changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, new, old) of what differs, inside ``model_config`` too."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            yield from _changes(value, old.get(key) or {})
        elif key in old and old[key] != value:
            yield key, value, old[key]
