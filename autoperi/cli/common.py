"""What the commands share: options, tables, JSON, and the checks that come before any work."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.errors import DataError
from autoperi.pipelines.options import whole

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


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--quiet``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device`` and ``--batch-size``."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help=f"bundled name, directory or hub repository owner/name (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--batch-size",
        type=batch_size,
        default="auto",
        metavar="N",
        help="crystals per pass; never changes a result (default: auto)",
    )


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


# --- input and output
# ----------------------------------------------------------------------------------------------------


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


def check_crystal_output(out: str, *, n: int) -> bool:
    """Whether ``out`` means a folder; refused where ``n`` crystals could not be written to it.

    A path that is a folder, ends with a separator or has no suffix means a folder.

    Raises:
        DataError: an unknown suffix, several crystals for one POSCAR, or a place that cannot be written.
    """
    from autoperi.data.io import WRITABLE

    path = Path(out)
    poscar = path.suffix.lower() == ".vasp" or path.name.upper().startswith(("POSCAR", "CONTCAR"))
    folder = path.is_dir() or out.endswith(("/", os.sep)) or (not path.suffix and not poscar)
    if not folder:
        if not poscar and path.suffix.lower() not in WRITABLE:
            raise DataError(
                f"{out} has the suffix {path.suffix!r}; give {', '.join(WRITABLE)}, or a folder (end it with /)"
            )
        if poscar and n > 1:
            raise DataError(
                f"{out} is a POSCAR, which holds one crystal, not {n}; write .extxyz, or CIFs into a folder"
            )
    check_writable(out, folder=folder)
    return folder


def check_writable(out: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Refuse a place that cannot be written before any work is done; leaves nothing behind.

    Args:
        out: a file, or a folder, which need not exist yet.
        folder: which of them.

    Raises:
        DataError: the message says why.
    """
    path = Path(out)
    try:
        if folder and path.exists() and not path.is_dir():
            raise DataError(f"{out} is a file; give a folder, or remove it")
        if not folder and path.is_dir():
            raise DataError(f"{out} is a folder; give a file in it")
        place = path if folder else path.absolute().parent
        while not place.exists():
            place = place.absolute().parent
        if not place.is_dir():
            raise DataError(f"{out} cannot be written: {place} is a file; choose another place")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {(error.strerror or str(error)).lower()}; choose a place you may write to"
        ) from None


def write_table(rows: Sequence[Mapping[str, Any]], out: str) -> Path:
    """Write rows as ``.csv``, ``.json`` (a list of objects) or ``.parquet``, whole or not at all.

    Raises:
        DataError: the place cannot be written.
    """
    from io import BytesIO

    import pandas as pd

    from autoperi.data.io import write_atomically

    kind = Path(out).suffix.lower()
    if kind == ".json":
        return write_atomically(out, dumps(list(rows)) + "\n")
    frame = pd.DataFrame(list(rows))
    if kind == ".csv":
        return write_atomically(out, frame.to_csv(index=False))
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False)
    return write_atomically(out, buffer.getvalue())


TABLES = (".csv", ".json", ".parquet")


def check_table_output(out: str) -> None:
    """Refuse a table that :func:`write_table` could not write.

    Raises:
        DataError: an unknown suffix, or a place that cannot be written.
    """
    if Path(out).suffix.lower() not in TABLES:
        raise DataError(f"{out} has the suffix {Path(out).suffix!r}; a table is written as {', '.join(TABLES)}")
    check_writable(out)


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


# --- what is printed
# -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"autoperi: {text}\n")


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinity become null, paths and the numbers of NumPy what they stand for."""
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


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
