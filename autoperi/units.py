"""Unit conversions, each in one place.

Lengths are Å, energies eV, forces eV/Å, stresses eV/Å³ (Voigt xx yy zz yz xz xy, tension positive), moduli GPa.
"""

from __future__ import annotations

EV_PER_A3_IN_GPA = 160.21766208
"""1 eV/Å³ in GPa (CODATA 2014, as in ASE)."""

MAX_ATOMIC_NUMBER = 118
