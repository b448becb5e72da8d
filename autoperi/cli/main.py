"""Entry point of ``autoperi``: parses, runs one command, and turns every :class:`AutoPeriError` into one line and exit
code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from autoperi._version import __version__
from autoperi.errors import AutoPeriError, AutoPeriWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
"""Exit codes: what was asked cannot be done; Ctrl-C (128 + SIGINT); nobody reads the output (128 + SIGPIPE)."""

COMMANDS = ("generate", "relax", "score", "explore", "data", "models", "train", "evaluate")
"""Modules of ``autoperi.cli``, each with the command of its name."""

EXAMPLE = """examples:
  autoperi generate LiFePO4 -n 5 --seed 0 --out crystals/
  autoperi relax guess.cif --out relaxed.cif
  autoperi score crystals/ --out scores.csv
  autoperi explore Li-O --seed 0 --out Li-O/
  autoperi data import cifs/ --out mine.parquet
  autoperi models list

`autoperi COMMAND --help` explains a command.
Exit code 0: done; 2: refused, with one line that says why; 130: interrupted."""


class UsageError(AutoPeriError):
    """Arguments that do not parse."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises instead of printing its usage and leaving; option names are never
    abbreviated.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}; see `{self.prog} --help`")


def make_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of some of :data:`COMMANDS`, whose modules alone are imported."""
    parser = Parser(
        prog="autoperi",
        description="Generate, relax and score crystals.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autoperi {__version__}")
    group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"autoperi.cli.{name}").add_parser(group)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the name of the program; those of the process by default.

    Returns:
        The exit code: 0, 2 (one line on standard error names the value and the remedy), 130 (interrupted).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # where it finds no group, we say so ourselves
    try:
        with _quiet():
            code = _run(arguments)
            sys.stdout.flush()  # here, so that a broken pipe is noticed here
            return code
    except BrokenPipeError:
        with suppress(OSError, ValueError, AttributeError):  # Python flushes once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    try:
        first = arguments[0] if arguments else ""
        # a command needs no other's module, the version none; help and a wrong name need them all
        needed = {"--version": ()}.get(first, (first,) if first in COMMANDS else COMMANDS)
        args = make_parser(needed).parse_args(arguments)
        return int(args.func(args) or 0)
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except AutoPeriError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"autoperi: error: {message}\n")
        if "--json" in arguments:
            sys.stdout.write(json.dumps({"error": message}) + "\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("autoperi: interrupted\n")
        return INTERRUPTED


@contextmanager
def _quiet() -> Iterator[None]:
    """Show AutoPeri's own warnings, one line each, and nobody else's."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del filename, lineno, file, line
        if issubclass(category, AutoPeriWarning):  # libraries set filters of their own when they are imported
            sys.stderr.write(f"autoperi: warning: {' '.join(str(message).split())}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AutoPeriWarning)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
