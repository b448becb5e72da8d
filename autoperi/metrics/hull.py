"""Energy above the convex hull of reference entries, one pymatgen ``PhaseDiagram`` a chemical system."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from autoperi.errors import AutoPeriWarning, RequestError
from autoperi.metrics.references import KINDS, Kind, References, composition_of, reference_entries
from autoperi.metrics.relaxation import relax_one, single_point
from autoperi.progress import progress_bar

MAX_DIAGRAM = 6
"""Elements up to which a whole diagram is made: its facets grow fast (ten elements take most of a minute), one point's
do not.
"""


@dataclass(frozen=True)
class HullDistance:
    """Where one crystal stands.

    Attributes:
        energy: above the hull of the references in eV/atom, negative below it; None where it cannot be said.
        reason: why, else None.
        decomposition: reduced formulas of the references that span the hull there, and their share of the atoms.
    """

    energy: float | None
    reason: str | None = None
    decomposition: Mapping[str, float] = field(default_factory=dict)


class Hull:
    """Convex hulls of one set of references.

    Entries are kept by their set of elements, the lowest of each composition; a chemical system's diagram is made of
    the entries of its subsets when it is first asked for, and kept.

    Args:
        references: formation energies put the elements at zero; of total energies, the lowest entry of each element is
            its zero.
    """

    def __init__(self, references: References) -> None:
        self.references = references
        self._lowest: dict[frozenset[str], dict[str, tuple[Any, float]]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen has no electronegativity of helium to order a formula by
            self._index(references)
        self._diagrams: dict[frozenset[str], Any] = {}
        self._points: dict[str, tuple[float, dict[str, float]] | str] = {}

    def _index(self, references: References) -> None:
        for composition, energy in zip(references.compositions, references.energies, strict=True):
            plain = composition.element_composition
            same = self._lowest.setdefault(frozenset(plain.get_el_amt_dict()), {})
            formula = plain.reduced_formula
            if formula not in same or energy < same[formula][1]:
                same[formula] = (plain, float(energy))
        if references.kind == "formation":
            # elements are at zero, and so is one that some compound holds though no entry of its own is given
            from pymatgen.core import Composition

            for element in set().union(*self._lowest):
                bottom = Composition(element)
                alone = self._lowest.get(frozenset([element]), {})
                lowest = min([0.0, *(energy for _, energy in alone.values())])
                self._lowest[frozenset([element])] = {bottom.reduced_formula: (bottom, lowest)}

    def missing(self, elements: Iterable[str]) -> list[str]:
        """Elements without a reference of their own, sorted."""
        return sorted(e for e in elements if frozenset([e]) not in self._lowest)

    def entries(self, elements: Iterable[str]) -> list[Any]:
        """``PDEntry`` of the lowest reference at each composition within the elements."""
        from pymatgen.analysis.phase_diagram import PDEntry

        present = sorted(set(elements))
        subsets = (frozenset(part) for k in range(1, len(present) + 1) for part in combinations(present, k))
        return [
            PDEntry(composition, energy * composition.num_atoms)
            for subset in subsets
            for composition, energy in self._lowest.get(subset, {}).values()
        ]

    def diagram(self, elements: Iterable[str]) -> Any:
        """pymatgen ``PhaseDiagram`` of a chemical system.

        Raises:
            RequestError: an element has no reference.
        """
        from pymatgen.analysis.phase_diagram import PhaseDiagram

        system = frozenset(elements)
        if absent := self.missing(system):
            raise RequestError(
                f"the references have no entry of {', '.join(absent)}; add one, or leave these crystals out"
            )
        if system not in self._diagrams:
            self._diagrams[system] = PhaseDiagram(self.entries(system))
        return self._diagrams[system]

    def elemental_energy(self, composition: Any) -> float:
        """``Σ x_i E_i`` of the lowest elemental references, eV/atom."""
        amounts = composition.fractional_composition.get_el_amt_dict()
        return math.fsum(
            x * min(e for _, e in self._lowest[frozenset([symbol])].values()) for symbol, x in amounts.items()
        )

    def at(self, composition: Any) -> tuple[float, dict[str, float]]:
        """Energy of the hull at a composition in eV/atom, and the phases there with their share of the atoms.

        Raises:
            RequestError: an element has no reference.
        """
        plain = composition.element_composition
        key = plain.reduced_formula
        known = self._points.get(key)
        if known is None:
            known = self._points[key] = self._solve(plain)
        if isinstance(known, str):
            raise RequestError(known)
        return known

    def _solve(self, composition: Any) -> tuple[float, dict[str, float]] | str:
        elements = frozenset(composition.get_el_amt_dict())
        if absent := self.missing(elements):
            return f"no reference for {', '.join(absent)}"
        try:
            if len(elements) > MAX_DIAGRAM:
                phases, energy = lowest_mixture(self.entries(elements), composition)
            else:
                phases, energy = self.diagram(elements).get_decomp_and_hull_energy_per_atom(composition)
        except Exception as error:  # a flat or degenerate diagram is one crystal's loss
            return f"no hull ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
        shares: dict[str, float] = {}
        for entry, amount in sorted(phases.items(), key=lambda item: -item[1]):
            shares[entry.composition.reduced_formula] = round(float(amount), 6)
        return float(energy), shares


def lowest_mixture(entries: Sequence[Any], composition: Any) -> tuple[dict[Any, float], float]:
    """The hull at one composition as a linear program: the mixture of entries of lowest energy that has this
    composition.

    Args:
        entries: pymatgen entries.
        composition: pymatgen composition.

    Returns:
        Entries with their share of the atoms, and the energy in eV/atom.

    Raises:
        RequestError: no mixture of the entries has the composition.
    """
    from scipy.optimize import linprog

    symbols = sorted(composition.get_el_amt_dict())
    entries = [entry for entry in entries if set(entry.composition.get_el_amt_dict()) <= set(symbols)]
    matrix = np.array([[entry.composition.get_atomic_fraction(symbol) for entry in entries] for symbol in symbols])
    wanted = np.array([composition.get_atomic_fraction(symbol) for symbol in symbols])
    best = linprog(
        [entry.energy_per_atom for entry in entries], A_eq=matrix, b_eq=wanted, bounds=(0, None), method="highs"
    )
    if not best.success:
        raise RequestError(
            f"no mixture of the references has the composition {composition.reduced_formula}; add references"
        )
    return {entry: float(x) for entry, x in zip(entries, best.x, strict=True) if x > 1e-8}, float(best.fun)


def energy_above_hull(
    crystals: Sequence[Any],
    energies: Sequence[float | None],
    references: References | Hull,
    *,
    scale: Kind = "formation",
    judge: str | None = None,
) -> list[HullDistance]:
    """Distance of each crystal to the hull that the references span; the crystal itself is not part of it.

    ``E_hull = E - min Σ f_k E_k`` over mixtures of references of the same composition, eV/atom (Ong et al. 2008;
    pymatgen ``PhaseDiagram``). Negative: more stable than everything in the references.

    Args:
        crystals: structures, atoms, compositions or formulas.
        energies: eV/atom; None or NaN where there is none.
        references: see :func:`autoperi.metrics.references.reference_entries`; a :class:`Hull` keeps its diagrams
            between calls.
        scale: of ``energies``. Formation energies are compared with total references through the references' own
            elements.
        judge: calculator that gave ``energies``; a warning where it is not the one of the references.

    Raises:
        RequestError: total energies against formation energies: there is no zero that they share.
    """
    hull = references if isinstance(references, Hull) else Hull(references)
    if scale not in KINDS:
        raise RequestError(f"scale={scale!r} is no scale of energies; choose formation or total")
    if scale == "total" and hull.references.kind == "formation":
        raise RequestError(
            "total energies have no common zero with references given as formation energies; recompute the references "
            "with the same calculator (they need structures), or turn the energies into formation energies with "
            "formation_energies"
        )
    facts = hull_facts(hull.references, scale=scale, judge=judge)
    if facts["mixed"]:
        warnings.warn(f"energy above hull: {facts['note']}", AutoPeriWarning, stacklevel=2)
    out = []
    for crystal, energy in zip(crystals, energies, strict=True):
        composition = composition_of(crystal)
        if energy is None or not math.isfinite(energy):
            out.append(HullDistance(None, "no energy"))
            continue
        try:
            bottom, phases = hull.at(composition)
        except RequestError as error:
            out.append(HullDistance(None, str(error)))
            continue
        if scale == "formation" and hull.references.kind == "total":
            bottom -= hull.elemental_energy(composition)
        out.append(HullDistance(round(float(energy) - bottom, 6), None, phases))
    return out


def hull_facts(references: References, *, scale: Kind, judge: str | None) -> dict[str, Any]:
    """What a report must say of the scale of an energy above hull.

    ``mixed`` is True where crystals and references come from different methods, None where the crystals' method is not
    named.
    """
    same = judge == references.judge
    note = None
    if judge is not None and not same:
        theirs = references.judge or f"{references.source} as given"
        note = f"crystals have energies of {judge}, references of {theirs}; errors of the two do not cancel"
    return {
        "crystals": {"judge": judge, "scale": scale},
        "references": references.facts(),
        "mixed": None if judge is None else not same,
        "note": note,
    }


def near_hull(hull: Hull, within: float, elements: Iterable[Iterable[str]] | None = None) -> set[int]:
    """Positions of references at most ``within`` eV/atom above their own hull, elements always; the ones worth
    recomputing.

    Args:
        hull: of the references.
        within: eV/atom.
        elements: chemical systems that matter; entries outside all of them are left out.
    """
    inside = within_systems(elements)
    chosen = set()
    for i, (composition, energy) in enumerate(zip(hull.references.compositions, hull.references.energies, strict=True)):
        if inside(composition):
            try:
                near = len(composition.get_el_amt_dict()) == 1 or energy - hull.at(composition)[0] <= within
            except RequestError:
                near = True
            chosen |= {i} if near else set()
    return chosen


def recompute(
    references: References,
    calculator: Any,
    *,
    judge: str,
    elements: Iterable[Collection[str]] | None = None,
    keep: Collection[int] | None = None,
    relax: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> References:
    """References with the energies of a calculator, for entries that carry a structure; the result has the scale
    ``total``.

    Args:
        references: with structures.
        calculator: ASE calculator, the one that judges the crystals.
        judge: its name, for the report.
        elements: chemical systems that matter; entries outside all of them are left out (not counted as dropped).
        keep: positions of the entries to recompute at all, such as those near the given hull; None for all.
        relax: settings of :func:`autoperi.metrics.relaxation.relax_one`; None takes energies at the given structures.
        progress: show a bar.

    Raises:
        RequestError: no entry has a structure and an energy.
    """
    inside = within_systems(elements)
    chosen = [i for i, c in enumerate(references.compositions) if inside(c) and (keep is None or i in keep)]
    dropped = dict(references.dropped)
    kept, energies, structures = [], [], []
    with progress_bar(len(chosen), enabled=progress, description="references", unit="entry") as bar:
        for i in chosen:
            structure = references.structure_of(i)
            if structure is None:
                energy, reason = None, "no structure"
            elif relax is None:
                energy, reason = single_point(structure, calculator).energy, "the calculator failed"
            else:
                moved = relax_one(structure, calculator, **relax)
                energy, structure, reason = moved.energy_after, moved.structure, "the relaxation failed"
            if energy is None:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                kept.append(i)
                energies.append(energy)
                structures.append(structure)
            bar.update()
    if not kept:
        raise RequestError(
            f"none of {len(chosen)} references could be recomputed ({dropped}); give ComputedStructureEntry or a "
            "table with crystals"
        )
    return replace(
        references,
        compositions=[references.compositions[i] for i in kept],
        energies=energies,
        kind="total",
        judge=judge,
        ids=[references.ids[i] for i in kept] if references.ids else (),
        structure_of=structures.__getitem__,
        dropped=dropped,
    )


def within_systems(elements: Iterable[Iterable[str]] | None) -> Callable[[Any], bool]:
    """Whether a composition lies within one of the chemical systems; True for every composition where they are None."""
    systems = None if elements is None else {frozenset(system) for system in elements}

    @cache
    def inside(present: frozenset[str]) -> bool:
        return systems is None or any(present <= system for system in systems)

    return lambda composition: inside(frozenset(composition.get_el_amt_dict()))


def energies_above_hull(
    formulas: Sequence[str],
    formation_energies: Sequence[float],
    references: Mapping[str, float] | Iterable[tuple[str, float]],
) -> list[float | None]:
    """Energy above hull (eV/atom) of each crystal against references; negative below the hull they span.

    Elements are at zero by definition of a formation energy. A crystal with an element that no reference holds gets
    None.

    Args:
        formulas: of the crystals.
        formation_energies: predicted, eV/atom.
        references: formula to formation energy in eV/atom.

    Raises:
        RequestError: no references, or one that is not a formula with a finite energy.
    """
    given = reference_entries(references if isinstance(references, Mapping) else list(references))
    return [d.energy for d in energy_above_hull(formulas, np.asarray(formation_energies, dtype=float).tolist(), given)]
