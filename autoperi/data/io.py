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
from pathlib import Path
from typing import TYPE_CHECKING

from autoperi.data.checks import whole_number
from autoperi.data.files import (
    READABLE,
    check_exists,
    crystal_target,
    explained,
    format_of,
    write_atomically,
)
from autoperi.data.formats import (
    cif_text,
    crystal_filename,
    extxyz_text,
    json_text,
    poscar_text,
    read_cif,
    read_extxyz,
    read_json,
    read_poscar,
)
from autoperi.data.tables import CrystalTable, parquet_bytes, read_csv, read_parquet
from autoperi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pymatgen.core import Structure

    from autoperi.data.convert import Crystal

_IN_FOLDER = ("cif", "poscar", "extxyz")
EXTXYZ, SUMMARY = "generated.extxyz", "summary.json"
"""What ``autoperi generate --out DIR`` writes beside the CIFs."""
STREAM, SHARD = "stream.json", "crystals-{:08d}.{}"
"""What ``autoperi generate --stream --out DIR`` writes: the record, and shards by number and format."""


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
    with explained(path, "read"):
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
    of it; of a stream the shards that ``stream.json`` names, which may be Parquet.

    Raises:
        DataError: ``stream.json`` cannot be read.
    """
    folder = Path(folder)
    if (folder / STREAM).is_file():
        with explained(folder / STREAM, "read"):
            shards = json.loads((folder / STREAM).read_text(encoding="utf-8"))["shards"]
            return [folder / shard["file"] for shard in shards if shard["file"] is not None]
    if (folder / SUMMARY).is_file() and (folder / EXTXYZ).is_file():
        return [folder / EXTXYZ]
    return sorted(
        p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and format_of(p) in _IN_FOLDER
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
    with explained(path, "read"):
        kind = None if path.is_dir() else _known_format(path)
        if kind == "parquet":
            table = read_parquet(path, limit)
        elif kind == "csv":
            table = read_csv(path, limit)
        else:
            table = CrystalTable.from_structures(read_crystals(path, limit=limit))
        if len(table) == 0:
            raise DataError(f"{path} has no rows; give a table of at least one crystal")
        table.batch()  # says which row has no geometry
    return table


def write_crystals(crystals: Crystal | Iterable[Crystal], path: str | os.PathLike[str]) -> list[Path]:
    """Write crystals to a file by its suffix, or as one CIF each into a folder; returns the paths written.

    A path that is a folder, ends with a separator or has no suffix means a folder; missing folders are made. Every file
    is whole or as it was.

    Raises:
        DataError: nothing to write, an unknown suffix, a place that cannot be written, several crystals for one POSCAR.
        StructureError: a crystal that the format cannot hold, such as a disordered one in extended XYZ.
    """
    from autoperi.data.convert import as_list, as_structure

    structures = [as_structure(c, name=f"crystal {i}") for i, c in enumerate(as_list(crystals))]
    if not structures:
        raise DataError(f"there are no crystals to write to {path}; give at least one")
    target, kind = Path(path), crystal_target(path, n=len(structures))
    if kind == "folder":
        with explained(target, "written"):
            files = [(target / crystal_filename(s, i), cif_text([s])) for i, s in enumerate(structures, start=1)]
        return [write_atomically(file, text) for file, text in files]
    writers: dict[str, Callable[[list[Structure]], str | bytes]] = {
        "cif": cif_text,
        "extxyz": extxyz_text,
        "json": json_text,
        "poscar": poscar_text,
        "parquet": parquet_bytes,
    }
    with explained(target, "written"):
        content = writers[kind](structures)
    return [write_atomically(target, content)]


def _known_format(path: Path) -> str:
    check_exists(path)
    kind = format_of(path)
    if kind is None:
        raise DataError(
            f"{path} has the suffix {path.suffix!r}; crystals are read from {', '.join(READABLE)}, POSCAR or a folder"
        )
    return kind


def _check_limit(limit: int | None) -> None:
    if limit is not None:
        refusal = "is not a positive integer; leave it out to read everything"
        whole_number(limit, "limit", refusal=refusal, error=DataError)
