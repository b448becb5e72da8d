"""``autoperi generate``: crystals of a composition, or of any, ranked."""

from __future__ import annotations

import argparse
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.cli import common
from autoperi.errors import GenerationInterrupted, RequestError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from autoperi.pipelines.request import GenerationRequest

EXAMPLE = """examples:
  autoperi generate NaCl                                          one crystal, as a line of a table
  autoperi generate LiFePO4 -n 5 --seed 0 --out crystals/         ranked CIFs, generated.extxyz and summary.json
  autoperi generate TiO2 -n 10 --space-group 136 --num-atoms 6 --out rutile.extxyz
  autoperi generate --chemical-system Li-Fe-O -n 20 --num-atoms 4-20 --json
  autoperi generate -n 100 --exclude Pb,Cd,Hg --out new/

Ctrl-C keeps the crystals that are finished: they are ranked and written as usual, and the exit code is 130."""

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
    parser.add_argument(
        "composition",
        nargs="?",
        metavar="COMPOSITION",
        help="a formula such as LiFePO4; without one, compositions are drawn too",
    )
    parser.add_argument("-n", type=common.whole, default=1, metavar="N", help="crystals wanted (default: 1)")
    parser.add_argument(
        "--out", metavar="DIR_or_FILE", help="a folder, or a file: .cif, .extxyz, .json, .parquet, .vasp (one crystal)"
    )
    parser.add_argument(
        "--space-group", metavar="GROUP", help="number 1 to 230 or symbol, e.g. 225 or Fm-3m; holds for every crystal"
    )
    parser.add_argument("--num-atoms", metavar="N_or_RANGE", help="atoms in the primitive cell, e.g. 8 or 4-20")
    parser.add_argument("--chemical-system", metavar="ELEMENTS", help="exactly these elements, e.g. Li-Fe-O")
    parser.add_argument("--exclude", default="", metavar="ELEMENTS", help="elements that must not occur, e.g. Pb,Cd")
    parser.add_argument(
        "--num-elements",
        metavar="N_or_RANGE",
        help="distinct elements, e.g. 3 or 2-4, of crystals without a composition",
    )
    parser.add_argument(
        "--like",
        metavar="FILE",
        help="a crystal whose space group and orbits are filled with the composition's elements",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a property to come near to, e.g. band_gap=1.5; may be repeated",
    )
    parser.add_argument(
        "--generator",
        metavar="PART",
        help="one part of the model alone: autoperi-gnn (no prototypes, from noise) or prior",
    )
    parser.add_argument(
        "--steps", type=common.whole, metavar="K", help="lattice-relaxation passes, 0 to 20 (default: the model's)"
    )
    parser.add_argument(
        "--finish",
        type=common.whole,
        default=0,
        metavar="N",
        help="steps of positions and cell with the potential (default: 0)",
    )
    parser.add_argument("--rank", default="energy", metavar="BY", help="energy, probability or none (default: energy)")
    parser.add_argument(
        "--seed", type=common.whole, metavar="S", help="of all randomness (default: a fresh one, which is printed)"
    )
    parser.add_argument("--no-strict", action="store_true", help="accept fewer crystals than asked for, with a warning")
    common.add_model(parser)
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Generate, write, print."""
    from autoperi.pipelines.request import make_request

    options: dict[str, Any] = {
        "n": args.n,
        "space_group": args.space_group,
        "num_atoms": common.number_range(args.num_atoms, "num_atoms"),
        "chemical_system": args.chemical_system,
        "exclude_elements": args.exclude,
        "num_elements": common.number_range(args.num_elements, "num_elements"),
        "target": targets_of(args.target),
        "like": None if args.like is None else common.read_input(args.like)[0],
        "rank": args.rank,
        "steps": args.steps,
        "finish": args.finish,
    }
    request = make_request(args.composition, **options, seed=args.seed)
    folder = common.check_crystal_output(args.out, n=request.n) if args.out is not None else False
    peri = common.load_model(args)
    interrupted = False
    try:
        crystals = peri.generate(
            args.composition,
            **options,
            model=args.generator,
            seed=request.seed,
            batch_size=args.batch_size,
            strict=not args.no_strict,
            progress=common.progress_of(args),
        )
    except GenerationInterrupted as stop:
        crystals, interrupted = stop.finished, True
    with common.uninterrupted():
        rows = [row_of(crystal, rank) for rank, crystal in enumerate(crystals, start=1)]
        summary: dict[str, Any] = {
            "request": describe(request, args.composition) | {"generator": args.generator},
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
            common.say(common.dumps(summary))
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


def targets_of(given: list[str]) -> dict[str, float] | None:
    """``["band_gap=1.5"]`` as a mapping; None for nothing.

    Raises:
        RequestError: not a name and a number.
    """
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise RequestError(f"--target {text} is not NAME=VALUE; give one such as band_gap=1.5")
    return found or None


def describe(request: GenerationRequest, composition: str | None) -> dict[str, Any]:
    """The request in words that repeat it."""
    from ase.data import chemical_symbols

    def symbols(numbers: frozenset[int]) -> list[str]:
        return [chemical_symbols[z] for z in sorted(numbers)]

    return {
        "composition": composition,
        "n": request.n,
        "seed": request.seed,
        "space_group": request.space_group,
        "num_atoms": [request.min_atoms, request.max_atoms],
        "chemical_system": None if request.chemical_system is None else symbols(request.chemical_system),
        "exclude_elements": symbols(request.exclude_elements),
        "num_elements": None if request.num_elements is None else list(request.num_elements),
        "like": None if request.like is None else {"space_group": request.like.number, "atoms": request.like.n_atoms},
        "target": dict(request.target) or None,
        "rank": request.rank,
        "steps": request.steps,
        "finish": request.finish,
    }


def write_file(crystals: list[Structure], out: str) -> list[str]:
    """All crystals into one file."""
    from autoperi.data.io import write_crystals

    return [str(path) for path in write_crystals(crystals, out)]


def write_folder(crystals: list[Structure], out: str, summary: dict[str, Any]) -> list[str]:
    """Ranked CIFs, ``generated.extxyz`` and ``summary.json``; a new folder appears whole or not at all.

    In a folder of an earlier run, the CIFs which its summary names and which are not written anew are removed.
    """
    from autoperi.data.files import publish
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
