"""``autoperi explore``: crystals at many ratios of a chemical system, and their convex hull."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from autoperi.cli import common
from autoperi.errors import ExplorationInterrupted, RequestError
from autoperi.pipelines.options import add_flags, given_flags
from autoperi.workflows.explore_request import ExploreOptions, ExploreRequest, make_exploration

EXAMPLE = """examples:
  autoperi explore Li-O --seed 0 --out Li-O/                      33 compositions, 10 crystals of each
  autoperi explore Li-Fe-O --formula-atoms 5 -n 4 --out Li-Fe-O/
  autoperi explore Li-O --compositions Li2O,Li2O2 --known mine.cif --out two/
  autoperi explore Li-O --out Li-O/ --resume                      after an interruption, however hard

DIR then holds explore.json, table.csv, table.json, hull.png, hull.svg, hull.html, crystals.extxyz and cifs/; parts/ has
what a resumed run needs. Ctrl-C keeps the compositions that are done, writes what there is of them, and ends with
code 130. All energies come from one potential, which every output names."""

COLUMNS = {
    "crystal": "crystal",
    "formula": "formula",
    "space_group_symbol": "space group",
    "n_atoms": "atoms",
    "formation_energy_per_atom_eV": "E_form (eV/atom)",
    "energy_above_hull_eV": "above hull (eV/atom)",
    "status": "status",
    "known": "known",
}
SHOWN = 20
"""Compositions in the table that is printed."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = common.add_command(
        subparsers,
        "explore",
        "a chemical system: crystals at many ratios, and their hull",
        description=(
            "Generate crystals at many ratios of one to four elements, relax them with one potential, and make their "
            "convex hull. Without --out a table is printed and nothing is written."
        ),
        example=EXAMPLE,
    )
    add_flags(parser, ExploreRequest, ExploreOptions)
    common.add_model(parser)
    common.add_output(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Explore, write, print."""
    asked, options = given_flags(args, ExploreRequest), given_flags(args, ExploreOptions)
    out = options.get("out")
    if not options.get("resume"):
        make_exploration(**{"system": None, **asked})  # what is wrong costs no time
    elif out is None:
        raise RequestError("--resume needs the folder of the run; give it with --out")
    peri = common.load_model(args)
    interrupted: ExplorationInterrupted | None = None
    try:
        how: dict[str, Any] = {"batch_size": args.batch_size, "progress": common.progress_of(args)}
        found = peri.explore(asked.pop("system", None), **asked, **options, **how)
    except ExplorationInterrupted as stop:
        found, interrupted = stop.finished, stop
    if found is not None:
        if args.json:
            common.say_json({**found.record, "rows": found.rows})
        else:
            _print(found, out)
    if interrupted is not None:
        words = ["autoperi", "explore", *filter(None, [args.option_system]), "--out", str(out), "--resume"]
        again = shlex.join([*words, "--model", args.model] if args.model != common.DEFAULT_MODEL else words)
        common.note(f"{interrupted}; {f'go on with: {again}' if out else 'nothing is kept without --out'}")
    return 0 if interrupted is None else 130


def _print(found: Any, out: str | None) -> None:
    """The lowest crystal of each composition, and a line of counts."""
    lowest: dict[str, dict[str, Any]] = {}
    for row in found.rows:
        if row["crystal"] is not None:
            lowest.setdefault(row["formula"], row)
    columns = {key: title for key, title in COLUMNS.items() if key != "known" or found.record["counts"]["known"]}
    common.say(common.format_table(list(lowest.values())[:SHOWN], columns))
    counts, digest = found.record["counts"], found.judge["sha256"]
    left = len(lowest) - SHOWN
    common.say(
        (f"and {left} more compositions\n" if left > 0 else "")
        + f"\n{counts['generated']} crystals of {counts['finished']} compositions: {counts['crystals']} differ, "
        f"{counts['merged']} merged, {counts['failed']} failed; {counts['nothing_made']} compositions without any\n"
        f"model {found.record['model']['model']}, seed {found.record['settings']['seed']}, all energies by the "
        f"potential of {found.judge['model']}"
        + (f" (sha256 {digest[:12]}…)" if digest else "")
        + (f"; written to {out}" if out else "")
    )
    if counts["known_failed"]:
        common.note(f"{counts['known_failed']} known crystals failed and take no part in the hull; the table says why")
    if "note" in found.record:
        common.note(found.record["note"])
