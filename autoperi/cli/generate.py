"""``autoperi generate``: crystals of a composition, or of any, ranked."""

from __future__ import annotations

import argparse
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.cli import common
from autoperi.cli.stream import run_stream
from autoperi.data.files import check_crystal_output, publish
from autoperi.data.io import STREAM
from autoperi.errors import DataError, GenerationInterrupted, RequestError
from autoperi.pipelines.options import add_flags, given_flags
from autoperi.pipelines.request import Request, RunOptions, make_request
from autoperi.pipelines.stream_options import ShardOptions, StreamOptions

if TYPE_CHECKING:
    from pymatgen.core import Structure


EXAMPLE = """examples:
  autoperi generate NaCl                                          one crystal, as a line of a table
  autoperi generate LiFePO4 -n 5 --seed 0 --out crystals/         ranked CIFs, generated.extxyz and summary.json
  autoperi generate TiO2 -n 10 --space-group 136 --num-atoms 6 --out rutile.extxyz
  autoperi generate --chemical-system Li-Fe-O -n 20 --num-atoms 4-20 --json
  autoperi generate --model score-langevin --sites TiO --space-group 136 -n 5
  autoperi generate -n 100 --exclude Pb,Cd,Hg --out new/
  autoperi generate -n 1000000 --stream --out many/ --where "charge_neutral and n_atoms <= 20"

Ctrl-C keeps the crystals that are finished: they are ranked and written as usual, and the exit code is 130.
With --stream crystals are not ranked but written as they come, and what was interrupted, however hard, goes on with
  autoperi generate --stream --out many/ --resume"""

COLUMNS = {
    "rank": "rank",
    "formula": "formula",
    "group": "space group",
    "formation_energy_per_atom_eV": "E_form (eV/atom)",
    "log_likelihood": "log-likelihood",
    "n_atoms": "atoms",
    "volume_per_atom_A3": "V (A^3/atom)",
}
_OWN_FILE = re.compile(r"\d{3,}_[A-Za-z0-9.]+\.cif")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "generate",
        "crystals of a composition, or of any, ranked",
        description="Generate crystals, best first. Without --out a table is printed and nothing is written.",
        example=EXAMPLE,
    )
    add_flags(parser, Request, RunOptions)
    what = "write crystals into a folder as they come, in shards: any number of them, not ranked"
    common.add_option(parser, "--stream", "", what)
    add_flags(parser, StreamOptions, ShardOptions)
    what = "a folder, or a file: .cif, .extxyz, .json, .parquet, .vasp (one crystal)"
    common.add_option(parser, "--out", "DIR_or_FILE", what)
    common.add_model(parser)
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Generate, write, print."""
    if args.stream:
        return run_stream(args)
    for name in given_flags(args, StreamOptions, ShardOptions):
        raise RequestError(f"--{name.replace('_', '-')} belongs to --stream; add that, or leave it out")
    request = make_request(**given_flags(args, Request))
    folder = check_crystal_output(args.out, n=request.n) if args.out is not None else False
    if folder and (Path(args.out) / STREAM).exists():
        raise DataError(f"{args.out} holds a stream; choose another folder")
    peri = common.load_model(args)
    interrupted = False
    try:
        how: dict[str, Any] = {"batch_size": args.batch_size, "progress": common.progress_of(args)}
        crystals = peri.generate(request, **how, **given_flags(args, RunOptions))
    except GenerationInterrupted as stop:
        crystals, interrupted = stop.finished, True
    with common.uninterrupted():
        rows = [row_of(crystal, rank) for rank, crystal in enumerate(crystals, start=1)]
        summary: dict[str, Any] = {
            "request": request.echo(),
            "provenance": peri.provenance(),
            "finished": len(crystals),
            "interrupted": interrupted,
            "rows": rows,
        }
        where = ""
        if args.out is not None and crystals:
            where = args.out
            summary["files"] = write_folder(crystals, args.out, summary) if folder else write_file(crystals, args.out)
        if args.json:
            common.say_json(summary)
        elif crystals:
            named = [
                {**row, "group": f"{row['space_group_symbol']} ({row['space_group']})" if row["space_group"] else None}
                for row in rows
            ]
            common.say(common.format_table(named, COLUMNS))
            common.say(f"\nmodel {peri.bundle.name}, seed {request.seed}" + (f"; written to {where}" if where else ""))
        if interrupted:
            written = f"those are in {where}" if where else "the others are lost"
            common.note(
                f"interrupted after {len(crystals)} of {request.n} crystals; "
                + (written if crystals else "nothing was written")
            )
    return 130 if interrupted else 0


def row_of(crystal: Structure, rank: int) -> dict[str, Any]:
    """One line of the table, JSON-ready."""
    from autoperi.symmetry.spacegroup import space_group

    facts = crystal.properties["autoperi"]
    number = facts["space_group"]
    return {
        "rank": rank,
        "formula": crystal.composition.reduced_formula,
        "space_group": number or None,
        "space_group_symbol": space_group(number).symbol if number else None,
        "formation_energy_per_atom_eV": facts["formation_energy_per_atom_eV"],
        "log_likelihood": facts["log_likelihood"],
        "n_atoms": len(crystal),
        "volume_per_atom_A3": round(crystal.volume / len(crystal), 6),
        "min_distance_ratio": facts["min_distance_ratio"],
        "rank_score": facts["rank_score"],
        "origin": facts["origin"],
        "index": facts["index"],
    }


def write_file(crystals: list[Structure], out: str) -> list[str]:
    """All crystals into one file."""
    from autoperi.data.io import write_crystals

    return [str(path) for path in write_crystals(crystals, out)]


def write_folder(crystals: list[Structure], out: str, summary: dict[str, Any]) -> list[str]:
    """Ranked CIFs, ``generated.extxyz`` and ``summary.json``; a new folder appears whole or not at all.

    In a folder of an earlier run, the CIFs which its summary names and which are not written anew are removed.
    """
    from autoperi.data.io import EXTXYZ, SUMMARY, write_crystals

    target = Path(out)
    with tempfile.TemporaryDirectory() as scratch:
        cifs = write_crystals(crystals, Path(scratch) / "cifs")
        paths = [*cifs, *write_crystals(crystals, Path(scratch) / EXTXYZ)]
        files = {path.name: path.read_bytes() for path in paths}
    for row, path in zip(summary["rows"], cifs, strict=True):
        row["file"] = path.name
    files[SUMMARY] = (common.dumps(summary, indent=1) + "\n").encode()
    stale = [name for name in _listed(target / SUMMARY) if name not in files]
    publish(files, target)
    for name in stale:
        with suppress(OSError):
            (target / name).unlink()
    return [str(target / name) for name in files]


def _listed(summary: Path) -> list[str]:
    """The CIFs that an earlier summary names."""
    import json

    try:
        names = [str(row.get("file")) for row in json.loads(summary.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in names if _OWN_FILE.fullmatch(name)]
