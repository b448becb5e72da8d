"""Energy above the convex hull of reference formation energies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from autoperi.errors import RequestError


def energies_above_hull(
    formulas: Sequence[str], formation_energies: Sequence[float], references: Mapping[str, float] | Iterable[tuple[str, float]]
) -> list[float | None]:
    """Energy above hull (eV/atom) of each crystal against references; negative below the hull they span.

    Elements are at zero by definition of a formation energy. A crystal with an element that no reference holds gets None.

    Args:
        formulas: of the crystals.
        formation_energies: predicted, eV/atom.
        references: formula to formation energy in eV/atom.

    Raises:
        RequestError: no references, or one that is not a formula with a finite energy.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    pairs = list(references.items()) if isinstance(references, Mapping) else list(references)
    if not pairs:
        raise RequestError("references is empty; give a mapping of formula to formation energy in eV/atom, or None")
    entries = []
    for formula, energy in pairs:
        try:
            composition = Composition(str(formula), strict=True)
            value = float(energy)
        except Exception:
            raise RequestError(f"references: {formula!r}: {energy!r} is not a formula with an energy in eV/atom") from None
        if not math.isfinite(value):
            raise RequestError(f"references: the energy of {formula!r} is {value}; give a finite number in eV/atom")
        entries.append(PDEntry(composition, value * composition.num_atoms))
    known = {e for entry in entries for e in entry.composition.elements}
    out: list[float | None] = []
    for formula, energy in zip(formulas, formation_energies, strict=True):
        composition = Composition(formula)
        if not set(composition.elements) <= known or not math.isfinite(energy):
            out.append(None)
            continue
        inside = set(composition.elements)
        relevant = [e for e in entries if set(e.composition.elements) <= inside] + [
            PDEntry(Composition(str(Element(str(x)))), 0.0) for x in inside
        ]
        diagram = PhaseDiagram(relevant)
        hull = diagram.get_hull_energy_per_atom(composition)
        out.append(round(float(energy - hull), 6))
    return out
