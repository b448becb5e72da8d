"""Compositional validity: can listed oxidation states make the composition neutral, anions being the more electronegative?

The test of SMACT (Davies et al., Chem 1, 617 (2016)) in the form that CDVAE (Xie et al. 2022) made a metric and DiffCSP bounded:
reduced counts; a single element is valid; metals alone are valid; else some choice of one listed oxidation state for each element
must be neutral with every cation strictly less electronegative (Pauling) than every anion.

The verdict depends on the list of oxidation states, so the list is pinned by name. These lists are pymatgen's, not SMACT's: compare rates
only with rates from the same list. Where an element has no states in the list there is no verdict (None); SMACT calls it invalid.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from autoperi.convert import element_number
from autoperi.errors import RequestError, StructureError
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

StateSet: TypeAlias = Literal["pymatgen-icsd", "pymatgen-common", "pymatgen-all"]

_ATTRIBUTE = {
    "pymatgen-icsd": "icsd_oxidation_states",
    "pymatgen-common": "common_oxidation_states",
    "pymatgen-all": "oxidation_states",
}


@dataclass(frozen=True)
class Validity:
    """A verdict.

    Attributes:
        valid: None where nothing can be said.
        reason: one phrase that says why.
    """

    valid: bool | None
    reason: str


def smact_validity(
    composition_counts: Mapping[Any, int],
    *,
    oxidation_states: StateSet = "pymatgen-icsd",
    use_pauling_test: bool = True,
    include_alloys: bool = True,
    max_combinations: float = 1e7,
) -> Validity:
    """Whether a composition is chemically plausible, by SMACT's rule as CDVAE and DiffCSP apply it.

    Args:
        composition_counts: atoms of each element (symbol or atomic number), in any multiple; a pymatgen ``Composition`` will do.
        oxidation_states: ``"pymatgen-icsd"`` (at least ten instances in the ICSD and 1 % of the element's entries),
            ``"pymatgen-common"``, ``"pymatgen-all"``.
        use_pauling_test: ask that every cation be less electronegative than every anion. A composition with an element of unknown
            electronegativity is not put to it.
        include_alloys: call compositions of metals alone valid (:func:`metals`).
        max_combinations: invalid beyond this many combinations of oxidation states, as in DiffCSP. It bounds the definition, not the work.

    Returns:
        ``valid`` is None where an element has no oxidation states in the list.

    Raises:
        StructureError: no elements, an unknown element, or a count that is not a positive whole number.
        RequestError: no such list of oxidation states.
    """
    _check_set(oxidation_states)
    return _smact(_reduced(composition_counts), oxidation_states, use_pauling_test, include_alloys, float(max_combinations))


def charge_neutral(
    composition: Mapping[Any, int], *, oxidation_states: StateSet = "pymatgen-icsd", include_alloys: bool = True
) -> bool | None:
    """Whether one listed oxidation state for each element can add up to zero; None where an element has none in the list.

    An element by itself is neutral, and so are metals alone unless ``include_alloys`` is False. Electronegativity plays no part.

    Raises:
        StructureError, RequestError: as :func:`smact_validity`.
    """
    _check_set(oxidation_states)
    return _smact(_reduced(composition), oxidation_states, False, include_alloys, math.inf).valid


@lru_cache(maxsize=1)
def metals() -> frozenset[int]:
    """Atomic numbers of what SMACT counts as metals.

    Against pymatgen's ``Element.is_metal``: germanium, antimony and polonium are in; promethium and all beyond nobelium are out.
    """
    from pymatgen.core import Element

    return frozenset({z for z in range(1, 103) if Element.from_Z(z).is_metal} - {61} | {32, 51, 84})


def _check_set(name: str) -> None:
    if name not in _ATTRIBUTE:
        raise RequestError(f"oxidation_states={name!r} is not a known list; choose one of {', '.join(_ATTRIBUTE)}")


@lru_cache(maxsize=len(_ATTRIBUTE))
def _states(name: str) -> tuple[tuple[int, ...], ...]:
    """Oxidation states by atomic number; entry 0 and elements without data are empty."""
    from pymatgen.core import Element

    return ((), *(tuple(sorted({int(s) for s in getattr(Element.from_Z(z), _ATTRIBUTE[name])})) for z in range(1, MAX_ATOMIC_NUMBER + 1)))


@lru_cache(maxsize=1)
def _electronegativity() -> tuple[float | None, ...]:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each element without a value
        values = [float(Element.from_Z(z).X) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    return (None, *(None if math.isnan(x) else x for x in values))


def _reduced(counts: Mapping[Any, int]) -> tuple[tuple[int, int], ...]:
    """``((atomic number, count), …)`` sorted by element, counts without a common divisor."""
    merged: dict[int, int] = {}
    for key, count in counts.items():
        if isinstance(count, bool) or not math.isfinite(count) or count != int(count) or count < 1:
            raise StructureError(f"count {count!r} of {key} is not a positive whole number; give the atoms of each element")
        z = _number(key)
        merged[z] = merged.get(z, 0) + int(count)
    if not merged:
        raise StructureError("the composition holds no elements; give at least one, such as {'Na': 1, 'Cl': 1}")
    divisor = math.gcd(*merged.values())
    return tuple((z, merged[z] // divisor) for z in sorted(merged))


@lru_cache(maxsize=1024)
def _number(key: Hashable) -> int:
    if isinstance(key, str):
        return element_number(key)
    if hasattr(key, "symbol"):  # pymatgen Element and Species
        return element_number(str(key.symbol))
    try:
        z = int(key)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        z = 0
    if not 1 <= z <= MAX_ATOMIC_NUMBER:
        raise StructureError(f"{key!r} is not a chemical element; give a symbol, or an atomic number from 1 to {MAX_ATOMIC_NUMBER}")
    return z


@lru_cache(maxsize=65536)
def _smact(counts: tuple[tuple[int, int], ...], name: str, pauling: bool, alloys: bool, max_combinations: float) -> Validity:
    if len(counts) == 1:
        return Validity(True, "single element")
    if alloys and all(z in metals() for z, _ in counts):
        return Validity(True, "all metals")
    states = [_states(name)[z] for z, _ in counts]
    unknown = [z for (z, _), listed in zip(counts, states, strict=True) if not listed]
    if unknown:
        return Validity(None, f"no oxidation states of {_symbols(unknown)} in {name}")
    combinations = math.prod(len(listed) for listed in states)
    if combinations > max_combinations:
        return Validity(False, f"{combinations} combinations of oxidation states, more than {max_combinations:g}")
    if not _balances([(count, listed) for (_, count), listed in zip(counts, states, strict=True)]):
        return Validity(False, f"no neutral combination of oxidation states in {name}")
    if not pauling:
        return Validity(True, "charge neutral")
    scale = [x for z, _ in counts if (x := _electronegativity()[z]) is not None]
    if len(scale) < len(counts):
        return Validity(True, "charge neutral; an electronegativity is unknown")
    # The most electronegative cation splits the elements: up to it no anions, beyond it no cations.
    for split in sorted(set(scale)):
        allowed = [
            (count, tuple(s for s in listed if (s >= 0 if x <= split else s <= 0)))
            for (_, count), listed, x in zip(counts, states, scale, strict=True)
        ]
        if _balances(allowed):
            return Validity(True, "charge neutral, anions more electronegative than cations")
    return Validity(False, "neutral only with a cation at least as electronegative as an anion")


def _symbols(numbers: list[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in numbers)


def _balances(terms: list[tuple[int, tuple[int, ...]]]) -> bool:
    """Whether one state s of each term can be chosen so that Σ count·s = 0.

    Sums reached so far are the set bits of one integer, shifted so that none is negative: linear in elements times states.
    """
    if not all(listed for _, listed in terms):
        return False
    reached, zero = 1, 0
    for count, listed in terms:
        lowest = min(listed)
        zero -= count * lowest
        following = 0
        for state in listed:
            following |= reached << (count * (state - lowest))
        reached = following
    return zero >= 0 and bool(reached >> zero & 1)
