"""``autoperi score``: a table of numbers for the crystals of a file."""

from __future__ import annotations

import argparse
import math
from typing import Any

from autoperi.cli import common
from autoperi.data.files import check_table_output, write_table
from autoperi.errors import RequestError
from autoperi.metrics.references import formula_energies

EXAMPLE = """examples:
  autoperi score crystals.cif
  autoperi score crystals/ --out scores.csv
  autoperi score candidates.extxyz --properties formula,validity,formation_energy --json
  autoperi score candidates.extxyz --references hull.csv --out scores.parquet

--references is a CSV with the columns formula and energy (formation energy, eV/atom), or JSON {"Li2O": -2.0, ...}."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "score",
        "validity, energy, symmetry and likelihood of the crystals of a file",
        description="Score crystals. Without --out the table is printed.",
        example=EXAMPLE,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="crystals: .cif, .extxyz, .json, .parquet, .csv, .vasp, POSCAR, or a folder of them",
    )
    parser.add_argument("--out", metavar="TABLE", help="write the table: .csv, .json or .parquet")
    parser.add_argument(
        "--properties", metavar="NAMES", help="comma-separated, e.g. formula,validity,formation_energy (default: all)"
    )
    parser.add_argument(
        "--references",
        metavar="FILE",
        help=".csv or .json of formula and formation energy (eV/atom); adds the energy above hull",
    )
    common.add_model(parser)
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Score, write or print."""
    properties = (
        None if args.properties is None else [name for name in args.properties.replace(",", " ").split() if name]
    )
    if properties is not None:
        check_properties(properties)
    references = None if args.references is None else formula_energies(args.references)
    if args.out is not None:
        check_table_output(args.out)
    crystals = common.read_input(args.file)
    peri = common.load_model(args)
    table = peri.score(
        crystals,
        properties=properties,
        references=references,
        batch_size=args.batch_size,
        progress=common.progress_of(args),
    )
    rows = [
        {
            "crystal": k,
            **({"id": str(crystal.properties["id"])} if "id" in crystal.properties else {}),
            **{str(key): none_of(v) for key, v in row.items()},
        }
        for k, (crystal, row) in enumerate(zip(crystals, table.to_dict("records"), strict=True))
    ]
    if args.out is not None:
        with common.uninterrupted():
            write_table(rows, args.out)
    if args.json:
        common.say(
            common.dumps(
                {"provenance": peri.provenance(), "rows": rows, "files": [] if args.out is None else [args.out]}
            )
        )
    elif args.out is None:
        common.say(common.format_table(rows, {key: key for key in dict.fromkeys(key for row in rows for key in row)}))
    else:
        common.say(f"scores of {len(rows)} crystals written to {args.out}")
    return 0


def none_of(value: Any) -> Any:
    """``value``, or None for what pandas calls missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def check_properties(names: list[str]) -> None:
    """Refuse names that ``score`` does not know.

    Raises:
        RequestError: naming them and the known ones.
    """
    from autoperi.pipelines.score import NAMES

    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise RequestError(f"--properties {','.join(unknown) or names!r} is not known; choose from {', '.join(NAMES)}")
