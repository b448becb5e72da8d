"""What was asked of ``generate``, checked before any work starts.

A request is parsed once into numbers; everything after it may rely on them. Each refusal is one line that names the
value and the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from numbers import Integral
from typing import TYPE_CHECKING, Any

from autoperi.data.checks import whole_number
from autoperi.data.random import check_seed
from autoperi.errors import RequestError
from autoperi.pipelines.target import check_target
from autoperi.symmetry.spacegroup import parse_space_group, space_group
from autoperi.symmetry.wyckoff import can_fit
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from autoperi.pipelines.template import Template

MAX_ATOMS = 60
"""Largest primitive cell that is proposed where ``num_atoms`` says nothing: the largest the prior was trained on."""
MAX_REQUESTED_ATOMS = 1000
MAX_SAMPLES = 1_000_000
MAX_FINISH = 10_000
RANKINGS = ("energy", "probability", "none")


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request.

    Attributes:
        n: crystals wanted.
        seed: of all randomness.
        formula: atomic number to atoms in one reduced formula unit, or None for de novo.
        units: admissible numbers of formula units in the cell (empty for de novo).
        space_group: 1..230 or None.
        min_atoms, max_atoms: of the cell.
        chemical_system: elements that must all be there and nothing else, or None (de novo only).
        exclude_elements: elements that must not be there.
        num_elements: fewest and most distinct elements, or None.
        rank: one of :data:`RANKINGS`.
        steps: lattice-relaxation passes, or None for the model's default.
        finish: steps with the potential after that.
        like: the crystal to be imitated, or None.
        target: names of properties and what they should be.
    """

    n: int
    seed: int
    formula: tuple[tuple[int, int], ...] | None
    units: tuple[int, ...]
    space_group: int | None
    min_atoms: int
    max_atoms: int
    chemical_system: frozenset[int] | None
    exclude_elements: frozenset[int]
    rank: str
    steps: int | None
    like: Template | None = None
    target: tuple[tuple[str, float], ...] = ()
    num_elements: tuple[int, int] | None = None
    finish: int = 0

    @property
    def atoms_per_unit(self) -> int:
        """Atoms of one formula unit."""
        return sum(count for _, count in self.formula or ())


def make_request(
    composition: Any = None,
    *,
    n: int = 1,
    space_group: int | str | None = None,
    num_atoms: int | tuple[int, int] | None = None,
    chemical_system: str | Iterable[str] | None = None,
    exclude_elements: Iterable[str] = (),
    num_elements: int | tuple[int, int] | None = None,
    target: Mapping[str, float] | None = None,
    like: Any = None,
    rank: str = "energy",
    steps: int | None = None,
    finish: int = 0,
    seed: int | None = None,
) -> GenerationRequest:
    """Check everything that can be checked without a model.

    Raises:
        RequestError: naming the value and the remedy.
    """
    n = whole_number(n, "n", most=MAX_SAMPLES)
    if rank not in RANKINGS:
        raise RequestError(f"rank={rank!r} is not known; choose one of {', '.join(RANKINGS)}")
    steps = check_steps(steps)
    finish = whole_number(finish, "finish", least=0, most=MAX_FINISH)
    wanted = () if target is None else tuple(check_target(target).items())
    group = None if space_group is None else parse_space_group(space_group)
    low, high = _atoms_range(num_atoms)
    excluded = frozenset(element_list(exclude_elements, "exclude_elements"))
    system = None if chemical_system is None else frozenset(element_list(chemical_system, "chemical_system"))
    if system is not None and not system:
        raise RequestError(f"chemical_system={chemical_system!r} names no element; give one such as 'Li-Fe-O'")
    if system and system & excluded:
        both = ", ".join(sorted(_symbol(z) for z in system & excluded))
        raise RequestError(f"{both} is both in chemical_system and in exclude_elements; drop it from one of them")
    formula = None if composition is None else parse_formula(composition)
    elements = _elements_range(num_elements)
    if elements is not None:
        _check_elements(elements, num_elements, formula, composition, system)
    units: tuple[int, ...] = ()
    if formula is not None:
        units = _units(formula, composition, group, low, high, system, excluded, num_atoms)
    template = None
    if like is not None:
        template, units = _template(like, formula, composition, group, units)
    return GenerationRequest(
        n,
        check_seed(seed),
        formula,
        units,
        group,
        low,
        high,
        system,
        excluded,
        rank,
        steps,
        template,
        wanted,
        elements,
        finish,
    )


def _template(
    like: Any, formula: tuple[tuple[int, int], ...] | None, composition: Any, group: int | None, units: tuple[int, ...]
) -> tuple[Template, tuple[int, ...]]:
    """The template, and its number of formula units alone."""
    if formula is None:
        raise RequestError(
            "like needs a composition, whose elements take the places of the crystal's own; give one such as 'KCl'"
        )
    from autoperi.pipelines.template import (  # reads crystals, which takes torch: a bad formula is refused without it
        check_like,
        template_of,
    )

    template = template_of(like)
    count = check_like(template, formula, composition)
    if group is not None and group != template.number:
        raise RequestError(f"like is a crystal of space group {template.number}, not {group}; drop space_group")
    if count not in units:
        raise RequestError(
            f"like has {template.n_atoms} atoms in its primitive cell, which num_atoms excludes; drop num_atoms"
        )
    return template, (count,)


def check_steps(steps: Any) -> int | None:
    """``steps`` if it is None or a number of relaxation passes.

    Raises:
        RequestError: it is neither.
    """
    if steps is None:
        return None
    return whole_number(
        steps,
        "steps",
        least=0,
        most=20,
        refusal="is not a number of relaxation passes; give an integer from 0 to 20, or None",
    )


def parse_formula(composition: Any) -> tuple[tuple[int, int], ...]:
    """A formula, pymatgen ``Composition`` or mapping to (atomic number, atoms in the smallest whole formula unit), by
    number.

    Raises:
        RequestError: no formula, an unknown element, or amounts that are not a ratio of small whole numbers.
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
        z = element_number(re.sub(r"\d*[+-]$", "", str(symbol)))
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
    divisor = reduce(math.gcd, whole.values())
    return tuple(sorted((z, c // divisor) for z, c in whole.items()))


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
    symbols = re.findall(r"[A-Z][a-z]?", text)
    for symbol in symbols:
        if symbol not in _symbols():
            raise RequestError(f"composition={formula!r} names {symbol!r}, which is not an element{_hint(symbol)}")
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
        return [element_number(str(name)) for name in names if str(name)]
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from None


def element_number(symbol: str) -> int:
    """Atomic number of an element symbol.

    Raises:
        RequestError: there is no such element.
    """
    number = _symbols().get(symbol)
    if number is None:
        raise RequestError(f"{symbol!r} is not an element{_hint(symbol)}")
    return number


def _hint(symbol: str) -> str:
    import difflib

    close = difflib.get_close_matches(symbol, list(_symbols()), n=2, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else "; use symbols such as Li, Fe, O"


def _symbols() -> dict[str, int]:
    from ase.data import chemical_symbols

    return {s: z for z, s in enumerate(chemical_symbols) if 1 <= z <= MAX_ATOMIC_NUMBER}


def _symbol(z: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[z]


def _atoms_range(num_atoms: Any) -> tuple[int, int]:
    return (1, MAX_ATOMS) if num_atoms is None else _range(num_atoms, "num_atoms", MAX_REQUESTED_ATOMS)


def _range(value: Any, name: str, most: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, Integral) for v in pair) or pair[0] > pair[1]:
        raise RequestError(f"{name}={value!r} is not a size or an ascending (smallest, largest) pair")
    low, high = (whole_number(v, name, most=most) for v in pair)
    return low, high


def _elements_range(num_elements: Any) -> tuple[int, int] | None:
    return None if num_elements is None else _range(num_elements, "num_elements", MAX_ATOMIC_NUMBER)


def _check_elements(
    wanted: tuple[int, int],
    given: Any,
    formula: tuple[tuple[int, int], ...] | None,
    composition: Any,
    system: frozenset[int] | None,
) -> None:
    """Refuse a composition or a chemical system of another number of elements."""
    for name, elements in (("composition", formula), ("chemical_system", system)):
        if elements is not None and not wanted[0] <= len(elements) <= wanted[1]:
            said = f"composition={composition!s}" if name == "composition" else name
            raise RequestError(
                f"num_elements={given!r} excludes {said}, which has {len(elements)}; drop one of the two"
            )


def _units(
    formula: tuple[tuple[int, int], ...],
    composition: Any,
    group: int | None,
    low: int,
    high: int,
    system: frozenset[int] | None,
    excluded: frozenset[int],
    num_atoms: Any,
) -> tuple[int, ...]:
    elements = {z for z, _ in formula}
    if elements & excluded:
        names = ", ".join(sorted(_symbol(z) for z in elements & excluded))
        raise RequestError(
            f"composition={composition!s} contains {names}, which exclude_elements forbids; drop it from one of them"
        )
    if system is not None and elements != system:
        raise RequestError(
            f"composition={composition!s} is not of the chemical system {'-'.join(sorted(map(_symbol, system)))}; "
            "drop one of the two"
        )
    size = sum(c for _, c in formula)
    units = tuple(k for k in range(1, high // size + 1) if low <= k * size <= high)
    if not units:
        if size > MAX_REQUESTED_ATOMS:
            raise RequestError(
                f"composition={composition!s} has {size} atoms per formula unit; a cell may have up to "
                f"{MAX_REQUESTED_ATOMS}"
            )
        if num_atoms is None:
            raise RequestError(
                f"composition={composition!s} has {size} atoms per formula unit, more than the default limit of "
                f"{MAX_ATOMS}; pass num_atoms={size}"
            )
        nearest = max(1, round(low / size)) * size
        raise RequestError(
            f"num_atoms={num_atoms!r} fits no whole formula units of {composition!s} ({size} atoms each); use "
            f"{nearest} or another multiple of {size}"
        )
    if group is not None:
        counts = [c for _, c in formula]
        fitting = tuple(k for k in units if can_fit([k * c for c in counts], group))
        if not fitting:
            name = f"{space_group(group).symbol} ({group})"
            raise RequestError(
                f"space group {name} has no Wyckoff positions that hold {composition!s} in a primitive cell of {low} "
                f"to {high} atoms; "
                "choose another space group or a larger num_atoms"
            )
        units = fitting
    return units
