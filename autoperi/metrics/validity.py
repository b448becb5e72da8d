"""Validity of generated crystals, as CDVAE (Xie et al. 2022) defines it: distances, volume and composition."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from autoperi.convert import arrays_to_structures, kind_of, to_arrays
from autoperi.errors import StructureError
from autoperi.metrics.smact import StateSet, Validity, smact_validity

MIN_DISTANCE = 0.5
"""Å; two different sites may not be nearer."""
MIN_VOLUME = 0.1
"""Å³; the cell may not be smaller."""


class StructuralValidity(NamedTuple):
    """``valid``, and ``reason`` where it is False."""

    valid: bool
    reason: str | None


@dataclass(frozen=True)
class CrystalValidity(Validity):
    """The verdict on a whole crystal.

    Attributes:
        structural: distances and volume.
        compositional: oxidation states; None where nothing can be said.
    """

    structural: bool
    compositional: bool | None


def structural_validity(structure: Any) -> StructuralValidity:
    """Whether no two different sites are nearer than 0.5 Å and the cell holds at least 0.1 Å³.

    Nearest periodic images of *different* sites count, an atom's own images do not: a one-atom cell is valid by distance. A crystal that
    cannot be read (NaN, no volume, disordered) is invalid, with the reason.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.

    Raises:
        StructureError: it is neither.
    """
    kind_of(structure)
    try:
        lattice, coords, numbers = to_arrays(structure)
    except StructureError as error:
        return StructuralValidity(False, str(error))
    volume = abs(float(np.linalg.det(lattice)))
    if volume < MIN_VOLUME:
        return StructuralValidity(False, f"volume {volume:.3g} Å³ below {MIN_VOLUME} Å³")
    if len(numbers) > 1:
        distances = np.array(arrays_to_structures([(lattice, coords, numbers)])[0].distance_matrix)
        np.fill_diagonal(distances, np.inf)
        i, j = np.unravel_index(int(distances.argmin()), distances.shape)
        if distances[i, j] < MIN_DISTANCE:
            return StructuralValidity(False, f"distance {distances[i, j]:.3g} Å between sites {i} and {j} below {MIN_DISTANCE} Å")
    return StructuralValidity(True, None)


def validity(structure: Any, *, oxidation_states: StateSet = "pymatgen-icsd") -> CrystalValidity:
    """Structural and compositional validity of one crystal, and why.

    ``valid`` is False where either fails, None where only the composition is in doubt (an element without oxidation states in the list).
    The reason is that of the structure if it fails, else that of the composition.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.
        oxidation_states: see :func:`~autoperi.metrics.smact.smact_validity`.

    Raises:
        StructureError: ``structure`` is no crystal at all.
        RequestError: no such list of oxidation states.
    """
    shape = structural_validity(structure)
    try:
        chemistry = smact_validity(Counter(to_arrays(structure)[2].tolist()), oxidation_states=oxidation_states)
    except StructureError:
        chemistry = Validity(None, "unreadable crystal")
    if not shape.valid:
        return CrystalValidity(False, f"structure: {shape.reason}", False, chemistry.valid)
    return CrystalValidity(chemistry.valid, f"composition: {chemistry.reason}", True, chemistry.valid)
