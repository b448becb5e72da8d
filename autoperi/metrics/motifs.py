"""How much a handful of neighbours looks like a square, a tetrahedron, an octahedron …: the order parameters of
CrystalNN's fingerprint.

Definitions: Zimmermann and Jain, RSC Adv. 10, 6063 (2020), after Peters, J. Chem. Phys. 131, 244103 (2009), for the
tailored ones; Steinhardt, Nelson and Ronchetti, Phys. Rev. B 28, 784 (1983) for q2, q4, q6. Which parameter belongs to
which coordination number, and its widths, are those of matminer's preset "ops" (hackingmaterials/matminer,
``CrystalNNFingerprint``; pymatgen, ``LocalStructOrderParams``).

Each neighbour j in turn is the north pole, each other neighbour k the prime meridian; a further neighbour m then stands
at the polar angle θ_jm and the azimuth φ_jkm. All of that is arrays here, so a site takes about a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_ALIGNED = 1e-12
"""A direction nearer to the polar axis than this has no azimuth."""

_TET = 0.6081734479693927
_SOUTH, _SOUTH_HEX, _SOUTH_BCC, _SOUTH_CUBOCT = (math.pi * f for f in (3 / 4, 5 / 6, 0.8040867239846964, 8 / 9))

_HEXAGON = {"south": _SOUTH_HEX, "south_width": 7.5, "width": 25.0, "azimuth": 1.0, "off": 0.16666667}
_ORDERS: tuple[tuple[str, str, dict[str, float]], ...] = (("q2", "q2", {}), ("q4", "q4", {}), ("q6", "q6", {}))

MOTIFS: dict[int, tuple[tuple[str, str, dict[str, float]], ...]] = {
    1: (("sgl_bd", "single", {}),),
    2: (
        ("L-shaped", "bent", {"target": 0.5, "width": 15.15}),
        ("water-like", "bent", {"target": 104.45 / 180, "width": 13.95}),
        ("bent 120 degrees", "bent", {"target": 0.666666666667, "width": 13.25}),
        ("bent 150 degrees", "bent", {"target": 0.833333333333, "width": 12.45}),
        ("linear", "bent", {"target": 1.0, "width": 8.667}),
    ),
    3: (
        ("trigonal planar", "target", {"target": 0.66666666667, "width": 17.5, "azimuth": 1.0}),
        ("trigonal non-coplanar", "target", {"target": _TET, "width": 18.33, "azimuth": 1.5}),
        ("T-shaped", "target", {"target": 0.5, "width": 15.5, "azimuth": 1.0}),
    ),
    4: (
        ("square co-planar", "bipyramid", {"south_width": 13.5, "width": 17.7, "azimuth": 1.0}),
        ("tetrahedral", "target", {"target": _TET, "width": 18.5, "azimuth": 1.5}),
        ("rectangular see-saw-like", "bipyramid", {"south_width": 11.5, "width": 27.0, "azimuth": 2.0, "front": 0.75}),
        ("see-saw-like", "bipyramid", {"south_width": 12.75, "width": 15.75, "azimuth": 1.5}),
        ("trigonal pyramidal", "target", {"target": 0.5, "width": 15.5, "azimuth": 1.5}),
    ),
    5: (
        ("pentagonal planar", "pentagon", {"target": 0.6, "width": 19.333}),
        ("square pyramidal", "target", {"target": 0.5, "width": 14.9, "azimuth": 2.0}),
        ("trigonal bipyramidal", "bipyramid", {"south_width": 12.0, "width": 16.6, "azimuth": 1.5}),
    ),
    6: (
        ("hexagonal planar", "bipyramid", _HEXAGON),
        ("octahedral", "bipyramid", {"south_width": 15.0, "width": 18.0, "azimuth": 2.0}),
        ("pentagonal pyramidal", "target", {"target": 0.5, "width": 13.8, "azimuth": 2.5}),
    ),
    7: (
        ("hexagonal pyramidal", "target", {"target": 0.5, "width": 12.5, "azimuth": 3.0}),
        ("pentagonal bipyramidal", "bipyramid", {"south_width": 12.5, "width": 14.75, "azimuth": 2.5}),
    ),
    8: (
        ("body-centered cubic", "bcc", {"south_width": 15.0, "south_weight": 6.0}),
        ("hexagonal bipyramidal", "bipyramid", {"south_width": 14.1, "width": 13.6, "azimuth": 3.0}),
    ),
    **dict.fromkeys((9, 10, 11), _ORDERS),
    12: (
        ("cuboctahedral", "cuboctahedron", {"south_width": 28.75, "width": 25.5, "third_width": 31.25}),
        *_ORDERS,
    ),
}
"""Coordination number to (name, family, parameters). Target angles are parts of π, widths inverse Gaussian ones of the
same unit, south angles in radians (each family has its own): neighbours beyond them are taken as the south pole.
"""


@dataclass(frozen=True, eq=False)
class Angles:
    """Angles among n neighbours of a site, as seen from it.

    Attributes:
        polar: θ_jk in radians, ``[n, n]``.
        azimuth: φ_jkm in radians, ``[n, n, n]``; rubbish where ``placed`` is False.
        pair: j ≠ k, ``[n, n]``.
        third: j, k, m all different and k not on the polar axis, ``[n, n, n]``.
        placed: ``third`` and m not on the axis either.
    """

    polar: Array
    azimuth: Array
    pair: NDArray[np.bool_]
    third: NDArray[np.bool_]
    placed: NDArray[np.bool_]

    def first(self, n: int) -> Angles:
        """Those of the first n neighbours alone."""
        s = slice(n)
        return Angles(
            self.polar[s, s], self.azimuth[s, s, s], self.pair[s, s], self.third[s, s, s], self.placed[s, s, s]
        )


def neighbour_angles(vectors: Array) -> Angles:
    """Angles of the vectors ``[n, 3]`` from a site to its neighbours."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    across = units[None] - (cosines / cosines.diagonal()[:, None])[..., None] * units[:, None]
    lengths = np.linalg.norm(across, axis=-1)
    off_axis = lengths >= _ALIGNED
    across = across / np.where(off_axis, lengths, 1.0)[..., None]
    azimuth = np.arccos(np.clip(np.einsum("jkc,jmc->jkm", across, across), -1.0, 1.0))
    pair = ~np.eye(len(units), dtype=bool)
    third = pair[:, :, None] & pair[:, None, :] & pair[None] & off_axis[:, :, None]
    return Angles(np.arccos(np.clip(cosines, -1.0, 1.0)), azimuth, pair, third, third & off_axis[:, None, :])


def order_parameter(family: str, parameters: Mapping[str, float], angles: Angles) -> float:
    """One order parameter, about 1 for the ideal motif and 0 far from it; 0 where too few neighbours make it undefined.

    Args:
        family, parameters: as in :data:`MOTIFS`.
        angles: of exactly the neighbours that count.
    """
    if family == "single":
        return 1.0
    if family in _STEINHARDT:
        # Σ_m |mean_j Y_lm(j)|² is, by the addition theorem, a mean of Legendre polynomials of the angles between
        # neighbours.
        mean = float(np.polynomial.legendre.legval(np.cos(angles.polar), [0.0] * _STEINHARDT[family] + [1.0]).mean())
        return math.sqrt(max(mean, 0.0))
    return float(_FAMILIES[family](parameters, angles))


_STEINHARDT = {"q2": 2, "q4": 4, "q6": 6}


def _gauss(x: Any, width: float, target: Any) -> Array:
    return np.asarray(np.exp(-0.5 * (width * (x / math.pi - target)) ** 2))


def _best(total: Array, count: Array) -> float:
    """Largest mean over the choices of pole and meridian."""
    return float(np.max(np.where(count > 1e-12, total / np.maximum(count, 1e-12), 0.0), initial=0.0))


def _summed(values: Array, where: NDArray[np.bool_]) -> Array:
    return np.asarray(np.where(where, values, 0.0).sum(-1))


def _bent(p: Mapping[str, float], a: Angles) -> float:
    found = _gauss(a.polar, p["width"], p["target"])[a.pair]
    return float(found.mean()) if found.size else 0.0


def _target(p: Mapping[str, float], a: Angles) -> float:
    """All other neighbours at one angle from the pole (half of π in a pyramid), evenly spread around it."""
    return _ring(_gauss(a.polar, p["width"], p["target"]), p["azimuth"], a)


def _ring(polar: Array, azimuth: float, a: Angles) -> float:
    """Neighbours at their polar angle, of which each further one is evenly spread from the prime meridian."""
    around = polar[:, None, :] * np.cos(azimuth * a.azimuth) ** 2
    return _best(np.where(a.pair, polar, 0.0) + _summed(around, a.placed), a.pair + a.placed.sum(-1))


def _pentagon(p: Mapping[str, float], a: Angles) -> float:
    # the two angles of a regular pentagon as seen from its centre, 72° and 144°, told apart at the target
    return _ring(_gauss(a.polar, p["width"], np.where(a.polar <= p["target"] * math.pi, 0.4, 0.8)), 1.0, a)


def _bipyramid(p: Mapping[str, float], a: Angles) -> float:
    """One neighbour at the south pole, the others on the equator (or, with ``off``, 30° to either side of it)."""
    equator = a.polar < p.get("south", _SOUTH)
    level = _gauss(a.polar, p["width"], 0.5)
    if "off" in p:
        level = np.exp(-0.5 * (p["width"] * (np.abs(a.polar / math.pi - 0.5) - p["off"])) ** 2)
    pole = _gauss(a.polar, p["south_width"], 1.0)
    first = a.pair & equator
    south = a.third & ~equator[:, None, :]
    others = a.placed & equator[:, :, None] & equator[:, None, :]
    if "front" in p:
        others = others & (a.azimuth < p["front"] * math.pi)
    around = level[:, None, :] * np.cos(p["azimuth"] * a.azimuth) ** 2
    total = (
        np.where(first, level, 0.0)
        + _summed(np.broadcast_to(pole[:, None, :], south.shape), south)
        + _summed(around, others)
    )
    return _best(total, first + south.sum(-1) + others.sum(-1))


def _bcc(p: Mapping[str, float], a: Angles) -> float:
    n = len(a.polar)
    if n < 4:
        return 0.0
    # Each pair counts once, the neighbour of larger weight as the pole: the one parameter that depends on the order of
    # neighbours.
    once = np.triu(np.ones((n, n), dtype=bool), 1)
    equator = a.polar < _SOUTH_BCC
    poles = p["south_weight"] * _gauss(a.polar, p["south_width"], 1.0)[once & ~equator].sum()
    tilt = (a.polar - math.pi / 2) / math.asin(1 / 3)
    bell = math.exp(0.5) * tilt * np.exp(-0.5 * tilt * tilt)
    sign = np.where(a.polar > math.pi / 2, 1.0, -1.0)
    around = sign[:, :, None] * np.cos(3 * a.azimuth) * bell[:, None, :]
    others = a.placed & (once & equator)[:, :, None]
    return float(poles + around[others].sum()) / (0.5 * n * (6 + (n - 2) * (n - 3)))


def _cuboctahedron(p: Mapping[str, float], a: Angles) -> float:
    """One neighbour opposite, four on the equator, and the rest at 60° and 120°."""
    low, high = 5 * math.pi / 12, 7 * math.pi / 12
    opposite = a.pair & (a.polar >= _SOUTH_CUBOCT)
    total = np.where(opposite, 1.8 * _gauss(a.polar, p["south_width"], 1.0), 0.0)
    count = np.where(opposite, 1.8, 0.0)
    polar_m = np.broadcast_to(a.polar[:, None, :], a.azimuth.shape)
    level_k = (a.polar > low) & (a.polar < high)
    open_ = a.placed & (polar_m < _SOUTH_CUBOCT) & level_k[:, :, None]
    spread = np.exp(-0.5 * (0.0556 * (np.cos(a.azimuth - 0.5 * math.pi) - 0.81649658)) ** 2)
    for where, values in (
        ((polar_m > low) & (polar_m < high), np.cos(a.azimuth) ** 2 * _gauss(polar_m, p["width"], 0.5)),
        (polar_m < low, spread * _gauss(polar_m, p["third_width"], 1 / 3)),
        (polar_m > high, spread * _gauss(polar_m, p["third_width"], 2 / 3)),
    ):
        total = total + _summed(values, open_ & where)
        count = count + (open_ & where).sum(-1)
    return _best(total, count)


_FAMILIES = {
    "bent": _bent,
    "target": _target,
    "pentagon": _pentagon,
    "bipyramid": _bipyramid,
    "bcc": _bcc,
    "cuboctahedron": _cuboctahedron,
}
