"""Unit conversions, each in one place.

Lengths are Å, energies eV, forces eV/Å, stresses eV/Å³ (Voigt xx yy zz yz xz xy, tension positive), moduli GPa.
"""

from __future__ import annotations

EV_PER_A3_IN_GPA = 160.21766208
"""1 eV/Å³ in GPa (CODATA 2014, as in ASE)."""

SAME_PLACE_A = 1e-3
"""Distance below which two atoms are at one place: no direction, hence no force."""
RELAX_FMAX = 0.05
"""eV/Å; a batched relaxation has converged where every atom's force and the norm of Vσ/n are smaller."""
RELAX_STEPS = 500
"""Most steps of a batched relaxation where nothing is said."""
MAX_ATOMIC_NUMBER = 118
