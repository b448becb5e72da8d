"""Reading and writing crystals: Parquet, CDVAE-style CSV, CIF, POSCAR, extended XYZ and pymatgen JSON.

======================  ====  =====  =================================================================================
format                  read  write  what it keeps
======================  ====  =====  =================================================================================
``.json``               yes   yes    all of a ``Structure``, bit for bit (a list of pymatgen dicts, or one)
``.extxyz``, ``.xyz``   yes   yes    positions to 1e-8 Å, per-site values to 1e-8, ``.properties``
``.parquet``            yes   yes    cell and coordinates bit for bit, numbers and words of ``.properties``, provenance
``.csv``                yes   no     column ``cif``, optionally ``material_id``; the other columns are labels
``.cif``                yes   yes    cell parameters and coordinates to eight digits, sites sorted by element
``POSCAR``, ``.vasp``   yes   yes    one crystal, selective dynamics
======================  ====  =====  =================================================================================

Provenance, ``.properties["autoperi"]``, survives JSON, extended XYZ and Parquet. Every file is written beside its
target and then moved over it, so that no reader ever finds half of one.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.formats import (
    cif_text,
    crystal_filename,
    extxyz_text,
    json_text,
    plain,
    poscar_text,
    read_cif,
    read_extxyz,
    read_json,
    read_poscar,
)
from autoperi.errors import AutoPeriError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from autoperi.data.convert import Crystal
    from autoperi.data.crystal import CrystalBatch

READABLE = (".parquet", ".csv", ".cif", ".vasp", ".extxyz", ".xyz", ".json")
WRITABLE = (".cif", ".extxyz", ".xyz", ".json", ".vasp", ".parquet")
_FORMATS = {**{suffix: suffix[1:] for suffix in READABLE}, ".xyz": "extxyz", ".vasp": "poscar"}
_IN_FOLDER = ("cif", "poscar", "extxyz")
EXTXYZ, SUMMARY = "generated.extxyz", "summary.json"
"""What ``autoperi generate --out DIR`` writes beside the CIFs."""
_ID_COLUMNS = ("material_id", "id")
_CRYSTAL_COLUMNS = ("lattice", "frac_coords", "atomic_numbers")
_DERIVED_COLUMNS = ("formula", "n_atoms")
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

        labels = self.labels.drop(columns=list(_DERIVED_COLUMNS), errors="ignore")
        rows = (
            labels.to_dict("records") if len(labels.columns) else [{}] * len(self)
        )  # pandas 2 has no records without columns
        properties = [
            {"id": name, **{str(k): v for k, v in row.items() if not _is_null(v)}}
            for name, row in zip(self.ids, rows, strict=True)
        ]
        return arrays_to_structures(
            list(zip(self.lattice, self.frac_coords, self.atomic_numbers, strict=True)), properties=properties
        )


def read_crystals(path: str | os.PathLike[str], *, limit: int | None = None) -> list[Structure]:
    """Crystals of a file, or of all CIF, POSCAR and extended XYZ files within a folder (sorted by name), at most
    ``limit``.

    Labels come as ``.properties``. A file may hold disordered crystals; they are refused where a model would read them.

    Raises:
        DataError: no such file, nothing in it, an unknown suffix, content that cannot be read, columns that are
        missing.
    """
    path = Path(path)
    _check_limit(limit)
    with _explained(path, "read"):
        if path.is_dir():
            found: list[Structure] = []
            for file in crystal_files(path):
                if limit is None or len(found) < limit:
                    found += read_crystals(file, limit=None if limit is None else limit - len(found))
            if not found:
                raise DataError(
                    f"{path} holds no CIF, POSCAR or extended XYZ file; name the file if it is a table or JSON"
                )
            return found
        kind = _known_format(path)
        if kind in ("parquet", "csv"):
            return read_table(path, limit=limit).structures()
        readers = {"cif": read_cif, "poscar": read_poscar, "extxyz": read_extxyz, "json": read_json}
        text = path.read_text(encoding="utf-8-sig", errors="strict" if kind == "json" else "replace")
        if not text.strip():
            raise DataError(f"{path} is empty; give a file that holds at least one crystal")
        return readers[kind](text, limit)


def crystal_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder that hold crystals, sorted by name: CIF, POSCAR and extended XYZ.

    What ``generate --out DIR`` wrote holds each crystal twice: of such a folder only the extended XYZ, which knows more
    of it.
    """
    folder = Path(folder)
    if (folder / SUMMARY).is_file() and (folder / EXTXYZ).is_file():
        return [folder / EXTXYZ]
    return sorted(
        p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and _format(p) in _IN_FOLDER
    )


def read_table(path: str | os.PathLike[str], *, limit: int | None = None) -> CrystalTable:
    """Crystals of a file or folder as arrays and labels, at most ``limit``; the fast way for tables of many rows.

    Parquet needs the columns ``lattice`` (9 numbers, rows a, b, c, Å), ``frac_coords`` (3 n numbers) and
    ``atomic_numbers``, or ``cif``; CSV needs ``cif``. ``material_id`` or ``id`` names the crystals; every other column
    is a label.

    Raises:
        DataError: as :func:`read_crystals`, and a crystal that no model can read (the message names its row).
    """
    path = Path(path)
    _check_limit(limit)
    with _explained(path, "read"):
        kind = None if path.is_dir() else _known_format(path)
        if kind == "parquet":
            table = _read_parquet(path, limit)
        elif kind == "csv":
            import pandas as pd

            if path.stat().st_size == 0:
                raise DataError(f"{path} is empty; give a table with a column cif")
            names = dict.fromkeys(_ID_COLUMNS, str)  # "007" is a name, not a number
            table = _table_of_cifs(pd.read_csv(path, nrows=limit, dtype=names), path)
        else:
            table = CrystalTable.from_structures(read_crystals(path, limit=limit))
        if len(table) == 0:
            raise DataError(f"{path} has no rows; give a table of at least one crystal")
        table.batch()  # says which row has no geometry
    return table


def write_crystals(crystals: Crystal | Iterable[Crystal], path: str | os.PathLike[str]) -> list[Path]:
    """Write crystals to a file by its suffix, or as one CIF each into a folder; returns the paths written.

    A path that is a folder, ends with a separator or has no suffix means a folder; missing folders are made.

    Raises:
        DataError: nothing to write, an unknown suffix, a place that cannot be written, several crystals for one POSCAR.
        StructureError: a crystal that the format cannot hold, such as a disordered one in extended XYZ.
    """
    from autoperi.data.convert import as_list, as_structure

    structures = [as_structure(c, name=f"crystal {i}") for i, c in enumerate(as_list(crystals))]
    if not structures:
        raise DataError(f"there are no crystals to write to {path}; give at least one")
    target, kind = Path(path), _format(Path(path))
    with _explained(target, "written"):
        is_folder = target.is_dir() or os.fspath(path).endswith(("/", os.sep)) or (kind is None and not target.suffix)
    if is_folder:
        with _explained(target, "written"):
            files = [(target / crystal_filename(s, i), cif_text([s])) for i, s in enumerate(structures, start=1)]
        return [write_atomically(file, text) for file, text in files]
    writers: dict[str | None, Callable[[list[Structure]], str | bytes]] = {
        "cif": cif_text,
        "extxyz": extxyz_text,
        "json": json_text,
        "poscar": poscar_text,
        "parquet": _parquet_bytes,
    }
    if kind not in writers:
        raise DataError(
            f"{target} has the suffix {target.suffix!r}; crystals can be written as {', '.join(WRITABLE)}, POSCAR or "
            "to a folder"
        )
    if kind == "poscar" and len(structures) > 1:
        raise DataError(f"a POSCAR holds one crystal, not {len(structures)}; write .extxyz, or CIFs into a folder")
    with _explained(target, "written"):
        content = writers[kind](structures)
    return [write_atomically(target, content)]


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` (text as UTF-8) so that ``path`` holds either all of it or what it held before; makes missing
    folders.

    Raises:
        DataError: the place cannot be written.
    """
    path = Path(path)
    with _explained(path, "written"):
        target = path.resolve()  # a link stays a link
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, target)  # noqa: PTH105
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    return path


def _format(path: Path) -> str | None:
    kind = _FORMATS.get(path.suffix.lower())
    return "poscar" if kind is None and path.name.upper().startswith(("POSCAR", "CONTCAR")) else kind


def check_exists(path: Path) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        DataError: naming it.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")


def _known_format(path: Path) -> str:
    check_exists(path)
    kind = _format(path)
    if kind is None:
        raise DataError(
            f"{path} has the suffix {path.suffix!r}; crystals are read from {', '.join(READABLE)}, POSCAR or a folder"
        )
    return kind


def _check_limit(limit: int | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1):
        raise DataError(f"limit={limit!r} is not a positive integer; leave it out to read everything")


@contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn what goes wrong with a file into one line."""
    try:
        yield
    except AutoPeriError as error:
        if verb == "written" or str(error).startswith(str(path)):
            raise
        raise DataError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be {verb}: permission denied; choose a place that is yours") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path} cannot be {verb}: {reason}; check the path, and that the content is what the name says"
        ) from error


def _is_null(value: object) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


# ---- tables
# -----------------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, limit: int | None) -> CrystalTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    missing = [c for c in _CRYSTAL_COLUMNS if c not in names]
    if missing and "cif" not in names:
        raise DataError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(names)}")
    if limit is None:
        table = file.read()
    else:  # do not read a million rows to give back ten
        batches, rows = [], 0
        for batch in file.iter_batches(batch_size=limit):
            batches.append(batch)
            rows += batch.num_rows
            if rows >= limit:
                break
        table = pa.Table.from_batches(batches, schema=file.schema_arrow).slice(0, limit)
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
    ends = np.cumsum(counts)[:-1]
    labels = table.drop_columns(list(_CRYSTAL_COLUMNS)).to_pandas(ignore_metadata=True)
    ids, labels = _take_ids(labels)
    return CrystalTable(
        lattice.astype(np.float64).reshape(-1, 3, 3),
        np.split(coords.astype(np.float64).reshape(-1, 3), ends) if len(counts) else [],
        np.split(numbers.astype(np.int64), ends) if len(counts) else [],
        ids,
        labels,
    )


def _flat_column(table: Any, name: str, path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All numbers of a column of (possibly nested) lists, and how many each row has."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    column = table.column(name)
    if not (pt.is_list(column.type) or pt.is_large_list(column.type) or pt.is_fixed_size_list(column.type)):
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
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{path}: row {i} ({ids[i]}) has a cif that cannot be read: {reason}; remove or mend it"
            ) from error
    table = CrystalTable.from_structures(structures)
    return CrystalTable(table.lattice, table.frac_coords, table.atomic_numbers, ids, labels)


def _take_ids(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Names of the rows and the other columns; provenance back from text."""
    column = next((c for c in _ID_COLUMNS if c in frame), None)
    values = frame[column] if column else range(len(frame))
    ids = [str(i) if _is_null(v) else str(v) for i, v in enumerate(values)]
    frame = frame.drop(columns=[column] if column else []).reset_index(drop=True)
    if "autoperi" in frame:
        frame["autoperi"] = [json.loads(v) if isinstance(v, str) else v for v in frame["autoperi"]]
    return ids, frame


def _parquet_bytes(structures: list[Structure]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = CrystalTable.from_structures(structures)
    columns = {
        "id": table.ids,
        "formula": [s.composition.reduced_formula for s in structures],
        "n_atoms": [len(z) for z in table.atomic_numbers],
        "lattice": list(table.lattice.reshape(-1, 9)),
        "frac_coords": [x.reshape(-1) for x in table.frac_coords],
        "atomic_numbers": [z.astype(np.uint8) for z in table.atomic_numbers],
    }
    for name in table.labels:
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
