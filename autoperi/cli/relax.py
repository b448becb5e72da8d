"""``autoperi relax``: relaxed lattices, or lattices and positions, of the crystals of a file."""

from __future__ import annotations

import argparse
from typing import Any

from autoperi.cli import common
from autoperi.data.files import check_crystal_output
from autoperi.units import RELAX_STEPS

EXAMPLE = """examples:
  autoperi relax guess.cif --out relaxed.cif
  autoperi relax candidates.extxyz --out relaxed.extxyz --steps 3 --fix-symmetry
  autoperi relax candidates.extxyz --out relaxed.extxyz --positions
  autoperi relax cifs/ --out relaxed/ --json"""

COLUMNS = {
    "crystal": "crystal",
    "formula": "formula",
    "n_atoms": "atoms",
    "status": "status",
    "passes": "passes",
    "volume_ratio": "V/V_before",
    "last_strain": "last strain",
}
POSITIONS_COLUMNS = {
    **{key: COLUMNS[key] for key in ("crystal", "formula", "n_atoms", "status", "passes")},
    "steps": "steps",
    "volume_ratio": "V/V_before",
    "energy_eV_per_atom": "eV/atom",
    "largest_force_eV_per_A": "eV/A",
}
FACTS = ("status", "passes", "volume_ratio", "last_strain")
_ENERGIES = ("energy_before_eV_per_atom", "energy_eV_per_atom")
POSITIONS_FACTS = (*FACTS, "lattice_status", "steps", "largest_force_eV_per_A", *_ENERGIES)
"""What ``--json`` tells of each relaxation."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "relax",
        "relaxed crystals of a file",
        description=(
            "Relax lattices; fractional coordinates stay as they are. With --positions, positions and lattice then go "
            "to zero force and stress of the model's potential."
        ),
        example=EXAMPLE,
    )
    common.add_file(parser)
    what = "where to write them: .cif, .extxyz, .json, .parquet, .vasp, or a folder"
    common.add_option(parser, "--out", "FILE", what, required=True)
    what = f"passes, 0 to 20 (default: the model's); with --positions, steps after them ({RELAX_STEPS})"
    common.add_option(parser, "--steps", "K", what, type=common.whole)
    common.add_option(parser, "--positions", "", "relax positions, too, with the model's potential")
    common.add_option(parser, "--fix-symmetry", "", "keep the space group found at 0.01 A free of rounding")
    common.add_model(parser)
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Relax, write, print."""
    from autoperi.errors import RelaxationInterrupted
    from autoperi.pipelines.request import check_steps
    from autoperi.relax.lattice import FAILED
    from autoperi.relax.positions import check_fire_steps

    if not args.positions:
        check_steps(args.steps)
    elif args.steps is not None:
        check_fire_steps(args.steps)
    check_crystal_output(args.out, n=1)
    crystals = common.read_input(args.file)
    check_crystal_output(args.out, n=len(crystals))
    peri = common.load_model(args)
    interrupted: RelaxationInterrupted | None = None
    try:
        how = {name: getattr(args, name) for name in ("steps", "positions", "fix_symmetry", "batch_size")}
        relaxed = peri.relax_lattice(crystals, progress=common.progress_of(args), **how)
    except RelaxationInterrupted as stop:
        if not stop.finished:
            raise
        relaxed, interrupted = stop.finished, stop
    columns, named = (POSITIONS_COLUMNS, POSITIONS_FACTS) if args.positions else (COLUMNS, FACTS)
    rows = []
    for k, crystal in enumerate(relaxed):
        facts = crystal.properties["autoperi"]["relaxation"]
        lengths = {name: round(float(value), 6) for name, value in crystal.lattice.params_dict.items()}
        row = {"crystal": k, "formula": crystal.composition.reduced_formula, "n_atoms": len(crystal)}
        row |= {key: facts[key] for key in named} | ({"reason": facts["reason"]} if "reason" in facts else {})
        rows.append(row | lengths)
    from autoperi.data.io import write_crystals

    with common.uninterrupted():
        files = [str(path) for path in write_crystals(relaxed, args.out)]
    if args.json:
        common.say_json({"provenance": peri.provenance(), "rows": rows, "files": files})
    else:
        common.say(common.format_table(rows, columns))
        common.say(f"\nmodel {peri.bundle.name}; written to {args.out}")
    failed = sum(row["status"] == "failed" for row in rows)
    left = sum(row["status"] in FAILED for row in rows) - failed
    for count, what in ((left, "left the model's range"), (failed, "failed")):
        if count:
            common.note(f"warning: {count} of {len(rows)} crystals {what} and are written as they were given")
    for row in rows:
        if "reason" in row:
            common.note(f"crystal {row['crystal']}: {row['reason']}")
    if interrupted is not None:
        common.note(f"{interrupted}; these are written, in the order of {args.file}")
    return 0 if interrupted is None else 130
