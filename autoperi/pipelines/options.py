"""Options declared once, as fields of a dataclass.

From them derive the signature and the docstring of a function, the flags of a command and a table of the docs.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from autoperi.errors import RequestError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flag:
    """How an option is written on the command line.

    Attributes:
        name: such as ``--num-atoms``; without hyphens a positional argument.
        metavar: what its value is called.
        help: one line.
        parse: from the text to the option's value; the default keeps the text.
        repeated: may be given several times, and ``parse`` gets the list.
        negates: a switch that makes the option False.
        switch: a switch that makes the option True.
    """

    name: str
    metavar: str = ""
    help: str = ""
    parse: Callable[[Any], Any] = lambda text: text
    repeated: bool = False
    negates: bool = False
    switch: bool = False
    type: Callable[[str], Any] | None = None


def option(
    default: Any = MISSING,
    *,
    annotation: str,
    says: str,
    check: Callable[[Any], Any] | None = None,
    echo: Callable[[Any], Any] = lambda value: value,
    flag: Flag | None = None,
    given: Any = MISSING,
) -> Any:
    """A field that is an option.

    Args:
        default: of the checked value.
        annotation: type of what a user may give, as the signature shows it.
        says: the line of the docstring and of the docs table.
        check: from what is given to what the request holds.
        echo: from what the request holds to plain JSON.
        flag: on the command line, if it is there.
        given: default as a user would write it, where that is not ``default``.
    """
    shown = default if given is MISSING else given
    metadata = {"annotation": annotation, "says": says, "check": check, "echo": echo, "flag": flag, "default": shown}
    return field(default=default, metadata=metadata)


def options_of(*classes: type) -> Iterator[Field[Any]]:
    """The fields of dataclasses that are options, in order."""
    for cls in classes:
        yield from (f for f in fields(cls) if "says" in f.metadata)


def takes(*classes: type, without: Collection[str] = ()) -> Callable[[Function], Function]:
    """A decorator: the options of ``classes``, but for those in ``without``, become keyword arguments in the signature,
    and lines of ``Args:`` for ``{options}``.

    The function itself takes ``**options``; its first parameters stay as they are.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {p.name for p in own}
        chosen = [f for f in options_of(*classes) if f.name not in names and f.name not in without]
        added = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=f.metadata["default"],
                annotation=f.metadata["annotation"],
            )
            for f in chosen
        ]
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        lines = (f"            {f.name}: {f.metadata['says']}" for f in chosen)
        function.__doc__ = (function.__doc__ or "").replace("            {options}", "\n".join(lines))
        return function

    return decorate


def option_of(cls: type, name: str) -> Any:
    """The option of another dataclass, as it is declared there."""
    own = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field(default=own.default, metadata=own.metadata)


def taken(options: dict[str, Any], cls: type) -> dict[str, Any]:
    """The options of a dataclass, checked, taken out of ``options``."""
    found = {f.name: (options.pop(f.name), f.metadata["check"]) for f in options_of(cls) if f.name in options}
    return {name: value if check is None else check(value) for name, (value, check) in found.items()}


def refuse_unknown(function: str, options: dict[str, Any], *classes: type) -> None:
    """What Python does where a keyword argument does not exist.

    Raises:
        TypeError: an option that none of ``classes`` has.
    """
    known = {f.name for f in options_of(*classes)}
    for name in options:
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def add_flags(parser: argparse.ArgumentParser, *classes: type) -> None:
    """The flags of all options that have one."""
    for f in options_of(*classes):
        flag: Flag | None = f.metadata["flag"]
        if flag is None:
            continue
        how: dict[str, Any] = {"help": flag.help or f.metadata["says"]}
        if flag.negates or flag.switch:
            how |= {"action": "store_true"}
        else:
            how |= {"metavar": flag.metavar} if flag.metavar else {}
            how |= {"action": "append", "default": []} if flag.repeated else {"default": None}
            how |= {"type": flag.type} if flag.type is not None else {}
        if flag.name.startswith("-"):
            parser.add_argument(flag.name, dest=f"option_{f.name}", **how)
        else:
            parser.add_argument(f"option_{f.name}", nargs="?", **how)


def given_flags(args: argparse.Namespace, *classes: type) -> dict[str, Any]:
    """The options that were given on the command line, parsed."""
    found = {}
    for f in options_of(*classes):
        flag: Flag | None = f.metadata["flag"]
        value = None if flag is None else getattr(args, f"option_{f.name}")
        if flag is None or value is None or value == [] or value is False:
            continue
        found[f.name] = flag.switch if flag.negates or flag.switch else flag.parse(value)
    return found


# --- values as a command line writes them ----------------------------------------------------------------------


def whole(text: str) -> int:
    """An option's whole number; whether it is a sensible one is for the request to say."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number_range(name: str) -> Callable[[str], int | tuple[int, int]]:
    """Reads ``"8"`` or ``"4-20"`` as a number or a pair."""

    def parse(text: str) -> int | tuple[int, int]:
        found = re.fullmatch(r"\s*(?:(-?\d+)|(\d+)\s*[-:,]\s*(\d+))\s*", text)
        if not found:
            raise RequestError(f"{name}={text!r} is not a size or a range; write 8, or 4-20")
        one, low, high = found.groups()
        return int(one) if one is not None else (int(low), int(high))

    return parse


def named_numbers(given: list[str]) -> dict[str, float]:
    """``["band_gap=1.5"]`` as a mapping."""
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise RequestError(f"--target {text} is not NAME=VALUE; give one such as band_gap=1.5")
    return found


def first_crystal(path: str) -> Any:
    """The first crystal of a file."""
    from autoperi.data.io import read_crystals

    return read_crystals(path)[0]
