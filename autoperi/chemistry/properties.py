"""The properties that AutoPeri predicts: one row a property, which tables, heads, targets and figures read."""

from __future__ import annotations

from dataclasses import dataclass

METAL_EV = 1e-3
"""A band gap below this is a metal's."""


@dataclass(frozen=True)
class Property:
    """One predicted property.

    Attributes:
        name: what ``score(properties=…)`` and ``generate(target=…)`` call it.
        column: of the table that ``score`` gives; its unit is at the end.
        unit: of the column.
        group: the group of heads that predict it together.
        width: distance from a target that costs half a nat, in the unit, or of the logarithm.
        positive: it has no value at or below zero, so that distances are those of logarithms.
        label: what tables of Materials Project and matbench call it.
    """

    name: str
    column: str
    unit: str
    group: str
    width: float
    positive: bool = False
    label: str = ""

    @property
    def std(self) -> str:
        """The column of one standard deviation."""
        return f"{self.column}_std"


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property("formation_energy", "formation_energy_per_atom_eV", "eV/atom", "formation_energy", 0.1),
        Property("band_gap", "band_gap_eV", "eV", "band_gap", 0.3),
        Property("bulk_modulus", "bulk_modulus_GPa", "GPa", "elastic", 0.15, True, "k_vrh"),
        Property("shear_modulus", "shear_modulus_GPa", "GPa", "elastic", 0.15, True, "g_vrh"),
        Property("last_phonon_peak", "last_phonon_peak_per_cm", "1/cm", "phonon", 0.1, True, "last_phdos_peak_per_cm"),
    )
}
"""In the order in which ``score`` names them."""
LABELS = {p.name: p.label for p in PROPERTIES.values() if p.label}
"""Columns of labels whose name differs from the property's; the unit is that of the column."""
