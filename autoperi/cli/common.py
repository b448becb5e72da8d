"""What the commands share: options, tables, JSON, and the checks that come before any work."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autoperi.data.files import dumps as dumps
from autoperi.pipelines.options import whole as whole

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from autoperi.auto import AutoPeri

DEFAULT_MODEL = "autoperi-base"


def add_command(subparsers: Any, name: str, summary: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """A command whose help ends with an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_option(parser: argparse.ArgumentParser, name: str, metavar: str, summary: str, **how: Any) -> None:
    """An argument with its placeholder and its line of the help; without a placeholder a switch."""
    how |= {"metavar": metavar} if metavar else {"action": "store_true"}
    parser.add_argument(name, help=summary, **how)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    add_option(parser, "--json", "", "print one JSON object instead of a table")


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--quiet``."""
    add_json(parser)
    add_option(parser, "--quiet", "", "no progress bar")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    add_option(parser, "--device", "DEVICE", "auto, cpu or cuda (default: auto)", default="auto")


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device`` and ``--batch-size``."""
    what = f"bundled name, directory or hub repository owner/name (default: {DEFAULT_MODEL})"
    add_option(parser, "--model", "NAME_OR_DIR", what, default=DEFAULT_MODEL)
    add_device(parser)
    what = "crystals per pass; never changes a result (default: auto)"
    add_option(parser, "--batch-size", "N", what, type=batch_size, default="auto")


def add_file(parser: argparse.ArgumentParser) -> None:
    """``FILE``, the crystals that a command reads."""
    what = "crystals: .cif, .extxyz, .json, .parquet, .csv, .vasp, POSCAR, or a folder of them"
    add_option(parser, "file", "FILE", what)


def batch_size(text: str) -> int | str:
    """``auto`` or a positive whole number."""
    if text == "auto":
        return text
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive; give at least 1, or 'auto'")
    return number


def load_model(args: argparse.Namespace) -> AutoPeri:
    """The model of ``--model``; a name that means nothing is refused before torch is imported.

    Raises:
        WeightsError: no such model, or a damaged one.
    """
    from autoperi.hub.bundle import read_config
    from autoperi.hub.store import resolve

    found = resolve(args.model)
    if found.path is not None:
        read_config(found.path)
    from autoperi.auto import AutoPeri

    return AutoPeri.from_pretrained(args.model, device=args.device)


def progress_of(args: argparse.Namespace) -> bool | None:
    """What to pass as ``progress``: a bar on a terminal, none with ``--quiet``."""
    return False if args.quiet else None


# --- input and output ------------------------------------------------------------------------------------------------


def read_input(path: str) -> list[Structure]:
    """Crystals of a file or folder, each checked: what no model can read is refused before the model is loaded.

    Raises:
        DataError: the file cannot be read.
        StructureError: a crystal that no model can read; the message names the file and the position.
    """
    from autoperi.data.convert import to_arrays
    from autoperi.data.io import read_crystals

    crystals = read_crystals(path)
    for k, crystal in enumerate(crystals):
        to_arrays(crystal, name=f"crystal {k} of {path}")
    return crystals


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C from cutting short the writing of results that are done."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is printed -------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """One line of strict JSON on standard output."""
    say(dumps(value))


def note(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"autoperi: {text}\n")


def format_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A plain table; numbers to the right, what is missing as ``-``.

    Args:
        rows: one mapping a line.
        columns: key of a row to title.
    """
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    lines = [list(columns.values()), *cells]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    right = [all(isinstance(row.get(key), (int, float)) or row.get(key) is None for row in rows) for key in columns]
    text = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(text)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def format_number(value: Any) -> str:
    """A number in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
