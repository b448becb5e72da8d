"""Formulas and lists of elements as users write them, read into atomic numbers; each refusal names the value and the
remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

from autoperi.data.elements import element_number, symbol_hint, symbols
from autoperi.errors import RequestError

Formula = tuple[tuple[int, int], ...]
"""Atomic number and atoms in one reduced formula unit, of each element, by number."""
MAX_SITES = 60


def parse_formula(composition: Any, *, reduced: bool = True) -> Formula:
    """A formula, pymatgen ``Composition`` or mapping to (atomic number, atoms in the smallest whole formula unit), by
    number.

    Args:
        composition: any of these.
        reduced: False keeps the amounts as they are written, which must be whole.

    Raises:
        RequestError: no formula, an unknown element, or amounts that are not whole or a ratio of small whole numbers.
    """
    amounts: Mapping[Any, float]
    if isinstance(composition, str):
        amounts = _amounts(composition)
    elif hasattr(composition, "get_el_amt_dict"):
        amounts = composition.get_el_amt_dict()
    elif isinstance(composition, Mapping):
        amounts = {str(k): v for k, v in composition.items()}
    else:
        raise RequestError(
            f"composition={composition!r} is a {type(composition).__name__}; give a formula such as 'LiFePO4', a "
            "Composition, or None"
        )
    if not amounts:
        raise RequestError(
            f"composition={composition!r} is empty; give a formula such as 'LiFePO4', or None for de novo generation"
        )
    ratios: dict[int, Fraction] = {}
    for symbol, amount in amounts.items():
        z = element_number(re.sub(r"\d*[+-]$", "", str(symbol)), error=RequestError)
        try:
            value = float(amount)
        except (TypeError, ValueError):
            raise RequestError(
                f"composition={composition!r} has {amount!r} of {symbol}; amounts must be positive numbers"
            ) from None
        if not math.isfinite(value) or value <= 0:
            raise RequestError(f"composition={composition!r} has {amount} of {symbol}; amounts must be positive")
        ratios[z] = ratios.get(z, Fraction(0)) + Fraction(value).limit_denominator(100)
        if abs(float(Fraction(value).limit_denominator(100)) - value) > 1e-4:
            raise RequestError(
                f"composition={composition!r} has {amount} of {symbol}, which is no ratio of small whole numbers; "
                "write whole amounts"
            )
    scale = reduce(math.lcm, (r.denominator for r in ratios.values()))
    whole = {z: int(r * scale) for z, r in ratios.items()}
    if not reduced and scale > 1:
        raise RequestError(f"composition={composition!r} has amounts that are not whole; write whole ones")
    divisor = reduce(math.gcd, whole.values()) if reduced else 1
    return tuple(sorted((z, c // divisor) for z, c in whole.items()))


def parse_sites(given: Any) -> Formula:
    """Sites of each element, written like a formula, at most :data:`MAX_SITES` of them.

    Raises:
        RequestError: as :func:`parse_formula`, or numbers that are not whole or too large.
    """
    try:
        found = parse_formula(given, reduced=False)
    except RequestError as error:
        said = str(error).replace("composition=", "sites=")
        raise RequestError(said.replace(", or None for de novo generation", "").replace(", or None", "")) from None
    if any(count < 1 for _, count in found) or sum(count for _, count in found) > MAX_SITES:
        raise RequestError(
            f"sites={given!r} is no list of sites; give whole numbers by element, at most {MAX_SITES} in all, such as "
            "'NaCl2'"
        )
    return found


def _amounts(formula: str) -> Mapping[str, float]:
    from pymatgen.core import Composition

    text = formula.strip()
    if not text:
        raise RequestError("composition='' is empty; give a formula such as 'LiFePO4', or None for de novo generation")
    stray = re.search(r"[^A-Za-z0-9.()\[\]{}\s]", text)
    if stray:
        raise RequestError(
            f"composition={formula!r} has {stray.group()!r} in it, which no formula may; write it like 'Fe2O3', "
            "without charges"
        )
    for symbol in re.findall(r"[A-Z][a-z]?", text):
        if symbol not in symbols():
            raise RequestError(
                f"composition={formula!r} names {symbol!r}, which is not an element{symbol_hint(symbol)}"
            )
    if re.search(r"(?<![\d.])0+(\.0*)?(?![\d.])", text):
        raise RequestError(f"composition={formula!r} has an amount of 0; leave that element out")
    try:
        return Composition(text, strict=True).get_el_amt_dict()
    except Exception:
        raise RequestError(
            f"composition={formula!r} is not a formula; write element symbols and amounts, like 'LiFePO4' or 'Ca(OH)2'"
        ) from None


def element_list(elements: str | Iterable[str], what: str) -> list[int]:
    """Atomic numbers of ``"Li-Fe-O"``, ``"Li,Fe"`` or a sequence of symbols."""
    if not isinstance(elements, Iterable):
        raise RequestError(f"{what}={elements!r} names no elements; give symbols such as 'Li-Fe-O' or ['Li', 'O']")
    names = re.split(r"[-,\s]+", elements.strip()) if isinstance(elements, str) else list(elements)
    try:
        return [element_number(str(name), error=RequestError) for name in names if str(name)]
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from None
