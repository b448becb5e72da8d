"""PGCGM's own metrics and filters (Zhao et al., npj Comput. Mater. 9, 38 (2023)): relax-and-match rate, merging of
atoms, distances, symmetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoperi.data.convert import arrays_to_structures, kind_of, to_arrays
from autoperi.data.elements import atomic_radius
from autoperi.errors import StructureError
from autoperi.metrics._common import check_lengths, check_positive
from autoperi.metrics.counts import mean, share
from autoperi.metrics.pairs import Arrays, arrays_of, compare_pairs
from autoperi.metrics.parallel import Failure, parallel_map
from autoperi.metrics.validity import RADII_FRACTION, radii_validity
from autoperi.symmetry.analysis import SYMPREC, analyse, torus_difference

STOL, LTOL, ANGLE_TOL = 0.2, 0.2, 0.5
MERGE, FURTHER_MERGE, MAX_ATOMS = 0.5, 1.5, 100
"""Of twice the atomic radius, within which equal atoms are merged; the second where more than 100 atoms remain
(``merge_valid.py``; the paper's methods section says 1.2 times the sum of the radii, which is 0.6 of twice the
radius).
"""


def relax_and_match(
    generated: Sequence[Any], relaxed: Sequence[Any], *, processes: int | None = None, progress: bool | None = None
) -> dict[str, Any]:
    """Share of generated crystals that match what a relaxation makes of them, and their RMS displacement (PGCGM, Table
    2).

    The matcher is StructureMatcher(ltol=0.2, stol=0.2, angle_tol=0.5). The paper relaxed with BOWSR; name the relaxer
    beside these figures.

    Args:
        generated: pymatgen structures or ASE atoms.
        relaxed: each one's relaxed crystal, None or a failure where the relaxation failed.
        processes, progress: as in :func:`~autoperi.metrics.parallel.parallel_map`.

    Returns:
        ``optimised``, the share that relaxed; ``match_rate``, of those; ``rms``, mean over the matched, in (V/N)^(1/3);
        ``values``, the RMS of each crystal or None; ``matcher``.

    Raises:
        RequestError: not one relaxed crystal for each. StructureError: something that is no crystal.
    """
    check_lengths("{} relaxed crystals for {} generated; give one for each, None where it failed", relaxed, generated)
    left = arrays_of(generated)
    right = arrays_of([Failure("not relaxed") if r is None else r for r in relaxed])
    limits = {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL}
    found = compare_pairs(
        left, right, [(i, i) for i in range(len(left))], tolerances=limits, processes=processes, progress=progress
    )
    done = [not isinstance(r, Failure) for r in right]
    matched = [None if isinstance(r, Failure) else r is not None for r, ok in zip(found, done, strict=True) if ok]
    values = [r if isinstance(r, float) else None for r in found]
    return {
        "optimised": share(done),
        "match_rate": share(matched, missing="nothing was compared" if any(done) else "nothing was relaxed"),
        "rms": mean([v for v, ok in zip(values, done, strict=True) if ok], missing="nothing matches"),
        "values": values,
        "matcher": limits,
    }


def merge_atoms(
    structure: Any, *, fraction: float = MERGE, further: float = FURTHER_MERGE, max_atoms: int = MAX_ATOMS
) -> Any:
    """The crystal with atoms of one element that are near each other merged into their centre.

    Near: single-linkage clusters at ``fraction`` times twice the atomic radius, nearest periodic images. Where more
    than ``max_atoms`` are left, they are merged once more with ``further``. An element without an atomic radius is left
    as it is.

    Args:
        structure: a pymatgen ``Structure`` or ASE ``Atoms``.
        fraction, further: of twice the atomic radius.
        max_atoms: see above.

    Returns:
        A pymatgen ``Structure``, sites grouped by element in order of first appearance.

    Raises:
        StructureError: see :func:`~autoperi.data.convert.to_arrays`.
    """
    arrays = _merge(to_arrays(structure), fraction)
    if len(arrays[2]) > max_atoms:
        arrays = _merge(arrays, further)
    return arrays_to_structures([arrays])[0]


def pgcgm_filters(
    crystals: Sequence[Any],
    *,
    space_groups: Sequence[int | None],
    merge: float = MERGE,
    radii_fraction: float = RADII_FRACTION,
    symprec: float = SYMPREC,
    processes: int | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, Any], list[Any]]:
    """PGCGM's post-processing: merge atoms, then keep crystals of the wanted space group whose pairs are all far enough
    apart.

    Args:
        crystals: pymatgen structures or ASE atoms.
        space_groups: wanted number of each, None where any will do.
        merge: see :func:`merge_atoms`.
        radii_fraction: of the sum of atomic radii, which every distance must exceed.
        symprec: Å.
        processes, progress: as in :func:`~autoperi.metrics.parallel.parallel_map`.

    Returns:
        ``kept``, ``space_group`` and ``distance``, shares; ``merged_atoms``, how many went; ``crystals``, a dictionary
        each with the verdicts, the atoms before and after, and the group found; ``parameters``. And the merged
        structures, None for a crystal that cannot be read.

    Raises:
        RequestError: not one wanted group for each crystal, or a fraction that is not positive. StructureError:
        something that is no crystal.
    """
    check_lengths("{} space groups for {} crystals; give one for each, None for any", space_groups, crystals)
    check_positive(merge=merge, radii_fraction=radii_fraction, symprec=symprec)
    for i, crystal in enumerate(crystals):
        kind_of(crystal, name=f"crystal {i}")
    jobs = [(arrays, merge, radii_fraction, symprec) for arrays in arrays_of(crystals)]
    rows: list[dict[str, Any]] = []
    merged: list[Any] = []
    results = parallel_map(_filter, jobs, processes=processes, progress=progress)
    for i, (found, wanted) in enumerate(zip(results, space_groups, strict=True)):
        if isinstance(found, Failure):
            unknown = dict.fromkeys(("kept", "space_group_kept", "distance", "space_group"))
            row: dict[str, Any] = {"index": i, **unknown, "reason": found.reason}
            merged.append(None)
        else:
            arrays, group, far, reason = found
            same = None if wanted is None else group == wanted
            row = {
                "index": i,
                "kept": False if same is False or group is None or far is False else far,
                "space_group_kept": same,
                "distance": far,
                "space_group": group,
                "atoms": len(to_arrays(crystals[i])[2]),
                "atoms_merged": len(arrays[2]),
                "reason": f"space group {group}, not {wanted}" if same is False else reason,
            }
            merged.append(arrays_to_structures([arrays])[0])
        rows.append(row)
    return {
        "n": len(rows),
        "kept": share([row["kept"] for row in rows], missing="no verdict"),
        "space_group": share([row["space_group_kept"] for row in rows], missing="no space group is wanted"),
        "distance": share([row["distance"] for row in rows], missing="no atomic radius"),
        "merged_atoms": sum(row["atoms"] - row["atoms_merged"] for row in rows if "atoms" in row),
        "crystals": rows,
        "parameters": {"merge": merge, "further_merge": FURTHER_MERGE}
        | {"radii_fraction": radii_fraction, "symprec": symprec},
    }, merged


def _filter(job: tuple[Any, float, float, float]) -> tuple[Arrays, int | None, bool | None, str]:
    arrays, merge, fraction, symprec = job
    if isinstance(arrays, Failure):
        raise StructureError(arrays.reason)
    structure = merge_atoms(arrays_to_structures([arrays])[0], fraction=merge)
    lattice, coords, numbers = to_arrays(structure)
    try:
        group = analyse(lattice, coords, numbers, symprec=symprec).number
    except StructureError:
        group = None
    far = radii_validity(structure, fraction=fraction)
    return (lattice, coords, numbers), group, far.valid, "no space group found" if group is None else far.reason


def _merge(arrays: Arrays, fraction: float) -> Arrays:
    from pymatgen.core import Lattice
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    lattice, coords, numbers = arrays
    points, elements = [], []
    for z in dict.fromkeys(numbers.tolist()):  # in order of first appearance
        own = coords[numbers == z]
        radius = atomic_radius(z)
        if len(own) == 1 or radius is None:
            points += list(own)
            elements += [z] * len(own)
            continue
        distance = Lattice(lattice).get_all_distances(own, own)
        np.fill_diagonal(distance, 0.0)
        label = fcluster(
            linkage(squareform((distance + distance.T) / 2, checks=False)), 2 * radius * fraction, "distance"
        )
        for cluster in dict.fromkeys(label.tolist()):
            centre, *others = own[label == cluster]
            for n, x in enumerate(others):  # a running mean of nearest images
                centre = centre + torus_difference(x, centre) / (n + 2)
            points.append(centre)
            elements.append(z)
    return lattice, np.array(points).reshape(-1, 3), np.array(elements, dtype=np.int64)
