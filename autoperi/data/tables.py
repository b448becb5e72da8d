"""Crystals as arrays with labels: :class:`CrystalTable`, read from Parquet and CDVAE-style CSV, written as Parquet.

:mod:`autoperi.data.io` opens the files, checks the limit and explains what goes wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.files import plain
from autoperi.data.formats import read_cif
from autoperi.errors import DataError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from autoperi.data.convert import Crystal
    from autoperi.data.crystal import CrystalBatch

_ID_COLUMNS = ("material_id", "id")
_CRYSTAL_COLUMNS = ("lattice", "frac_coords", "atomic_numbers")
DERIVED_COLUMNS = ("formula", "n_atoms")
"""Columns that describe the crystal itself; they are labels of the table but no properties of a structure."""


@dataclass(frozen=True, eq=False)
class CrystalTable:
    """n crystals as arrays, with their labels; far lighter than n ``Structure`` objects.

    Attributes:
        lattice: rows a, b, c in Å, ``[n, 3, 3]``.
        frac_coords: fractional coordinates of each crystal as the file gives them, ``[n_atoms, 3]`` each.
        atomic_numbers: of each crystal, ``[n_atoms]`` each.
        ids: one name for each crystal; its row number where the file has none.
        labels: the remaining columns, one row for each crystal, missing labels null.
    """

    lattice: NDArray[np.float64]
    frac_coords: list[NDArray[np.float64]]
    atomic_numbers: list[NDArray[np.int64]]
    ids: list[str]
    labels: pd.DataFrame

    def __post_init__(self) -> None:
        counts = {len(self.lattice), len(self.frac_coords), len(self.atomic_numbers), len(self.ids), len(self.labels)}
        if len(counts) != 1 or self.lattice.shape[1:] != (3, 3):
            raise DataError(
                f"the columns of a table have lengths {sorted(counts)}; give one entry a crystal and lattices as [n, "
                "3, 3]"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> CrystalTable:
        """The chosen rows (a slice, positions, or a boolean mask) as a table."""
        chosen = np.arange(len(self))[
            rows if isinstance(rows, slice) else np.asarray(rows if len(rows) else np.zeros(0, int))
        ]
        return CrystalTable(
            self.lattice[chosen],
            [self.frac_coords[i] for i in chosen],
            [self.atomic_numbers[i] for i in chosen],
            [self.ids[i] for i in chosen],
            self.labels.iloc[chosen].reset_index(drop=True),
        )

    @classmethod
    def from_structures(cls, structures: Sequence[Crystal]) -> CrystalTable:
        """A table of crystals; ``properties`` (or ``info``) ``id`` or ``material_id`` names them, the others become
        labels.

        Raises:
            StructureError: a crystal that no model can read; see :func:`autoperi.data.convert.to_arrays`.
        """
        import pandas as pd

        from autoperi.data.convert import kind_of, to_arrays

        arrays = [to_arrays(s, name=f"crystal {i}") for i, s in enumerate(structures)]
        rows = [dict(s.properties if kind_of(s) == "structure" else s.info) for s in structures]
        ids = [str(next((row[k] for k in _ID_COLUMNS if row.get(k) is not None), i)) for i, row in enumerate(rows)]
        labels = pd.DataFrame(rows, index=range(len(rows))).drop(
            columns=[*_ID_COLUMNS, *_CRYSTAL_COLUMNS], errors="ignore"
        )
        lattice = np.array([a[0] for a in arrays], dtype=np.float64).reshape(-1, 3, 3)
        return cls(lattice, [a[1] for a in arrays], [a[2] for a in arrays], ids, labels)

    def batch(self, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> CrystalBatch:
        """All crystals as one batch (float32 unless told), coordinates wrapped into [0, 1).

        Raises:
            StructureError: a crystal without geometry; the message names its row.
        """
        import torch

        from autoperi.data.convert import batch_arrays

        return batch_arrays(
            self.lattice, self.frac_coords, self.atomic_numbers, dtype=dtype or torch.float32, device=device
        )

    def structures(self) -> list[Structure]:
        """pymatgen structures with ``id`` and the labels that are not null as ``.properties``."""
        from autoperi.data.convert import arrays_to_structures

        labels = self.labels.drop(columns=list(DERIVED_COLUMNS), errors="ignore")
        properties: list[dict[str, Any]] = [{"id": name} for name in self.ids]
        for column, values in labels.items():
            for row, value in zip(properties, values, strict=True):
                if not _is_null(value):
                    row[str(column)] = value
        crystals = list(zip(self.lattice, self.frac_coords, self.atomic_numbers, strict=True))
        return arrays_to_structures(crystals, properties=properties)


def read_parquet(path: Path, limit: int | None) -> CrystalTable:
    """The first ``limit`` rows of a Parquet file, all where it is None; :func:`autoperi.data.io.read_table` says which
    columns it needs.

    Raises:
        DataError: columns that are missing, or a row that is not what they should hold; the message names it.
    """
    from pyarrow.dataset import dataset

    data = dataset(path, format="parquet")
    names = data.schema.names
    missing = [c for c in _CRYSTAL_COLUMNS if c not in names]
    if missing and "cif" not in names:
        raise DataError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(names)}")
    table = data.to_table() if limit is None else data.head(limit)
    if missing:
        return _table_of_cifs(table.to_pandas(ignore_metadata=True), path)
    (lattice, nines), (coords, triples), (numbers, counts) = (_flat_column(table, c, path) for c in _CRYSTAL_COLUMNS)
    for wrong, what in (
        (nines != 9, "a lattice without 9 numbers"),
        (triples != 3 * counts, "not 3 coordinates for each atom"),
    ):
        if wrong.any():
            raise DataError(
                f"{path}: row {int(np.flatnonzero(wrong)[0])} has {what}; write rows a, b, c and x, y, z of each atom"
            )
    rows = [slice(end - count, end) for end, count in zip(np.cumsum(counts), counts, strict=True)]
    coords, numbers = coords.astype(np.float64).reshape(-1, 3), numbers.astype(np.int64)
    return CrystalTable(
        lattice.astype(np.float64).reshape(-1, 3, 3),
        [coords[row] for row in rows],
        [numbers[row] for row in rows],
        *_take_ids(table.drop_columns(list(_CRYSTAL_COLUMNS)).to_pandas(ignore_metadata=True)),
    )


def read_csv(path: Path, limit: int | None) -> CrystalTable:
    """The first ``limit`` rows of a CSV file with a column ``cif``, all where it is None.

    Raises:
        DataError: an empty file, no such column, or a CIF that cannot be read; the message names its row.
    """
    import pandas as pd

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give a table with a column cif")
    names = dict.fromkeys(_ID_COLUMNS, str)  # "007" is a name, not a number
    return _table_of_cifs(pd.read_csv(path, nrows=limit, dtype=names), path)


def parquet_bytes(structures: list[Structure]) -> bytes:
    """A Parquet file of structures, see :func:`table_bytes`."""
    table = CrystalTable.from_structures(structures)
    return table_bytes(table, [s.composition.reduced_formula for s in structures])


def table_bytes(table: CrystalTable, formulas: Sequence[str]) -> bytes:
    """A Parquet file of crystals and their reduced formulas; labels that are nested or of several types travel as JSON
    text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": table.ids,
        "formula": list(formulas),
        "n_atoms": [len(z) for z in table.atomic_numbers],
        "lattice": list(table.lattice.reshape(-1, 9)),
        "frac_coords": [x.reshape(-1) for x in table.frac_coords],
        "atomic_numbers": [z.astype(np.uint8) for z in table.atomic_numbers],
    }
    for name in table.labels:
        if table.labels[name].dtype.kind in "biuf":  # one type, whatever is missing
            columns.setdefault(str(name), pa.array(table.labels[name], from_pandas=True))
            continue
        values = [None if _is_null(v) else plain(v) for v in table.labels[name]]
        # Parquet knows one type a column: what is nested or mixed travels as JSON text.
        kinds = {type(v) for v in values if v is not None}
        simple = kinds <= {int, float} or kinds in ({bool}, {str})
        columns.setdefault(
            str(name),
            values if simple and name != "autoperi" else [None if v is None else json.dumps(v) for v in values],
        )
    buffer = BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def _flat_column(table: Any, name: str, path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All numbers of a column of (possibly nested) lists, and how many each row has."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    column = table.column(name)
    if not (pt.is_list(column.type) or pt.is_large_list(column.type) or pt.is_fixed_size_list(column.type)):
        if not len(column):
            raise DataError(f"{path} has no rows; give a table with at least one crystal")
        raise DataError(f"{path}: column {name} holds {column.type}; write a list of numbers in each row")
    if column.null_count:
        raise DataError(
            f"{path}: row {column.is_null().to_pylist().index(True)} has no {name}; remove it or fill it in"
        )
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    values = pc.list_flatten(column)
    if pt.is_nested(values.type):  # [[x, y, z], ...]
        lengths, values = 3 * lengths, pc.list_flatten(values)
    if (
        values.null_count
        or not (pt.is_integer(values.type) or pt.is_floating(values.type))
        or len(values) != lengths.sum()
    ):
        raise DataError(f"{path}: column {name} holds something else than numbers; write a list of numbers in each row")
    return values.to_numpy(), lengths


def _table_of_cifs(frame: pd.DataFrame, path: Path) -> CrystalTable:
    if "cif" not in frame:
        raise DataError(f"{path} has no column cif; its columns are {', '.join(map(str, frame.columns))}")
    ids, labels = _take_ids(
        frame.drop(columns=[c for c in frame.columns if c == "cif" or str(c).startswith("Unnamed:")])
    )
    structures = []
    for i, text in enumerate(frame["cif"]):
        try:
            structures.append(read_cif(text, 1)[0])
        except Exception as error:
            raise DataError(
                f"{path}: row {i} ({ids[i]}) has a cif that cannot be read: {one_line(error)}; remove or mend it"
            ) from error
    return replace(CrystalTable.from_structures(structures), ids=ids, labels=labels)


def _take_ids(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Names of the rows and the other columns; provenance back from text."""
    column = next((c for c in _ID_COLUMNS if c in frame), None)
    values = frame[column] if column else range(len(frame))
    ids = [str(i) if _is_null(v) else str(v) for i, v in enumerate(values)]
    frame = frame.drop(columns=[column] if column else []).reset_index(drop=True)
    if "autoperi" in frame:
        frame["autoperi"] = [json.loads(v) if isinstance(v, str) else v for v in frame["autoperi"]]
    return ids, frame


def _is_null(value: object) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
