"""CrystalNN: from Voronoi facets to the likelihood of each coordination number, and the local-order fingerprint of a
site.

Definition: Zimmermann and Jain, RSC Adv. 10, 6063 (2020); Pan et al., Inorg. Chem. 60, 1590 (2021); parameters as
pymatgen's ``CrystalNN()`` and matminer's ``CrystalNNFingerprint.from_preset("ops")`` have them by default. This is an
implementation in arrays of its own, several times faster, which agrees with theirs
(tests/metrics/test_fingerprints.py). Oxidation states are not used.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from autoperi.data.elements import crystalnn_radius, electronegativity
from autoperi.errors import StructureError
from autoperi.metrics.motifs import MOTIFS, neighbour_angles, order_parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SEARCH_CUTOFF = 7.0
"""Å, the sphere that is tessellated at first; doubled where the cell of the site stays open."""
FIRST_SPHERE = 5.0
"""Å, a smaller sphere tried before: where the cell's corners lie within half of it, no atom further away can change the
cell.
"""
DISTANCE_CUTOFFS = (0.5, 1.0)
"""Å beyond the sum of covalent radii at which the weight of a neighbour begins to fall, and is zero."""
CHEMISTRY_WEIGHT = 3.0
"""Preference for neighbours of other electronegativity; 3.3 is the largest difference of two elements."""
MAX_COORDINATION = 24
MAX_DENSITY = 1.0
"""Atoms per Å³, beyond which a crystal is refused: six times diamond, and the tessellation of its crowd would take
minutes.
"""
MAX_POINTS = 20_000
"""Atoms within the sphere, beyond which it is not doubled again: a slab in some 80 Å of vacuum."""

LABELS: tuple[str, ...] = tuple(
    f"{name} CN_{n}"
    for n in range(1, MAX_COORDINATION + 1)
    for name in ("wt", *(motif[0] for motif in MOTIFS.get(n, ())))
)
"""Names of the 61 features, in order, as matminer's ``feature_labels()`` gives them."""


def site_fingerprint(lattice: Array, frac_coords: Array, numbers: NDArray[np.int64], site: int) -> Array:
    """Likelihood of each coordination number 1 … 24 and, times it, how much the neighbours look like each of its
    motifs, ``[61]``.

    Args:
        lattice: rows in Å, ``[3, 3]``.  frac_coords: ``[n, 3]``.  numbers: atomic numbers, ``[n]``.
        site: index of the atom.

    Raises:
        StructureError: denser than :data:`MAX_DENSITY`, or no closed Voronoi cell among :data:`MAX_POINTS` atoms.
    """
    vectors, weights = _bonds(lattice, frac_coords, numbers, site)
    likelihood = coordination_likelihood(weights)
    out = []
    most = max((n for n, w in likelihood.items() if w and n in MOTIFS), default=0)
    angles = neighbour_angles(vectors[:most]) if most else None
    for n in range(1, MAX_COORDINATION + 1):
        weight = likelihood.get(n, 0.0)
        out.append(weight)
        motifs = MOTIFS.get(n, ())
        if not weight or not motifs or angles is None:
            out.extend([0.0] * len(motifs))
            continue
        among = angles.first(n)
        out.extend(weight * order_parameter(family, parameters, among) for _, family, parameters in motifs)
    return np.array(out)


def coordination_likelihood(weights: Array) -> dict[int, float]:
    """Coordination number to its likelihood, from bond weights in [0, 1], largest first.

    Bonds are added in the order of their weights; the area of the unit quarter circle between two successive weights is
    the likelihood of the number reached with the first.
    """
    levels = [*sorted({float(w) for w in weights}, reverse=True), 0.0]
    out = {}
    for upper, lower in itertools.pairwise(levels):
        out[int((weights >= upper).sum())] = (_disc(upper) - _disc(lower)) / (0.25 * math.pi)
    return out


def _disc(x: float) -> float:
    """Area under the unit circle from 0 to x."""
    return 0.25 * math.pi if x >= 1 else 0.5 * (x * math.sqrt(1 - x * x) + math.asin(x))


def _bonds(lattice: Array, frac_coords: Array, numbers: NDArray[np.int64], site: int) -> tuple[Array, Array]:
    """Vectors ``[n, 3]`` in Å to the neighbours with a weight, and the weights ``[n]``, largest first."""
    points, who, facets, corners = _facets(lattice, frac_coords, site)
    solid, volume = _solid_angles(points[0], facets, corners)
    others = np.array([f[0] for f in facets])
    vectors = points[others] - points[0]
    distance = np.linalg.norm(vectors, axis=1)
    kinds = numbers[who[others]]
    weight = solid / solid.max()
    kept = (weight > 0) & (volume > 0)
    vectors, distance, kinds, weight, solid, volume = (
        a[kept] for a in (vectors, distance, kinds, weight, solid, volume)
    )
    # the solid angle over the area of the facet, so that a far facet of an open structure does not count like a near
    # one
    weight = weight * solid / (3 * volume / (distance / 2))
    x_site, x_other = electronegativity(int(numbers[site])), np.array([electronegativity(int(z)) for z in kinds])
    difference = np.abs(x_site - x_other)
    weight = weight * np.where(np.isnan(difference), 1.0, 1 + CHEMISTRY_WEIGHT * np.sqrt(difference / 3.3))
    order = np.argsort(-weight, kind="stable")
    vectors, distance, kinds, weight = vectors[order], distance[order], kinds[order], weight[order]
    weight = weight / weight[0]
    bond = crystalnn_radius(int(numbers[site])) + np.array([crystalnn_radius(int(z)) for z in kinds])
    low, high = bond + DISTANCE_CUTOFFS[0], bond + DISTANCE_CUTOFFS[1]
    fading = (np.cos((distance - low) / (high - low) * math.pi) + 1) * 0.5
    weight = weight * np.where(distance <= low, 1.0, np.where(distance < high, fading, 0.0))
    order = np.argsort(-weight, kind="stable")
    weight = np.array([round(float(w), 3) for w in weight[order]])
    return vectors[order][weight > 0], weight[weight > 0]


def _facets(
    lattice: Array, frac_coords: Array, site: int
) -> tuple[Array, NDArray[np.int64], list[tuple[int, list[int]]], Array]:
    """Points around the site (itself the first), the atom each is an image of, and its facets as (point, corners) with
    their corners.
    """
    from pymatgen.core import Lattice
    from scipy.spatial import Voronoi

    cell = Lattice(lattice)
    center = cell.get_cartesian_coords(frac_coords[site])
    diagonals = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ lattice
    longest = float(np.linalg.norm(diagonals, axis=1).max()) + 0.01
    per_volume = len(frac_coords) / abs(float(np.linalg.det(lattice)))
    if per_volume > MAX_DENSITY:
        raise StructureError(
            f"{per_volume:.3g} atoms per Å³, more than {MAX_DENSITY}: the crystal is too dense to tessellate"
        )
    cutoff, reason = FIRST_SPHERE, ""
    while True:
        frac, distance, index, _ = cell.get_points_in_sphere(frac_coords, center, cutoff, zip_results=False)
        if len(frac) > MAX_POINTS:
            raise StructureError(
                f"no closed Voronoi cell around site {site} among the {len(frac)} atoms within {cutoff:.3g} Å"
            )
        order = np.argsort(distance, kind="stable")
        points = cell.get_cartesian_coords(np.asarray(frac)[order])
        try:
            diagram = Voronoi(points)
            ours = np.flatnonzero((diagram.ridge_points == 0).any(1))
            facets = [(int(diagram.ridge_points[r].max()), diagram.ridge_vertices[r]) for r in ours]
            closed = facets and all(-1 not in corners for _, corners in facets)
            if closed and (cutoff >= SEARCH_CUTOFF or _reach(points[0], facets, diagram.vertices) < cutoff / 2):
                return points, np.asarray(index, dtype=np.int64)[order], facets, np.asarray(diagram.vertices)
            reason = "its Voronoi cell is open"
        except RuntimeError as error:  # Qhull: too few points, or all of them in a plane
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if cutoff < SEARCH_CUTOFF:
            cutoff = SEARCH_CUTOFF
            continue
        if cutoff >= longest:
            raise StructureError(f"no closed Voronoi cell around site {site} within {cutoff:.3g} Å: {reason}")
        cutoff = min(2 * cutoff, longest + 0.001)


def _reach(center: Array, facets: list[tuple[int, list[int]]], corners: Array) -> float:
    """Distance from the site to the furthest corner of its cell."""
    used = sorted({corner for _, ring in facets for corner in ring})
    return float(np.linalg.norm(corners[used] - center, axis=1).max())


def _solid_angles(center: Array, facets: list[tuple[int, list[int]]], corners: Array) -> tuple[Array, Array]:
    """Solid angle of each facet as seen from the centre, and the volume of the pyramid over it, from a fan of
    triangles.
    """
    owner, triangles = [], []
    for i, (_, ring) in enumerate(facets):
        for j in range(1, len(ring) - 1):
            owner.append(i)
            triangles.append((ring[0], ring[j], ring[j + 1]))
    a, b, c = np.moveaxis(corners[np.array(triangles)] - center, 1, 0)
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    triple = np.abs(np.einsum("ij,ij->i", a, np.cross(b, c)))
    denominator = la * lb * lc + lc * (a * b).sum(1) + lb * (a * c).sum(1) + la * (b * c).sum(1)
    # Van Oosterom and Strackee (1983); a triangle without area subtends nothing
    angle = 2 * np.arctan2(triple, denominator)
    return np.asarray(np.bincount(owner, angle, len(facets)), float), np.asarray(
        np.bincount(owner, triple / 6, len(facets)), float
    )
