"""Compositional validity: can listed oxidation states make the composition neutral, anions being the more
electronegative?

The test of SMACT (Davies et al., Chem 1, 617 (2016)) in the form that CDVAE (Xie et al. 2022) made a metric and DiffCSP
bounded: reduced counts; a single element is valid; metals alone are valid; else some choice of one listed oxidation
state for each element must be neutral with every cation strictly less electronegative (Pauling) than every anion.

The verdict depends on the list of oxidation states, so the list is pinned by name: compare rates only with rates from
the same list. The ``pymatgen-…`` lists need nothing else; the ``smact-…`` lists are those of the installed ``smact``
package, with its electronegativities. With these the verdict is that of ``smact.screening.smact_validity``, apart from
three cases that are decided on purpose:

* an element without states in the list: no verdict (None); SMACT calls the composition invalid;
* an element of unknown electronegativity: not put to Pauling's test, as in CDVAE and DiffCSP, where SMACT 2 raised an
  error that they took for a pass; SMACT 4 calls the composition invalid;
* more than ``max_combinations``: invalid, as in DiffCSP; SMACT goes through them all.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from autoperi.data.elements import electronegativity, element_number
from autoperi.errors import RequestError, StructureError
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

StateSet: TypeAlias = Literal[
    "pymatgen-icsd",
    "pymatgen-common",
    "pymatgen-all",
    "smact-smact14",
    "smact-icsd16",
    "smact-icsd24",
    "smact-pymatgen_sp",
    "smact-wiki",
    "smact-default",
]

STATE_SETS = get_args(StateSet)
"""Every list that has a name here; those that begin with ``smact-`` need the ``smact`` package."""


@dataclass(frozen=True)
class Validity:
    """A verdict.

    Attributes:
        valid: None where nothing can be said.
        reason: one phrase that says why; None where there is nothing to say.
    """

    valid: bool | None
    reason: str | None


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
        composition_counts: atoms of each element (symbol or atomic number), in any multiple; a pymatgen ``Composition``
            will do.
        oxidation_states: ``"pymatgen-icsd"`` (at least ten instances in the ICSD and 1 % of the element's entries),
            ``"pymatgen-common"``, ``"pymatgen-all"``; or, of the ``smact`` package, ``"smact-smact14"`` (the list of
            SMACT 2, which CDVAE and DiffCSP used), ``"smact-icsd16"``, ``"smact-icsd24"`` (OMatG's),
            ``"smact-pymatgen_sp"``, ``"smact-wiki"`` and ``"smact-default"`` (what SMACT 4 takes where no list is
            named: three or more entries in the ICSD of 2024).
        use_pauling_test: ask that every cation be less electronegative than every anion. A composition with an element
            of unknown electronegativity is not put to it.
        include_alloys: call compositions of metals alone valid (:func:`metals`).
        max_combinations: invalid beyond this many combinations of oxidation states, as in DiffCSP. It bounds the
            definition, not the work.

    Returns:
        ``valid`` is None where an element has no oxidation states in the list.

    Raises:
        StructureError: no elements, an unknown element, or a count that is not a positive whole number.
        RequestError: no such list of oxidation states, or a list of the ``smact`` package without that package.
    """
    check_states(oxidation_states)
    return _smact(
        _reduced(composition_counts), oxidation_states, use_pauling_test, include_alloys, float(max_combinations)
    )


def charge_neutral(
    composition: Mapping[Any, int], *, oxidation_states: StateSet = "pymatgen-icsd", include_alloys: bool = True
) -> bool | None:
    """Whether one listed oxidation state for each element can add up to zero; None where an element has none in the
    list.

    An element by itself is neutral, and so are metals alone unless ``include_alloys`` is False. Electronegativity plays
    no part.

    Raises:
        StructureError, RequestError: as :func:`smact_validity`.
    """
    check_states(oxidation_states)
    return _smact(_reduced(composition), oxidation_states, False, include_alloys, math.inf).valid


def guess_neutral(composition: Mapping[Any, int]) -> bool | None:
    """Whether pymatgen's ``Composition.oxi_state_guesses(max_sites=-1)`` finds a neutral assignment, as PGCGM and
    CubicGAN ask.

    Unlike SMACT's rule, atoms of one element may differ in their state (Fe₃O₄ is neutral). pymatgen lists every
    combination, which takes hours for some formulas; only whether there is one matters here, and that is found in
    linear time. Its states are those of the ICSD, or the common ones of an element that the ICSD says nothing of. None
    where an element has no states at all; pymatgen finds no guess then.

    Raises:
        StructureError: as :func:`smact_validity`.
    """
    return _guess(_reduced(composition))


@lru_cache(maxsize=65536)
def _guess(counts: tuple[tuple[int, int], ...]) -> bool | None:
    if len(counts) == 1:
        return True
    icsd, common = _states("pymatgen-icsd"), _states("pymatgen-common")
    listed = [(count, icsd[z] or common[z]) for z, count in counts]
    if not all(states for _, states in listed):
        return None
    return _balances([(1, states) for count, states in listed for _ in range(count)])


@lru_cache(maxsize=1)
def metals() -> frozenset[int]:
    """Atomic numbers of what SMACT counts as metals.

    Against pymatgen's ``Element.is_metal``: germanium, antimony and polonium are in; promethium and all beyond nobelium
    are out.
    """
    from pymatgen.core import Element

    return frozenset({z for z in range(1, 103) if Element.from_Z(z).is_metal} - {61} | {32, 51, 84})


def check_states(name: str) -> None:
    """Whether the list of oxidation states exists and can be read, asked before any work starts.

    Raises:
        RequestError: it does not, or the package that brings it is not installed.
    """
    if name not in STATE_SETS:
        raise RequestError(f"oxidation_states={name!r} is not a known list; choose one of {', '.join(STATE_SETS)}")
    if name.startswith("smact-"):
        _states(name)


@lru_cache(maxsize=len(STATE_SETS))
def _states(name: str) -> tuple[tuple[int, ...], ...]:
    """Oxidation states by atomic number; entry 0 and elements without data are empty."""
    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    package, _, column = name.partition("-")
    if package == "pymatgen":
        attribute = "oxidation_states" if column == "all" else f"{column}_oxidation_states"
        found = {e.symbol: getattr(e, attribute) for e in elements}
    elif column == "default":  # not a column of smact's table but a filter of the ICSD's counts
        found = _smact_default()
    else:
        attribute = f"oxidation_states_{column.removeprefix('pymatgen_')}"
        found = {symbol: getattr(data, attribute) or () for symbol, data in _smact_elements().items()}
    return ((), *(tuple(sorted({int(s) for s in found.get(e.symbol, ())})) for e in elements))


def _smact_elements() -> dict[str, Any]:
    """What the ``smact`` package knows of each element, by symbol."""
    try:
        import smact
    except ImportError:
        raise RequestError(
            'the oxidation states named "smact-…" come with the package smact, which is not installed; run pip '
            'install "autoperi[metrics]", or take one of pymatgen\'s lists'
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {symbol: smact.Element(symbol) for symbol in smact.ordered_elements(1, 103)}


def _smact_default() -> dict[str, list[int]]:
    _smact_elements()  # names the missing package
    from smact.utils.oxidation import ICSD24OxStatesFilter

    table = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
    return {
        str(e): [int(s) for s in str(states).split()]
        for e, states in zip(table["element"], table["oxidation_state"], strict=True)
    }


@lru_cache(maxsize=2)
def _electronegativities(source: str = "pymatgen") -> tuple[float | None, ...]:
    """Pauling electronegativity by atomic number, None where unknown; the two sources differ for a dozen heavy
    elements.
    """
    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    if source == "smact":
        known = _smact_elements()
        return (None, *(known[e.symbol].pauling_eneg if e.symbol in known else None for e in elements))
    return (None, *(None if math.isnan(x := electronegativity(e.Z)) else x for e in elements))


def _reduced(counts: Mapping[Any, int]) -> tuple[tuple[int, int], ...]:
    """``((atomic number, count), …)`` sorted by element, counts without a common divisor."""
    merged: dict[int, int] = {}
    for key, count in counts.items():
        if isinstance(count, bool) or not math.isfinite(count) or count != int(count) or count < 1:
            raise StructureError(
                f"count {count!r} of {key} is not a positive whole number; give the atoms of each element"
            )
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
        raise StructureError(
            f"{key!r} is not a chemical element; give a symbol, or an atomic number from 1 to {MAX_ATOMIC_NUMBER}"
        )
    return z


@lru_cache(maxsize=65536)
def _smact(
    counts: tuple[tuple[int, int], ...], name: str, pauling: bool, alloys: bool, max_combinations: float
) -> Validity:
    if len(counts) == 1:
        return Validity(True, "single element")
    if alloys and all(z in metals() for z, _ in counts):
        return Validity(True, "all metals")
    states = [_states(name)[z] for z, _ in counts]
    from ase.data import chemical_symbols

    if unknown := [chemical_symbols[z] for (z, _), listed in zip(counts, states, strict=True) if not listed]:
        return Validity(None, f"no oxidation states of {', '.join(unknown)} in {name}")
    combinations = math.prod(len(listed) for listed in states)
    if combinations > max_combinations:
        return Validity(False, f"{combinations} combinations of oxidation states, more than {max_combinations:g}")
    if not _balances([(count, listed) for (_, count), listed in zip(counts, states, strict=True)]):
        return Validity(False, f"no neutral combination of oxidation states in {name}")
    if not pauling:
        return Validity(True, "charge neutral")
    values = _electronegativities(name.partition("-")[0])
    scale = [x for z, _ in counts if (x := values[z]) is not None]
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


def _balances(terms: list[tuple[int, tuple[int, ...]]]) -> bool:
    """Whether one state s of each term can be chosen so that Σ count·s = 0.

    Sums reached so far are the set bits of one integer, shifted so that none is negative: linear in elements times
    states.
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
