"""Files that people have, read into rows: answers of providers, tables, ASE databases and folders of CIFs.

What a file is, is seen from its content. Each entry stands alone: one that no model can read is refused by name and
reason, and the others are kept.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.checks import whole_number
from autoperi.data.files import check_exists, check_writable, explained, format_of
from autoperi.data.formats import read_cif
from autoperi.data.io import crystal_files, read_crystals
from autoperi.data.sources.documents import FORMS, SOURCES, Made, ase_row, cif, form_of, id_of, mapping, scalars
from autoperi.data.sources.rows import Refusal, Row, collect, row_of, within, write
from autoperi.errors import DataError, RequestError, one_line
from autoperi.progress import progress_bar

if TYPE_CHECKING:
    from autoperi.data.tables import CrystalTable

_PER_CELL = {"e_form": "e_form_per_cell_eV"}
"""Of ``castelli_perovskites`` and ``matbench_perovskites``, whose ``e_form`` is no energy an atom."""
ANSWERS = "answers.jsonl"
"""What a fetch keeps in its folder: a line that says what was asked, then one answer of the provider a line."""
FORMATS = (
    "a folder of CIF, POSCAR or extended XYZ files, .cif, .csv with a column cif (CDVAE), .json and .jsonl of "
    "Materials Project, OQMD, OPTIMADE, matbench, matminer or pymatgen, an ASE database (.db), .parquet, .extxyz, or "
    "the folder of a fetch"
)
"""What can be imported, for messages and help."""


@dataclass(frozen=True)
class Found:
    """What a file holds.

    Attributes:
        kind: what it is, in words.
        rows: the entries, each a row or a refusal.
        provenance: columns that all rows share.
    """

    kind: str
    rows: Iterable[Row | Refusal]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def import_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    licence: str | None = None,
    max_atoms: int | None = None,
    volume: tuple[float, float] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write the crystals of files and folders as one Parquet table, and what was refused beside it.

    Args:
        paths: each one of :data:`FORMATS`; an id that came before is refused as a duplicate.
        out: the table, ``.parquet``.
        licence: of the data; None is what the file or the source says.
        max_atoms: refuse larger crystals.
        volume: refuse crystals out of this range of Å³ an atom.
        progress: show a bar; None shows it on a terminal.

    Returns:
        ``format``, ``entries`` and what :func:`autoperi.data.sources.rows.write` says.

    Raises:
        RequestError: limits that are none.
        DataError: no such file, a format that is not known, no crystal in it, or a place that cannot be written.
    """
    target = Path(out)
    if target.suffix.lower() != ".parquet":
        raise DataError(f"{out} has the suffix {target.suffix!r}; a table of crystals is written as .parquet")
    check_writable(target)
    limits: dict[str, Any] = {"max_atoms": max_atoms, "volume": volume}
    if max_atoms is not None:
        whole_number(max_atoms, "max_atoms")
    if volume is not None and not 0 <= volume[0] < volume[1]:
        raise RequestError(f"volume={volume[0]:g}-{volume[1]:g} is no range; give Å³ an atom such as 4-150")
    kinds, table, refused = read_sources(paths, licence=licence, progress=progress, **limits)
    facts = write(table, refused, target)
    return {"format": ", ".join(dict.fromkeys(kinds)), "entries": len(table) + len(refused), **facts}


def read_sources(
    paths: Sequence[str | Path],
    *,
    licence: str | None = None,
    max_atoms: int | None = None,
    volume: tuple[float, float] | None = None,
    progress: bool | None = None,
) -> tuple[list[str], CrystalTable, list[Refusal]]:
    """What the files are, their crystals as a table, and what was refused; arguments as in :func:`import_files`.

    Raises:
        DataError: as :func:`import_files`.
    """
    for path in paths:
        check_exists(Path(path))
    kinds: list[str] = []

    def rows(bar: Any) -> Iterator[Row | Refusal]:
        for path in map(Path, paths):
            with explained(path, "read"):
                found = open_source(path)
                kinds.append(found.kind)
                empty = True
                for row in found.rows:
                    empty = False
                    yield within(_labelled(row, found.provenance), max_atoms=max_atoms, volume=volume)
                    bar.update()
                if empty:
                    raise DataError(f"it holds no entries; give {FORMATS}")

    with progress_bar(None, enabled=progress, description="reading", unit="entry") as bar:
        table, refused = collect(rows(bar))
    if licence is not None:
        table.labels["licence"] = licence
    return kinds, table, refused


def open_source(path: Path) -> Found:
    """What a file or folder holds, entry by entry.

    Raises:
        DataError: a format that is not known.
    """
    if path.is_dir():
        return _fetched(path / ANSWERS) if (path / ANSWERS).is_file() else _folder(path)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".json", ".jsonl")):
        return _json_lines(path) if name.endswith(".jsonl") else _json(path)
    if name.endswith(".csv"):
        return _csv(path)
    if name.endswith(".db"):
        return _ase_database(path)
    if name.endswith(".cif"):
        return Found("a CIF", _cif_rows(path.name[: len(name) - 4], _text(path)), {"source_file": path.name})
    if format_of(path) is None:
        raise DataError(f"{path} has the suffix {path.suffix!r}; give {FORMATS}")
    return Found("a table of crystals", _crystals(path, path.stem), {"source_file": path.name})


# ---- files of one crystal, and folders of them


def _text(path: Path) -> str:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    text = data.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise DataError("the file is empty")
    return text


def _folder(folder: Path) -> Found:
    files = [
        file for one in _folders(folder, set()) for file in (*crystal_files(one), *sorted(one.glob("[!.]*.cif.gz")))
    ]
    if not files:
        raise DataError(f"the folder holds no CIF, POSCAR or extended XYZ file; give {FORMATS}")
    return Found("a folder of crystals", chain.from_iterable(_file_of(file, folder) for file in files))


def _folders(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """A folder and those in it, each once: links may lead round in a circle."""
    if (real := folder.resolve()) not in seen:
        seen.add(real)
        yield folder
        for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            yield from _folders(inner, seen)


def _file_of(file: Path, folder: Path) -> Iterator[Row | Refusal]:
    inside = file.relative_to(folder).as_posix()
    name = re.sub(r"(?i)\.cif(\.gz)?$", "", inside)
    try:
        with explained(file, "read"):
            found = list(_cif_rows(name, _text(file)) if name != inside else _crystals(file, name))
    except DataError as error:
        found = [Refusal(name, "broken", one_line(error))]
    yield from (_labelled(row, {"source_file": inside}) for row in found)


def _cif_rows(name: str, text: str) -> Iterator[Row | Refusal]:
    """The crystal of a CIF with what COD says of it, or the crystals of its blocks where several hold one."""
    if len(re.findall(r"^\s*data_", text, flags=re.MULTILINE | re.IGNORECASE)) > 1:
        with suppress(Exception):  # which the first block by itself explains
            crystals = read_cif(text, None)
            if len(crystals) > 1:
                for k, crystal in enumerate(crystals, start=1):
                    yield row_of(f"{name}-{k}", partial(lambda c: (c, {}), crystal))
                return
    yield row_of(name, partial(cif, text))


def _labelled(row: Row | Refusal, labels: Mapping[str, Any]) -> Row | Refusal:
    """A row with labels where it has none of its own; a refusal with the file."""
    if isinstance(row, Row):
        return Row(row.id, row.arrays, {**{k: v for k, v in labels.items() if v is not None}, **row.labels})
    return replace(row, source_file=row.source_file or labels.get("source_file", ""))


def _crystals(file: Path, stem: str) -> Iterator[Row | Refusal]:
    """The crystals of a format that :func:`autoperi.data.io.read_crystals` knows."""
    for k, crystal in enumerate(read_crystals(file)):
        own = dict(crystal.properties)
        name = own.pop("id", own.pop("material_id", f"{stem}-{k}"))
        yield row_of(str(name), partial(lambda c, labels: (c, labels), crystal, scalars(own)))


# ---- documents


def rows_of(documents: Iterable[Any], stem: str, *, prefix: str = "") -> Iterator[Row | Refusal]:
    """A row or a refusal of each document, whatever its form.

    Args:
        documents: in one of the forms of :data:`~autoperi.data.sources.documents.FORMS`.
        stem: what documents without an id are called, with their place.
        prefix: of an OPTIMADE provider.
    """
    for k, document in enumerate(documents):
        form = form_of(document)
        make: Callable[[Any], Made] = FORMS[form] if form is not None else _no_form
        yield row_of(id_of(document, prefix=prefix) or f"{stem}-{k}", partial(make, document))


def _no_form(document: Any) -> Made:
    raise DataError(f"a {type(document).__name__} with {_keys(document)} is no crystal of a known form")


def _keys(document: Any) -> str:
    return f"the fields {', '.join(map(str, list(document)[:8]))}" if isinstance(document, Mapping) else "no fields"


def _found(documents: Iterable[Any], path: Path, provenance: Mapping[str, Any], *, prefix: str = "") -> Found:
    """Documents of a file, whose first ones say what they are."""
    if "perovskites" in path.name.lower():  # of Castelli et al. 2012: of the whole cell, and oxygen from water vapour
        documents = ({_PER_CELL.get(k, k): v for k, v in d.items()} if isinstance(d, dict) else d for d in documents)
    rest = iter(documents)
    first = list(islice(rest, 100))
    form = next(filter(None, map(form_of, first)), None)
    if first and form is None:
        raise DataError(f"the file begins with {_keys(first[0])}, which is no form of crystal; give {FORMATS}")
    rows = rows_of(chain(first, rest), path.name.split(".")[0], prefix=prefix)
    return Found(form or "no entries", rows, {"source_file": path.name, **provenance})


def unwrapped(answer: Any) -> tuple[list[Any], dict[str, Any], str]:
    """The documents of an answer or of a JSON file, what its ``meta`` says of the provider, and the provider's prefix.

    Lists, answers of REST services, tables as pandas writes them (matminer's JSON among them), and single documents.
    """
    if not isinstance(answer, Mapping):
        return (list(answer) if isinstance(answer, list) else [answer]), {}, ""
    data = answer.get("data")
    if "columns" in answer and isinstance(data, list):
        return [dict(zip(answer["columns"], row, strict=True)) for row in data], {}, ""
    if isinstance(data, (list, Mapping)) and form_of(answer) is None:
        meta = mapping(answer.get("meta"))
        provider = mapping(meta.get("provider"))
        facts = {"source": provider.get("name"), "source_version": meta.get("api_version")}
        if isinstance(stamp := meta.get("time_stamp"), str):
            facts["retrieved"] = stamp[:10]
        if "_oqmd_version" in mapping(mapping(mapping(answer.get("links")).get("base_url")).get("meta")):
            facts |= SOURCES["oqmd"]
        return (data if isinstance(data, list) else [data]), facts, str(provider.get("prefix") or "")
    if isinstance(answer.get("entries"), list):
        return answer["entries"], {}, ""
    column = answer.get("structure", answer.get("cif"))
    if isinstance(column, Mapping) and "lattice" not in column:  # a table by columns, each with its own index
        return [{name: values.get(i) for name, values in answer.items()} for i in column], {}, ""
    return [answer], {}, ""


def _json(path: Path) -> Found:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _json_lines(path)
    if isinstance(content, Mapping) and {"ids", "nextid"} <= content.keys():
        return _ase_database(path)
    documents, facts, prefix = unwrapped(content)
    return _found(documents, path, facts, prefix=prefix)


def json_lines(path: Path, *, whole: bool = False) -> Iterator[Any]:
    """What the lines of a file hold, which may be packed; with ``whole`` without a last line that was cut short.

    Raises:
        DataError: a line that is no JSON; the message names its number.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for k, line in enumerate(file, start=1):
            if not line.strip() or (whole and not line.endswith(b"\n")):
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"line {k} is no JSON ({one_line(error)}); mend or remove it") from None


def _json_lines(path: Path) -> Found:
    if "fetch" in mapping(next(json_lines(path), None)):
        return _fetched(path)
    # OPTIMADE's own lines begin with a header, and describe their fields before the structures
    apart = (d for d in json_lines(path) if not (isinstance(d, dict) and "x-optimade" in d))
    return _found((d for d in apart if mapping(d).get("type") not in ("info", "references")), path, {})


def _fetched(path: Path) -> Found:
    """What a fetch kept: each answer as the provider gave it, with its date."""
    header = next(json_lines(path))["fetch"]

    def rows() -> Iterator[Row | Refusal]:
        finished, names = False, set()
        for k, line in enumerate(islice(json_lines(path, whole=True), 1, None)):
            documents, _, _ = unwrapped(line["answer"])
            finished = line["finished"]
            names |= {str(d.get("material_id", d.get("id", d.get("cod")))) for d in map(mapping, documents)}
            found = rows_of(documents, f"answer-{k}", prefix=header["prefix"])
            yield from (_labelled(row, {"retrieved": line["retrieved"]}) for row in found)
            meta = mapping(mapping(line["answer"]).get("meta"))
            if line["next"] is None and meta.get("more_data_available") is True:
                yield Refusal(path.name, "incomplete", f"{header['name']} says that there is more, and not where")
        if not finished:
            yield Refusal(path.name, "incomplete", "the fetch is not finished; go on with it (--resume)")
        for name in (header["items"] or ()) if finished else ():
            if name not in names:
                yield Refusal(name, "missing", f"{header['name']} has no document of this id")

    asked = header["query"].get("limit")
    facts = {"source": header["name"], "source_version": header["version"], "source_url": header["endpoint"]}
    return Found(f"a fetch from {header['name']}", islice(rows(), asked), {**facts, "licence": header["licence"]})


# ---- tables and databases


def _csv(path: Path) -> Found:
    import pandas as pd

    names = dict.fromkeys(("material_id", "id"), str)  # "007" is a name, not a number
    frame = pd.read_csv(path, dtype=names)
    if "cif" not in frame:
        raise DataError(f"the table has no column cif; its columns are {', '.join(map(str, frame.columns))}")
    return _found(frame.to_dict("records"), path, {})


def _ase_database(path: Path) -> Found:
    import sqlite3

    import ase.db

    if path.suffix.lower() == ".db":  # ASE would make tables of its own in a file without them
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchall():
                raise DataError("it is no ASE database: it has no table of systems; give the file that ASE wrote")

    def rows() -> Iterator[Row | Refusal]:
        with ase.db.connect(str(path), use_lock_file=False) as database:
            for row in database.select():
                own = row.key_value_pairs
                yield row_of(id_of(own) or str(own.get("name", f"ase-{row.id}")), partial(ase_row, row))

    return Found("an ASE database", rows(), {"source_file": path.name})
