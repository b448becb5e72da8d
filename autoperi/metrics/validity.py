"""Validity of generated crystals: distances, volume and composition as CDVAE (Xie et al. 2022) defines them, and
further tests.

Of one crystal: :func:`validity`, :func:`radii_validity`. Of many: :func:`validity_shares`, and with a reason for each
verdict :func:`validity_report`, whose tests of the CIF and of the symmetry are in :mod:`autoperi.metrics.consistency`.

One deviation from CDVAE (txie-93/cdvae, ``scripts/compute_metrics.py``): it sets ``valid`` to False also where a
fingerprint of the crystal cannot be computed. Here validity is that of distances, volume and composition alone, and the
crystals without a fingerprint are counted with the metrics that need one (:mod:`autoperi.metrics.coverage`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from autoperi.chemistry.smact import StateSet, Validity, check_states, guess_neutral, smact_validity
from autoperi.data.checks import positive_number
from autoperi.data.convert import arrays_to_structures, kind_of, to_arrays
from autoperi.data.elements import atomic_radius
from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.consistency import cif_validity, recorded_group, symmetry_of
from autoperi.metrics.counts import share
from autoperi.metrics.parallel import CachedRun, Failure, featurise
from autoperi.symmetry.analysis import SYMPREC

MIN_DISTANCE = 0.5
"""Å; two different sites may not be nearer."""
MIN_CELL_VOLUME = 0.1
"""Å³; the cell, whatever it holds, may not be smaller (CDVAE)."""
RADII_FRACTION = 0.75
"""PGCGM: of the sum of two atomic radii; a pair may not be nearer (``merge_valid.py``)."""
MAX_EDGE = 40.0
"""Å; KLDM's bound on the longest edge of the cell."""
VERDICTS = (
    "valid", "structural", "distance", "volume", "compositional", "radii", "neutral", "readable", "symmetric",
    "space_group_kept", "cell",
)  # fmt: skip
"""What :func:`validity_report` says of each crystal."""


@dataclass(frozen=True)
class CrystalValidity(Validity):
    """The verdict on a whole crystal.

    Attributes:
        structural: distances and volume.
        compositional: oxidation states; None where nothing can be said.
    """

    structural: bool
    compositional: bool | None


def structural_validity(structure: Any) -> Validity:
    """Whether no two different sites are nearer than 0.5 Å and the cell holds at least 0.1 Å³.

    Nearest periodic images of *different* sites count, an atom's own images do not: a one-atom cell is valid by
    distance. A crystal that cannot be read (NaN, no volume, disordered) is invalid, with the reason.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.

    Returns:
        The verdict, without a reason where it is True.

    Raises:
        StructureError: it is neither.
    """
    kind_of(structure)
    try:
        lattice, coords, numbers = to_arrays(structure)
    except StructureError as error:
        return Validity(False, str(error))
    volume = abs(float(np.linalg.det(lattice)))
    if volume < MIN_CELL_VOLUME:
        return Validity(False, f"volume {volume:.3g} Å³ below {MIN_CELL_VOLUME} Å³")
    if len(numbers) > 1:
        distances = np.array(arrays_to_structures([(lattice, coords, numbers)])[0].distance_matrix)
        np.fill_diagonal(distances, np.inf)
        i, j = np.unravel_index(int(distances.argmin()), distances.shape)
        if distances[i, j] < MIN_DISTANCE:
            return Validity(False, f"distance {distances[i, j]:.3g} Å between sites {i} and {j} below {MIN_DISTANCE} Å")
    return Validity(True, None)


def validity(structure: Any, *, oxidation_states: StateSet = "pymatgen-icsd") -> CrystalValidity:
    """Structural and compositional validity of one crystal, and why.

    ``valid`` is False where either fails, None where only the composition is in doubt (an element without oxidation
    states in the list). The reason is that of the structure if it fails, else that of the composition.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.
        oxidation_states: see :func:`~autoperi.chemistry.smact.smact_validity`.

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


def validity_shares(crystals: Sequence[Any], *, oxidation_states: StateSet = "pymatgen-all") -> dict[str, Any]:
    """Shares of ``valid``, ``structural`` and ``compositional`` crystals (CDVAE), as :func:`validity_report` gives
    them, without its other tests: what a test set itself has, beside the shares of generated crystals.

    Args:
        crystals: pymatgen structures or ASE atoms.
        oxidation_states: SMACT's list; see :func:`~autoperi.chemistry.smact.smact_validity`.

    Raises:
        RequestError: no such list. StructureError: something that is no crystal.
    """
    check_states(oxidation_states)
    found = [validity(crystal, oxidation_states=oxidation_states) for crystal in crystals]
    return {
        "valid": share([v.valid for v in found], missing="no verdict"),
        "structural": share([v.structural for v in found], missing="no verdict"),
        "compositional": share([v.compositional for v in found], missing="no oxidation states"),
        "oxidation_states": oxidation_states,
    }


def radii_validity(structure: Any, *, fraction: float = RADII_FRACTION) -> Validity:
    """Whether every pair of different sites is further apart than ``fraction`` times the sum of the two atomic radii
    (PGCGM).

    Atomic radii are pymatgen's (Slater 1964), nearest periodic images count, an atom's own images do not.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.
        fraction: of the sum of radii.

    Returns:
        ``valid`` is None where an element has no atomic radius.

    Raises:
        StructureError: see :func:`~autoperi.data.convert.to_arrays`.
    """
    lattice, coords, numbers = to_arrays(structure)
    radii = {int(z): atomic_radius(int(z)) for z in np.unique(numbers)}
    unknown = [z for z, r in radii.items() if r is None]
    if len(numbers) == 1:
        return Validity(True, "one site")
    if unknown:
        from ase.data import chemical_symbols

        return Validity(None, f"no atomic radius of {', '.join(chemical_symbols[z] for z in unknown)}")
    r = np.array([radii[int(z)] for z in numbers], dtype=np.float64)
    ratio = np.array(arrays_to_structures([(lattice, coords, numbers)])[0].distance_matrix) / (r[:, None] + r[None])
    np.fill_diagonal(ratio, np.inf)
    i, j = np.unravel_index(int(ratio.argmin()), ratio.shape)
    if ratio[i, j] > fraction:
        return Validity(True, "no pair too near")
    return Validity(False, f"sites {i} and {j} at {ratio[i, j]:.3g} of their radii, not above {fraction:g}")


def validity_report(
    crystals: Sequence[Any],
    *,
    oxidation_states: StateSet = "pymatgen-all",
    radii_fraction: float = RADII_FRACTION,
    symprec: float = SYMPREC,
    max_edge: float = MAX_EDGE,
    angles: tuple[float, float] | None = None,
    space_groups: Sequence[int | None] | None = None,
    **run: Unpack[CachedRun],
) -> dict[str, Any]:
    """Every test of validity on every crystal.

    The verdicts of a crystal, True, False or None where there is none:

    * ``valid``: ``structural`` and ``compositional``, CDVAE's; ``distance`` (0.5 Å) and ``volume`` (0.1 Å³) are the
      parts of the former;
    * ``radii``: PGCGM's distance; ``neutral``: pymatgen's guess of oxidation states; ``readable``: a CIF of it gives
      the same crystal;
    * ``symmetric``: the symmetrised cell is consistent (:func:`~autoperi.metrics.consistency.symmetry_of`);
    * ``space_group_kept``: the group found is the wanted one;
    * ``cell``: no edge is longer than ``max_edge``, no angle outside ``angles``.

    Args:
        crystals: pymatgen structures or ASE atoms; one that cannot be read (NaN, no volume, disordered) fails, with the
            reason.
        oxidation_states: SMACT's list; see :func:`~autoperi.chemistry.smact.smact_validity`.
        radii_fraction: see :func:`radii_validity`.
        symprec: Å, for the space group.
        max_edge: Å (KLDM: 40).
        angles: least and greatest cell angle in degrees (ADiT: 50, 130); None for any.
        space_groups: wanted number of each crystal, None where any will do; by default what ``generate`` recorded in
            its properties.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.

    Returns:
        ``shares`` (a share a verdict), ``crystals`` (a dictionary each: ``index``, the verdicts, ``space_group``,
        ``wanted_space_group`` and ``reasons``, verdict to phrase where it is not True), ``n``, ``unreadable`` and
        ``parameters``.

    Raises:
        RequestError: an option that cannot be honoured.
        StructureError: something that is no crystal.
    """
    check_states(oxidation_states)
    for name, value in (("radii_fraction", radii_fraction), ("symprec", symprec), ("max_edge", max_edge)):
        positive_number(value, name)
    if angles is not None and not 0 <= angles[0] < angles[1] <= 180:
        raise RequestError(f"angles={angles!r} are not two angles between 0 and 180 degrees, the smaller first")
    if space_groups is not None:
        check_lengths("{} space groups for {} crystals; give one for each, None for any", space_groups, crystals)
    for i, crystal in enumerate(crystals):
        kind_of(crystal, name=f"crystal {i}")
    parameters: dict[str, Any] = {
        "oxidation_states": oxidation_states,
        "radii_fraction": radii_fraction,
        "symprec": symprec,
        "max_edge": max_edge,
        "angles": None if angles is None else list(angles),
    }
    packages = ("pymatgen-core", "spglib", "smact")
    found = featurise(_judge, crystals, name="validity", version=1, parameters=parameters, packages=packages, **run)
    wanted = space_groups if space_groups is not None else [recorded_group(c) for c in crystals]
    rows = [_row(i, result, group) for i, (result, group) in enumerate(zip(found, wanted, strict=True))]
    why = {"space_group_kept": "no space group is wanted", "compositional": "no oxidation states"}
    why |= {"radii": "no atomic radius"}
    return {
        "n": len(rows),
        "unreadable": sum(isinstance(result, Failure) for result in found),
        "shares": {name: share([row[name] for row in rows], missing=why.get(name, "no verdict")) for name in VERDICTS},
        "crystals": rows,
        "parameters": {"min_distance": MIN_DISTANCE, "min_volume": MIN_CELL_VOLUME, **parameters},
    }


def _row(index: int, result: Any, wanted: int | None) -> dict[str, Any]:
    if isinstance(result, Failure):
        row: dict[str, Any] = dict.fromkeys(VERDICTS)
        # What cannot be read is not valid, by any test of the structure; of its composition nothing is known.
        row |= dict.fromkeys(("valid", "structural", "distance", "volume", "readable", "cell"), False) | {
            "space_group": None
        }
        reasons = {"valid": result.reason}
    else:
        row = json.loads(str(result))
        reasons = row.pop("reasons")
    group = row["space_group"]
    row["space_group_kept"] = None if wanted is None else group == wanted
    if row["space_group_kept"] is False:
        reasons["space_group_kept"] = f"space group {group} where {wanted} is wanted"
    return {
        "index": index,
        **{name: row[name] for name in VERDICTS},
        "space_group": group,
        "wanted_space_group": wanted,
        "reasons": reasons,
    }


def _judge(
    structure: Any,
    *,
    oxidation_states: StateSet,
    radii_fraction: float,
    symprec: float,
    max_edge: float,
    angles: Sequence[float] | None,
) -> Any:
    """The verdicts on one readable crystal as JSON in a NumPy string, so that they can be remembered."""
    lattice, coords, numbers = to_arrays(structure)
    shape = structural_validity(structure)
    chemistry = smact_validity(Counter(numbers.tolist()), oxidation_states=oxidation_states)
    roomy = abs(float(np.linalg.det(lattice))) >= MIN_CELL_VOLUME
    neutral = guess_neutral(Counter(numbers.tolist()))
    guess = "no oxidation states of an element" if neutral is None else "pymatgen guesses no neutral oxidation states"
    symmetric, group = symmetry_of(lattice, coords, numbers, symprec=symprec)
    verdicts: dict[str, Any] = {
        "valid": Validity(chemistry.valid if shape.valid else False, shape.reason or chemistry.reason),
        "structural": shape,
        "distance": Validity(shape.valid if roomy else None, str(shape.reason)),
        "volume": Validity(roomy, str(shape.reason)),
        "compositional": chemistry,
        "radii": radii_validity(structure, fraction=radii_fraction),
        "neutral": Validity(neutral, guess),
        "readable": cif_validity(structure),
        "symmetric": symmetric,
        "cell": _cell_validity(lattice, max_edge, angles),
    }
    reasons = {name: verdict.reason for name, verdict in verdicts.items() if verdict.valid is not True}
    out = {name: verdict.valid for name, verdict in verdicts.items()}
    return np.array(json.dumps({**out, "space_group": group, "reasons": reasons}))


def _cell_validity(lattice: Any, max_edge: float, angles: Sequence[float] | None) -> Validity:
    lengths = np.linalg.norm(lattice, axis=1)
    if lengths.max() > max_edge:
        return Validity(False, f"an edge of {lengths.max():.4g} Å, longer than {max_edge:g} Å")
    if angles is not None:
        unit = lattice / lengths[:, None]
        degrees = np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)))
        worst = degrees[np.argmax(np.maximum(angles[0] - degrees, degrees - angles[1]))]
        if not angles[0] <= worst <= angles[1]:
            return Validity(False, f"a cell angle of {worst:.4g}°, outside {angles[0]:g}° to {angles[1]:g}°")
    return Validity(True, "the cell is as asked")
