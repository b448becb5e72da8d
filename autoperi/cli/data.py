"""``autoperi data``: crystals from databases and files into tables, split and described."""

from __future__ import annotations

import argparse
import hashlib
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.cli import common
from autoperi.data.files import check_exists, check_writable, publish
from autoperi.errors import DataError, RequestError

if TYPE_CHECKING:
    from autoperi.data.tables import CrystalTable

EXAMPLE = """examples:
  autoperi data fetch mp --chemical-system Li-Fe-O --max-above-hull 0.1 --out Li-Fe-O/
  autoperi data fetch oqmd --elements Li,O --max-atoms 20 --limit 1000 --out oqmd/
  autoperi data fetch cod --ids numbers.txt --out cod/ --resume
  autoperi data fetch optimade --endpoint alexandria --filter 'nelements=2' --limit 500 --out alexandria/
  autoperi data import cifs/ --out mine.parquet
  autoperi data split mine.parquet --by match --out mine/
  autoperi data show mine.parquet"""

SOURCES = ("mp", "oqmd", "cod", "optimade")
"""Words of :data:`autoperi.data.sources.fetch.PROVIDERS`, whose import takes long."""
CONDITIONS: dict[str, tuple[Any, str, str]] = {
    "formula": (str, "FORMULA", "such as LiFePO4"),
    "elements": (str, "ELEMENTS", "these must be there, others may, e.g. Li,O"),
    "chemical_system": (str, "ELEMENTS", "exactly these, e.g. Li-Fe-O"),
    "ids": (str, "IDS", "names of the provider with commas between them, or a .txt or .csv file of one a line"),
    "max_atoms": (common.whole, "N", "atoms of the provider's cell"),
    "max_above_hull": (float, "X", "eV/atom above the provider's hull"),
    "filter": (str, "EXPR", "in the provider's own language (oqmd, optimade)"),
    "limit": (common.whole, "N", "documents at most"),
}
"""Conditions of a fetch: type, placeholder and help."""
SHOWN = 12
"""Elements, space groups and refusals that are printed."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "data",
        "fetch, import, split and describe tables of crystals",
        description="Tables of crystals, for `autoperi train`, `evaluate` and `score`.",
        example=EXAMPLE,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = partial(_verb, verbs)

    command = add("fetch", "documents of a provider, and a table of them", fetch)
    command.add_argument("source", metavar="SOURCE", choices=SOURCES, help=", ".join(SOURCES))
    what = "holds answers.jsonl, crystals.parquet, crystals.refused.csv and fetch.json"
    common.add_option(command, "--out", "DIR", what, required=True)
    for name, (kind, metavar, text) in CONDITIONS.items():
        common.add_option(command, f"--{name.replace('_', '-')}", metavar, text, type=kind)
    what = "optimade: a provider's name (alexandria, mp, …) or base URL; otherwise another address of the service"
    common.add_option(command, "--endpoint", "NAME_OR_URL", what)
    common.add_option(command, "--rate", "X", "requests a second at most (default: 1; mp: 5)", type=float)
    common.add_option(command, "--resume", "", "go on with the fetch in DIR; its query need not be repeated")

    command = add("import", "a table of the crystals of a file or folder", import_)
    what = (
        "a folder of CIFs, .cif, .csv (CDVAE), .json or .jsonl (Materials Project, OQMD, OPTIMADE, matbench, matminer, "
        "pymatgen), .db (ASE), .extxyz, .parquet, or the folder of a fetch"
    )
    command.add_argument("files", metavar="FILE", nargs="+", help=f"{what}; several become one table")
    common.add_option(
        command, "--out", "TABLE", ".parquet; NAME.refused.csv beside it names what was refused", required=True
    )
    common.add_option(command, "--licence", "TEXT", "of the data, for the column licence")
    common.add_option(command, "--max-atoms", "N", "refuse larger crystals", type=common.whole)
    common.add_option(command, "--volume", "LOW-HIGH", "refuse crystals out of this range of Å³ an atom, e.g. 4-150")

    command = add("split", "train, val and test of a table", split)
    common.add_option(command, "file", "TABLE", "crystals with ids")
    what = "what the parts may not share: id, formula or match (default: id)"
    common.add_option(command, "--by", "WAY", what, default="id")
    for part in ("val", "test"):
        what = f"a share, or a .txt or .csv file of the ids of {part} (default: 0.1)"
        common.add_option(command, f"--{part}", "X_OR_FILE", what, default="0.1")
    common.add_option(command, "--seed", "S", "of the shares (default: 0)", type=common.whole, default=0)
    what = "remove what equals a crystal of this table, such as a test set; may be repeated"
    common.add_option(command, "--apart-from", "TABLE", what, action="append", default=[])
    what = "train.parquet, val.parquet, test.parquet, removed.csv and split.json"
    common.add_option(command, "--out", "DIR", what, required=True)

    command = add("show", "counts, elements, space groups and sizes of a table", show)
    common.add_option(command, "file", "FILE", "a table, or whatever `autoperi data import` reads")


def _verb(verbs: Any, name: str, summary: str, func: Any) -> argparse.ArgumentParser:
    parser = common.add_command(verbs, name, summary, description=f"Data: {summary}.", example=EXAMPLE)
    common.add_output(parser)
    parser.set_defaults(func=func)
    return parser


def fetch(args: argparse.Namespace) -> int:
    """Fetch, write, print."""
    from autoperi.data.sources.fetch import fetch as run

    conditions = {name: getattr(args, name) for name in CONDITIONS}
    how: dict[str, Any] = {"endpoint": args.endpoint, "rate": args.rate, "resume": args.resume}
    try:
        facts = run(args.source, args.out, **how, progress=common.progress_of(args), **conditions)
    except KeyboardInterrupt:
        again = shlex.join(["autoperi", "data", "fetch", args.source, "--out", args.out, "--resume"])
        common.note(f"interrupted; every answer that came is kept, go on with: {again}")
        return 130
    if args.json:
        common.say_json(facts)
    else:
        version = f" {facts['version']}" if facts["version"] else ""
        common.say(
            f"{facts['source']}{version}, {facts['answers']:,} answers, licence {facts['licence'] or 'not said'}"
        )
        _say_rows(facts)
    return 0


def import_(args: argparse.Namespace) -> int:
    """Read, write, print."""
    from autoperi.data.sources.files import import_files

    limits: dict[str, Any] = {"max_atoms": args.max_atoms, "volume": _range(args.volume)}
    facts = import_files(args.files, args.out, licence=args.licence, progress=common.progress_of(args), **limits)
    if args.json:
        common.say_json(facts)
    else:
        _say_rows({**facts, "format": f"{', '.join(args.files)} ({facts['format']})"})
    return 0


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise RequestError(f"--volume {text} is no range; give Å³ an atom such as 4-150") from None


def _say_rows(facts: dict[str, Any]) -> None:
    refused = sum(facts["refused"].values())
    common.say(
        f"{facts['format']}: {facts['crystals']:,} crystals of {facts['entries']:,} entries in {facts['files'][0]}"
    )
    if refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in facts["refused"].items())
        common.say(f"{refused:,} refused: {reasons}; {facts['files'][1]} names each")
    common.say(f"sha256 {facts['sha256']}")


def split(args: argparse.Namespace) -> int:
    """Split, write, print."""
    import pandas as pd

    from autoperi.data.io import read_table
    from autoperi.data.sources.query import read_ids
    from autoperi.data.sources.rows import reduced_formulas
    from autoperi.data.tables import table_bytes
    from autoperi.metrics.splitting import split_table

    shares = {part: _share(getattr(args, part), part) for part in ("val", "test")}
    asked: dict[str, Any] = {part: read_ids(v) if isinstance(v, str) else v for part, v in shares.items()}
    for path in (args.file, *args.apart_from):
        check_exists(Path(path))
    folder = Path(args.out)
    check_writable(folder, folder=True)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; choose another folder")
    table, others = read_table(args.file), [read_table(path) for path in args.apart_from]
    run: Any = {"progress": common.progress_of(args)}
    done = split_table(table, by=args.by, seed=args.seed, apart_from=others, **asked, **run)
    files: dict[str, bytes] = {}
    parts: dict[str, dict[str, Any]] = {}
    for part in ("train", "val", "test"):
        rows = table[done.rows(part)]
        content = table_bytes(rows, reduced_formulas(rows)) if len(rows) else b""
        files |= {f"{part}.parquet": content} if content else {}
        parts[part] = {"crystals": len(rows), "sha256": hashlib.sha256(content).hexdigest() if content else None}
    facts = {
        "table": Path(args.file).name,
        "by": args.by,
        "seed": args.seed,
        **{part: v if isinstance(v, float) else Path(v).name for part, v in shares.items()},
        "apart_from": [Path(path).name for path in args.apart_from],
        "parts": parts,
        "removed": len(done.removed),
        "absent": done.absent,
    }
    removed = pd.DataFrame(done.removed, columns=["id", "part", "reason", "like"])
    files["removed.csv"] = removed.to_csv(index=False).encode()
    files["split.json"] = (common.dumps(facts, indent=1) + "\n").encode()
    with common.uninterrupted():
        publish(files, folder)
    if args.json:
        common.say_json(facts)
        return 0
    for part, said in parts.items():
        common.say(f"{part:<6} {said['crystals']:>9,} crystals  sha256 {said['sha256'] or '-'}")
    if done.removed:
        common.say(
            f"{len(done.removed):,} removed, which share a {args.by} across the split; {folder}/removed.csv names each"
        )
    for part, n in done.absent.items():
        if n:
            common.note(f"{n:,} ids of {part} are not in the table")
    return 0


def _share(text: str, part: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        if Path(text).suffix.lower() in (".txt", ".csv", ".lst"):
            return text
        raise RequestError(
            f"--{part} {text} is neither a share nor a .txt or .csv file of ids; give 0.1, or a file"
        ) from None


def show(args: argparse.Namespace) -> int:
    """Describe."""
    from autoperi.metrics.contents import SAID, contents

    table = _table(args)
    facts = contents(table, progress=common.progress_of(args))
    if args.json:
        common.say_json(facts)
        return 0
    common.say(f"{facts['crystals']:,} crystals of {facts['formulas']:,} formulas")
    for name, title in (("atoms", "atoms"), ("elements_per_crystal", "elements"), ("volume_per_atom_A3", "Å³/atom")):
        least, median, most = (common.format_number(facts[name][k]) for k in ("least", "median", "most"))
        common.say(f"{title:<12} {least} to {most}, median {median}")
    common.say(f"{len(facts['elements']):>3} elements  {_most(facts['elements'])}")
    common.say(
        f"{len(facts['space_groups']):>3} groups    {_most(facts['space_groups'])} (from {facts['space_groups_from']})"
    )
    for name in SAID:
        if name in facts:
            common.say(f"{name:<12} {_most(facts[name])}")
    rows = [{"column": name, **said} for name, said in facts["columns"].items()]
    if rows:
        common.say("\n" + common.format_table(rows, {k: k for k in ("column", "rows", "least", "median", "most")}))
    return 0


def _table(args: argparse.Namespace) -> CrystalTable:
    """A table as it is; of anything else what an import would keep."""
    if Path(args.file).suffix.lower() == ".parquet":
        from autoperi.data.io import read_table

        return read_table(args.file)
    from autoperi.data.sources.files import read_sources

    _, table, refused = read_sources([args.file], progress=common.progress_of(args))
    if not len(table):
        raise DataError(f"{args.file}: all {len(refused)} entries are refused, the first because {refused[0].detail}")
    if refused:
        common.note(f"{len(refused)} entries are refused; `autoperi data import` names each")
    return table


def _most(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {n:,}" for name, n in list(counts.items())[:SHOWN])
    return shown + (", …" if len(counts) > SHOWN else "")
