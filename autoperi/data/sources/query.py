"""What is asked of a provider: the same words for all of them, those that one cannot honour refused before any work."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autoperi.data.checks import whole_number
from autoperi.data.elements import element_number, symbol_of
from autoperi.data.files import explained
from autoperi.errors import DataError, RequestError


@dataclass(frozen=True)
class Query:
    """Which documents of a provider are wanted; every condition must hold.

    Attributes:
        formula: a formula, such as ``LiFePO4``.
        elements: symbols that must be there, others may.
        chemical_system: exactly these elements.
        ids: names of the provider.
        max_atoms: atoms in the provider's cell.
        max_above_hull: eV/atom above the provider's hull.
        filter: an expression in the provider's own language.
        limit: documents at most.
    """

    formula: str | None = None
    elements: tuple[str, ...] | None = None
    chemical_system: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    max_atoms: int | None = None
    max_above_hull: float | None = None
    filter: str | None = None
    limit: int | None = None

    def asked(self) -> dict[str, Any]:
        """The conditions that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def make_query(source: str, supports: Collection[str], **given: Any) -> Query:
    """A checked query.

    Args:
        source: what a message calls the provider.
        supports: conditions that the provider honours.
        **given: of :class:`Query`; elements as symbols or ``"Li-O"``, ids as a list or the path of a file of them.

    Raises:
        RequestError: a condition that the provider does not honour, or a value that is none.
        DataError: a file of ids that cannot be read.
    """
    said = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in supports:
            words = ", ".join(f.name for f in fields(Query) if f.name in supports)
            raise RequestError(f"{name}={said[name]!r} cannot be asked of {source}; it knows {words}: leave it out")
    for name in ("elements", "chemical_system"):
        if name in said:
            said[name] = _elements(said[name], name)
    if "formula" in said:
        said["formula"] = _formula(str(said["formula"]))
    if "ids" in said:
        said["ids"] = read_ids(said["ids"])
    for name in ("max_atoms", "limit"):
        if name in said:
            said[name] = whole_number(said[name], name)
    if "max_above_hull" in said:
        value = float(said["max_above_hull"])
        if not 0 <= value < math.inf:
            raise RequestError(f"max_above_hull={value} is no energy of at least 0; give eV/atom, such as 0.1")
        said["max_above_hull"] = value
    return Query(**said)


def read_ids(given: str | Path | Iterable[str]) -> tuple[str, ...]:
    """Ids, each once and in order: a list, words with commas between them, or a file of one id a line.

    Raises:
        DataError: a file that is not there. RequestError: no id at all.
    """
    if isinstance(given, (str, Path)):
        path = Path(given)
        if path.suffix.lower() in (".txt", ".csv", ".lst"):
            if not path.is_file():
                raise DataError(f"{path} does not exist; give a file of one id a line, or ids with commas between them")
            with explained(path, "read"):
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            words = [line.split(",")[0] for line in lines if not line.startswith("#")]
        else:
            words = str(given).split(",")
    else:
        words = [str(word) for word in given]
    found = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not found:
        raise RequestError(f"ids={str(given)!r} names no id; give some, such as mp-149,mp-13, or a file of one a line")
    return found


def _elements(given: str | Iterable[str], name: str) -> tuple[str, ...]:
    words = given.replace(",", "-").replace(" ", "-").split("-") if isinstance(given, str) else given
    try:
        numbers = sorted({element_number(str(word), error=RequestError) for word in words if str(word)})
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None
    if not numbers:
        raise RequestError(f"{name}={given!r} names no elements; give symbols such as Li-O")
    return tuple(sorted(symbol_of(z) for z in numbers))


def _formula(text: str) -> str:
    from pymatgen.core import Composition

    try:
        found = Composition(text, strict=True)
        assert all(float(n).is_integer() for n in found.values())
        return str(found.reduced_formula)
    except Exception:
        raise RequestError(f"formula={text!r} is not a formula of whole numbers; write it like LiFePO4") from None
