"""Element descriptors, the starting point of learned element distances."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from pymatgen.core import Element

DESCRIPTORS = (
    "mendeleev_no",
    "electronegativity",
    "row",
    "group",
    "atomic_radius",
    "ionic_radius",
    "highest_state",
    "lowest_state",
)


PGCGM_PROPERTIES = (
    "atomic_number",
    "electronegativity",
    "row",
    "group",
    "atomic_mass",
    "atomic_radius",
    "mendeleev_number",
    "molar_volume",
    "average_ionic_radius",
    "average_cationic_radius",
    "average_anionic_radius",
    "sum_of_ionic_radii",
    "highest_state",
    "lowest_state",
    "average_common_state",
    "average_state",
    "noble_gas",
    "transition_metal",
    "post_transition_metal",
    "metalloid",
    "alkali",
    "alkaline",
    "halogen",
)
"""The 23 properties of Zhao et al. 2023, Table 6."""


def element_descriptors() -> np.ndarray:
    """Standardised descriptors of elements 0..118 (0 unused), ``[119, 8]``, from pymatgen's tables; gaps are filled
    with means.
    """

    def row(e: Element) -> list[Any]:
        states = e.common_oxidation_states
        return [
            e.mendeleev_no or np.nan,
            e.X,
            e.row,
            e.group,
            _number(e.atomic_radius),
            _number(e.average_ionic_radius),
            max(states, default=np.nan),
            min(states, default=np.nan),
        ]

    return _standardised(row)


def pgcgm_properties() -> np.ndarray:
    """Standardised :data:`PGCGM_PROPERTIES` of elements 0..118 (0 unused), ``[119, 23]``, from pymatgen's tables; gaps
    are filled with means.
    """

    def row(e: Element) -> list[Any]:
        states = [e.oxidation_states, e.common_oxidation_states]
        return [
            e.Z,
            e.X,
            e.row,
            e.group,
            float(e.atomic_mass),
            _number(e.atomic_radius),
            e.mendeleev_no or np.nan,
            _number(e.molar_volume),
            *(_number(value) for value in (e.average_ionic_radius, e.average_cationic_radius)),
            _number(e.average_anionic_radius),
            sum(map(float, e.ionic_radii.values())),
            max(states[0], default=np.nan),
            min(states[0], default=np.nan),
            *(float(np.mean(own)) if own else np.nan for own in reversed(states)),
            e.is_noble_gas,
            e.is_transition_metal,
            e.is_post_transition_metal,
            e.is_metalloid,
            e.is_alkali,
            e.is_alkaline,
            e.is_halogen,
        ]

    return _standardised(row)


def _number(value: Any) -> float:
    """A number of pymatgen's tables, NaN where it has none or says 0."""
    return float(value) if value else np.nan


def _standardised(row: Callable[[Element], list[Any]]) -> np.ndarray:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of elements without data; the gaps are filled below
        table = np.array([row(Element.from_Z(z)) for z in range(1, MAX_ATOMIC_NUMBER + 1)], dtype=np.float64)
    mean, std = np.nanmean(table[:100], 0), np.nanstd(table[:100], 0)
    return np.vstack([np.zeros(table.shape[1]), np.where(np.isnan(table), 0.0, (table - mean) / std)])
