"""Element descriptors, the starting point of learned element distances."""

from __future__ import annotations

import warnings

import numpy as np

from autoperi.units import MAX_ATOMIC_NUMBER

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


def element_descriptors() -> np.ndarray:
    """Standardised descriptors of elements 0..118 (0 unused), ``[119, 8]``, from pymatgen's tables; gaps are filled
    with means.
    """
    from pymatgen.core import Element

    table = np.full((MAX_ATOMIC_NUMBER + 1, len(DESCRIPTORS)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of elements without data; the gaps are filled below
        for z in range(1, MAX_ATOMIC_NUMBER + 1):
            e = Element.from_Z(z)
            states = e.common_oxidation_states
            table[z] = [
                e.mendeleev_no or np.nan,
                e.X,
                e.row,
                e.group,
                float(e.atomic_radius) if e.atomic_radius else np.nan,
                float(e.average_ionic_radius) if e.average_ionic_radius else np.nan,
                max(states, default=np.nan),
                min(states, default=np.nan),
            ]
    body = table[1:]
    mean, std = np.nanmean(body[:100], 0), np.nanstd(body[:100], 0)
    table[1:] = np.where(np.isnan(body), 0.0, (body - mean) / std)
    table[0] = 0.0
    return table
