"""Element descriptors, the starting point of learned element distances."""

from __future__ import annotations

import warnings

import numpy as np

from autoperi.units import MAX_ATOMIC_NUMBER

DESCRIPTORS = ("mendeleev_no", "electronegativity", "row", "group", "atomic_radius", "ionic_radius", "valence_s_p", "valence_d_f")


def element_descriptors() -> np.ndarray:
    """Standardised descriptors of elements 0..118 (0 unused), ``[119, 8]``, from pymatgen's tables; gaps are filled with means."""
    from pymatgen.core import Element

    table = np.full((MAX_ATOMIC_NUMBER + 1, len(DESCRIPTORS)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of elements without data; the gaps are filled below
        for z in range(1, MAX_ATOMIC_NUMBER + 1):
            e = Element.from_Z(z)
            outer = {"s": 0, "p": 0, "d": 0, "f": 0}
            shells = e.full_electronic_structure
            highest = max((n for n, _, _ in shells), default=1)
            for n, ell, count in shells:
                if n == highest or (ell == "d" and n == highest - 1 and count < 10) or (ell == "f" and n == highest - 2 and count < 14):
                    outer[ell] += count
            table[z] = [
                e.mendeleev_no or np.nan,
                e.X,
                e.row,
                e.group,
                float(e.atomic_radius) if e.atomic_radius else np.nan,
                float(e.average_ionic_radius) if e.average_ionic_radius else np.nan,
                outer["s"] + outer["p"],
                outer["d"] + outer["f"],
            ]
    body = table[1:]
    mean, std = np.nanmean(body[:100], 0), np.nanstd(body[:100], 0)
    table[1:] = np.where(np.isnan(body), 0.0, (body - mean) / std)
    table[0] = 0.0
    return table
