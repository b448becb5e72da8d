"""What a table of crystals holds: counts, sizes, elements, space groups, columns and where the rows come from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from autoperi.data.elements import symbol_of
from autoperi.data.tables import DERIVED_COLUMNS, CrystalTable
from autoperi.errors import StructureError
from autoperi.metrics.pairs import composition_key
from autoperi.progress import progress_bar
from autoperi.symmetry.analysis import SYMPREC, analyse

SAID = ("source", "licence", "origin", "split", "run_type", "correction_fit")
"""Columns of words whose values are counted."""


def contents(table: CrystalTable, *, symprec: float = SYMPREC, progress: bool | None = None) -> dict[str, Any]:
    """A summary of a table.

    Args:
        table: crystals with labels.
        symprec: Å, at which space groups are found where the table has no column ``space_group``.
        progress: show a bar; None shows it on a terminal.

    Returns:
        ``crystals``; ``formulas``, how many different ones; ``atoms``, ``volume_per_atom_A3`` and
        ``elements_per_crystal`` with least, median and most; ``elements`` and ``space_groups``, each with its number of
        crystals, most first; ``space_groups_from``; ``columns``, of each label how many rows have it and, of numbers,
        least, median and most; and the words of ``source``, ``licence`` and the like.
    """
    sizes = np.array([len(z) for z in table.atomic_numbers])
    volumes = np.abs(np.linalg.det(table.lattice)) / sizes
    members = [np.unique(z) for z in table.atomic_numbers]
    elements = Counter(symbol_of(int(z)) for zs in members for z in zs)
    groups, origin = _groups(table, symprec, progress)
    return {
        "crystals": len(table),
        "formulas": len({composition_key(z) for z in table.atomic_numbers}),
        "atoms": _range(sizes),
        "volume_per_atom_A3": _range(volumes),
        "elements_per_crystal": _range(np.array([len(zs) for zs in members])),
        "elements": dict(elements.most_common()),
        "space_groups": {"unknown" if g is None else str(g): n for g, n in Counter(groups).most_common()},
        "space_groups_from": origin,
        "columns": {str(name): _column(table.labels[name]) for name in table.labels if name not in DERIVED_COLUMNS},
        **{
            name: {str(k): int(n) for k, n in table.labels[name].value_counts().items()}
            for name in SAID
            if name in table.labels
        },
    }


def _groups(table: CrystalTable, symprec: float, progress: bool | None) -> tuple[list[Any], str]:
    """The space group of each crystal, None where none is found, and where that is known from."""
    if "space_group" in table.labels:
        import pandas as pd

        column = pd.to_numeric(table.labels["space_group"], errors="coerce")
        return [None if v != v else int(v) for v in column], "the column space_group"
    found: list[Any] = []
    with progress_bar(len(table), enabled=progress, description="space groups") as bar:
        for crystal in zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True):
            try:
                found.append(analyse(*crystal, symprec=symprec).number)
            except StructureError:
                found.append(None)
            bar.update()
    return found, f"spglib at {symprec} Å"


def _range(values: Any) -> dict[str, float]:
    numbers = np.asarray(values, dtype=np.float64)
    return {"least": float(numbers.min()), "median": float(np.median(numbers)), "most": float(numbers.max())}


def _column(column: Any) -> dict[str, Any]:
    there = column.dropna()
    numeric = there.dtype.kind in "iuf" and len(there)
    return {"rows": len(there), **(_range(there) if numeric else {})}
