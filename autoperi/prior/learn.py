"""Learn the prototype library from crystals: standardise, cluster, align, match, store.

1. Each crystal becomes its idealised standard primitive cell (spglib, symprec 0.1 Å as Materials Project uses).
2. Within one space group and one set of counts, crystals whose fingerprints lie within :data:`PROTOTYPE_RADIUS` form a
   prototype.
3. Members are aligned to the medoid over the normaliser's half-cell shifts; coordinates and log-metric shape are
   averaged, and projected back onto the space group. No volume is kept.
4. Prototypes that StructureMatcher (0.5/0.3/10) cannot tell apart are recorded as matching, so that decorations can be
   made distinct, and their probabilities added, without matching at generation time.
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoperi.errors import StructureError
from autoperi.geometry.lattice import to_log_metric
from autoperi.prior.fingerprint import all_distances, fingerprints, renumbered_distances, slot_order, tie_permutations
from autoperi.prior.library import PrototypeLibrary, unit_cell
from autoperi.symmetry.analysis import SYMPREC_LADDER, SymmetryInfo, analyse, project_coordinates, symmetrize_lattice
from autoperi.symmetry.spacegroup import space_group
from autoperi.units import MAX_ATOMIC_NUMBER

logger = logging.getLogger(__name__)

PROTOTYPE_RADIUS = 0.13
"""Fingerprint distance from the medoid within which crystals are of one prototype: 95 to 100 % of the pairs of one
group within it match at 0.5/0.3/10, with an RMS of 0.03 or less (benchmarks/prior).
"""
MAX_MATCH_DISTANCE = 0.45
"""Fingerprint distance up to which two prototypes are compared by StructureMatcher."""
MAX_MATCH_ATOMS = 30
"""Atoms of a primitive cell up to which prototypes are compared."""
MAX_MEMBER_SHIFT = 0.12
"""Fractional, and in log shape: members farther from the medoid than this are not averaged with it."""

Track = Callable[[Iterable, str], Iterable]
Crystal = tuple[np.ndarray, np.ndarray, np.ndarray]


def _silent(items: Iterable, _: str) -> Iterable:
    return items


@dataclass(frozen=True, eq=False)
class Standard:
    """A training crystal in its standard primitive cell, with elements sorted into slots."""

    info: SymmetryInfo
    elements: np.ndarray
    slots: np.ndarray
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cluster:
    """A prototype in the making: the medoid, and each member with p such that medoid slot s is member slot p[s]."""

    number: int
    counts: tuple[int, ...]
    medoid: int
    members: list[tuple[int, tuple[int, ...]]]


def standardise(crystal: Crystal) -> Standard | None:
    """The crystal's standard primitive cell at the loosest tolerance that keeps its atoms, or None."""
    for symprec in SYMPREC_LADDER:
        try:
            info = analyse(*crystal, symprec=symprec)
        except StructureError:
            continue
        elements, slots, counts = slot_order(info.primitive_numbers)
        return Standard(info, elements, slots, counts)
    return None


def cluster(
    standards: Sequence[Standard], prints: Sequence[np.ndarray], *, radius: float = PROTOTYPE_RADIUS
) -> list[Cluster]:
    """Greedy density clustering within each (space group, counts): the crystal with most neighbours founds a
    prototype.
    """
    buckets = defaultdict(list)
    for k, s in enumerate(standards):
        buckets[s.info.number, s.counts].append(k)
    clusters = []
    for (number, counts), index in sorted(buckets.items()):
        table, n = np.stack([prints[k] for k in index]), len(index)
        permutations = tie_permutations(counts)
        apart, which = all_distances(table, counts)
        near, free = apart < radius, np.ones(n, bool)
        while free.any():
            crowd = (near & free).sum(1) * free
            best = np.nonzero(crowd == crowd.max())[0]
            medoid = best[np.argmin([(apart[b] * (near[b] & free)).sum() for b in best])]
            chosen = near[medoid] & free
            chosen[medoid] = True
            which[medoid, medoid] = 0  # itself as it is
            members = [(index[j], permutations[which[j, medoid]]) for j in np.nonzero(chosen)[0]]
            clusters.append(Cluster(number, counts, index[medoid], members))
            free &= ~chosen
    return clusters


def mean_geometry(c: Cluster, standards: Sequence[Standard]) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric mean of the members that align: coordinates in the medoid's primitive basis ``[n, 3]`` and shape
    ``[5]``.
    """
    medoid = standards[c.medoid]
    base = medoid.info.primitive_frac_coords
    own = _log_metric(medoid.info.primitive_lattice, len(base))
    shapes, moves = [own], [np.zeros_like(base)]
    for k, p in c.members:
        if k == c.medoid:
            continue
        other = standards[k].info
        shape = _log_metric(other.primitive_lattice, len(base))
        if np.abs(shape - own).max() > MAX_MEMBER_SHIFT:
            continue  # the axes are named differently; averaging would blur both
        move = _align(base, medoid.slots, other.primitive_frac_coords, np.argsort(p)[standards[k].slots])
        if move is not None:
            moves.append(move)
            shapes.append(shape)
    group = space_group(c.number).primitive
    mean = base + np.mean(moves, 0)
    coords = project_coordinates(mean, medoid.slots, group, tolerance=0.15) if len(moves) > 1 else base
    lattice = symmetrize_lattice(unit_cell(np.mean(shapes, 0)[1:]), group.rotations)
    return coords, to_log_metric(torch.as_tensor(lattice)[None])[0, 1:].numpy()


_ORIGINS = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)


def _align(base: np.ndarray, base_slots: np.ndarray, coords: np.ndarray, slots: np.ndarray) -> np.ndarray | None:
    """Displacements ``[n, 3]`` that take ``base`` to the other member, atoms paired within slots, or None.

    Both are in spglib's standard setting, so what is left between them is one of the normaliser's shifts by half a
    cell, an inversion, or a shift along a polar axis, which the mean removes.
    """
    best, least = None, MAX_MEMBER_SHIFT
    forbidden = (base_slots[:, None] != slots[None])[..., None] * 1e3
    for sign in (1.0, -1.0):
        for origin in _ORIGINS:
            difference = sign * coords[None] + origin - base[:, None]
            difference -= np.round(difference)
            nearest = (np.abs(difference) + forbidden).max(-1).argmin(1)
            if len(set(nearest.tolist())) < len(base):
                continue
            move = difference[np.arange(len(base)), nearest]
            move = move - move.mean(0)
            worst = float(np.abs(move).max())
            if worst < least:
                best, least = move, worst
    return best


def _log_metric(lattice: np.ndarray, n: int) -> np.ndarray:
    """Log-metric coordinates ``[6]`` of a cell of n atoms at unit volume per atom."""
    unit = lattice * (n / abs(np.linalg.det(lattice))) ** (1 / 3)
    return to_log_metric(torch.as_tensor(unit)[None])[0].numpy()


def match_table(
    clusters: Sequence[Cluster],
    geometry: Sequence[tuple[np.ndarray, np.ndarray]],
    standards: Sequence[Standard],
    prints: Sequence[np.ndarray],
    track: Track = _silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (a, b) and permutations p such that slot s of b is slot p[s] of a and their crystals match."""
    from pymatgen.core import Structure

    from autoperi.metrics.match import matcher

    def crystal(k: int, p: Sequence[int]) -> Structure:
        coords, shape = geometry[k]
        return Structure(unit_cell(shape), np.argsort(p)[standards[clusters[k].medoid].slots] + 1, coords)

    buckets = defaultdict(list)
    for k, c in enumerate(clusters):
        buckets[c.counts].append(k)
    near = []
    for counts, index in buckets.items():
        permutations = tie_permutations(counts)
        if len(permutations) * len(index) == 1:
            continue
        table = np.stack([prints[clusters[k].medoid] for k in index])
        for i, a in enumerate(index):
            for q, p in enumerate(permutations[:24]):
                d = renumbered_distances(table[i], table[i:], counts, p)
                near += [(a, index[i + j], q, p) for j in np.nonzero(d < MAX_MATCH_DISTANCE)[0] if j or q]
    judge = matcher()
    found: list[tuple[int, int, int]] = []
    for a, b, q, p in track(near, "matching"):
        permutations = tie_permutations(clusters[a].counts)
        if sum(clusters[a].counts) <= MAX_MATCH_ATOMS and judge.fit(crystal(a, p), crystal(b, permutations[0])):
            inverse = permutations.index(tuple(int(v) for v in np.argsort(p)))
            found += [(a, b, q)] if a == b and inverse == q else [(a, b, q), (b, a, inverse)]
    table = np.array(found, np.int32).reshape(-1, 3)
    return table[:, :2], table[:, 2].astype(np.int16)


def additive_volumes(compositions: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """Non-negative element volumes (Å³) that best add up to the cells' volumes, ridge regression, ``[119]``.

    Args:
        compositions: atoms of each element per cell, ``[n, 119]``.
        volumes: Å³, ``[n]``.
    """
    per_atom = compositions / compositions.sum(1, keepdims=True)
    target = volumes / compositions.sum(1)
    prior = np.full(compositions.shape[1], target.mean())
    gram = per_atom.T @ per_atom + 0.05 * np.eye(compositions.shape[1])
    return np.clip(prior + np.linalg.solve(gram, per_atom.T @ (target - per_atom @ prior)), 3.0, None)


def learn_library(
    crystals: Sequence[Crystal], *, track: Track = _silent
) -> tuple[PrototypeLibrary, np.ndarray, np.ndarray]:
    """Learn from ``(lattice, frac_coords, atomic_numbers)`` triples.

    Returns:
        The library, and for each member row the prototype it belongs to ``[M]`` and the crystal it came from ``[M]``
        (both are for training the ranker and are not stored).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [(k, standardise(c)) for k, c in enumerate(track(crystals, "standardising"))]
        source = [k for k, s in found if s is not None]
        standards = [s for _, s in found if s is not None]
        logger.info("standardised %d of %d crystals", len(standards), len(crystals))
        prints = fingerprints(
            [(s.info.primitive_lattice, s.info.primitive_frac_coords, s.slots) for s in standards],
            [len(s.counts) for s in standards],
        )
        clusters = cluster(standards, prints)
        geometry = [mean_geometry(c, standards) for c in track(clusters, "aligning")]
        pairs, permutations = match_table(clusters, geometry, standards, prints, track)
    contents = [np.bincount(s.info.primitive_numbers, minlength=MAX_ATOMIC_NUMBER + 1) for s in standards]
    counts = np.stack(contents).astype(float)
    volumes = np.array([abs(np.linalg.det(s.info.primitive_lattice)) for s in standards])
    element_volume = additive_volumes(counts, volumes)
    log_ratio = np.log(volumes / (counts @ element_volume))

    orbit_slots, orbit_coords = [], []
    for c, (coords, _) in zip(clusters, geometry, strict=True):
        medoid = standards[c.medoid]
        first = np.unique(medoid.info.primitive_equivalent_atoms)
        orbit_slots.append(medoid.slots[first])
        orbit_coords.append(np.round(coords[first] % 1.0, 4))
    rows = [member for c in clusters for member in c.members]
    elements = np.zeros((len(rows), max(len(c.counts) for c in clusters)), np.uint8)
    for row, (k, p) in zip(elements, rows, strict=True):
        row[: len(p)] = standards[k].elements[list(p)]
    crystal = [k for k, _ in rows]
    sizes = [len(c.members) for c in clusters]
    tensors = {
        "space_group": torch.tensor([c.number for c in clusters], dtype=torch.uint8),
        "slot_start": _starts([len(c.counts) for c in clusters]),
        "slot_count": torch.tensor([n for c in clusters for n in c.counts], dtype=torch.uint8),
        "orbit_start": _starts([len(slots) for slots in orbit_slots]),
        "orbit_slot": torch.tensor(np.concatenate(orbit_slots), dtype=torch.uint8),
        "orbit_coord": torch.tensor(np.concatenate(orbit_coords), dtype=torch.float32),
        "shape": torch.tensor(np.stack([g[1] for g in geometry]), dtype=torch.float32),
        "member_start": _starts(sizes),
        "member_elements": torch.tensor(elements),
        "member_volume": torch.tensor(np.round(log_ratio[crystal], 4), dtype=torch.float32),
        "match_pair": torch.tensor(pairs),
        "match_permutation": torch.tensor(permutations),
        "element_volume": torch.tensor(element_volume, dtype=torch.float32),
    }
    return PrototypeLibrary(tensors), np.repeat(np.arange(len(clusters)), sizes), np.array(source)[crystal]


def _starts(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32)
