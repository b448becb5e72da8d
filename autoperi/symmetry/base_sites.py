"""Crystals as base sites: one atom of each element, from which the space group makes all others (Zhao et al., npj
Comput. Mater. 9, 38 (2023)).

Coordinates are fractions of the conventional cell in the default setting of the group. B crystals have K slots of
elements each, some of which may be empty, and S sets of base sites, which are other atoms of the same crystal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import atomic_radius, covalent_radii, electronegativity
from autoperi.geometry.lattice import from_lengths_angles
from autoperi.geometry.segments import segment_sum
from autoperi.geometry.torus import wrap_centered
from autoperi.symmetry.sites import ROUNDING, Sites, sites_of
from autoperi.symmetry.spacegroup import crystal_system, primitive_transform, space_group
from autoperi.units import MAX_ATOMIC_NUMBER

MAX_OPERATIONS = 192
"""Operations of the largest space group; the affine matrices of others are padded with zeros."""
MIN_MERGE_DISTANCE = 0.6
"""Å below which images are merged whatever their radii are: no two atoms are as near."""
SHORTER, MAX_SHORTER = 0.8, 12
"""Factor of the distance of merging where clusters have no end, and how often it is taken."""
_BORDERS = torch.tensor(list(product((0.0, 1.0), repeat=3)))
_ROOT = 1e-8
"""Å² added to squared distances, so that their roots have a gradient at zero."""
ANGLES = 3
"""Cell angles, after three lengths, among the numbers of which :func:`cells` makes a cell."""
_LENGTH_TIES = {"cubic": ((0, 1, 2),), "tetragonal": ((0, 1),), "trigonal": ((0, 1),), "hexagonal": ((0, 1),)}
_FREE_ANGLES = {"triclinic": (0, 1, 2), "monoclinic": (1,)}


@lru_cache(maxsize=1)
def atomic_radii() -> Tensor:
    """Atomic radii in Å by atomic number (Slater 1964), covalent ones where there is none, ``[119]``; 0 for none."""
    found = [atomic_radius(z) or covalent_radii()[z] for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    return torch.tensor([0.0, *map(float, found)], dtype=torch.float64)


def in_slots(numbers: Iterable[int]) -> list[int]:
    """Elements in the order of slots: by electronegativity, as formulas are written; those without one last."""
    values = {z: electronegativity(z) for z in numbers}
    return sorted(values, key=lambda z: (math.inf if math.isnan(values[z]) else values[z], z))


@lru_cache(maxsize=230)
def affine_matrix(number: int) -> Tensor:
    """O: the operations of a group as matrices ``(R t; 0 1)``, padded with zeros, ``[192, 4, 4]``, in float32 (their
    entries are multiples of 1/24).
    """
    group = space_group(number)
    found = torch.zeros(MAX_OPERATIONS, 4, 4)
    found[: len(group), :3, :3] = torch.as_tensor(np.array(group.rotations))
    found[: len(group), :3, 3] = torch.as_tensor(np.array(group.translations))
    found[: len(group), 3, 3] = 1
    return found


def affine_matrices(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The affine matrices of the groups that occur among ``groups`` ``[B]``, ``[G, 192, 4, 4]``, and which of them each
    crystal has, ``[B]``.
    """
    each, which = torch.unique(groups, return_inverse=True)
    return torch.stack([affine_matrix(g) for g in each.tolist()]).to(groups.device), which


def images(sites: Tensor, operations: Tensor) -> Tensor:
    """All images of sites, wrapped into the cell and not made unique: lines 6 to 9 of Algorithm 1.

    Args:
        sites: ``[B, S, K, 3]``.
        operations: affine matrices of each crystal, ``[B, 192, 4, 4]``.

    Returns:
        ``[B, 192, S, K, 3]``; zeros for the padding. The gradient is that of the image before it is wrapped.
    """
    own = operations.to(sites)
    moved = torch.einsum("bgij,bskj->bgski", own[..., :3, :3], sites) + own[..., None, None, :3, 3]
    return moved - moved.detach().floor()


def cells(raw: Tensor, groups: Tensor) -> Tensor:
    """Conventional cells ``[B, 3, 3]`` in Å, a along x and b in the xy plane (equation 9).

    Args:
        raw: lengths in Å and angles in degrees, ``[B, 6]``. Of lengths that the crystal system holds equal the mean is
            taken, and angles that it fixes are what it says.
        groups: ``[B]``.
    """
    each, which = torch.unique(groups, return_inverse=True)
    ties, free, fixed = (
        torch.stack(part).to(raw)[which] for part in zip(*map(_cell_facts, each.tolist()), strict=True)
    )
    lengths = torch.einsum("bij,bj->bi", ties, raw[:, :ANGLES])
    return from_lengths_angles(lengths, torch.where(free > 0, raw[:, ANGLES:], fixed))


@lru_cache(maxsize=230)
def _cell_facts(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """How lengths are averaged ``[3, 3]``, which angles are free ``[3]``, and the fixed angles ``[3]``."""
    system = crystal_system(number)
    ties = torch.eye(3, dtype=torch.float64)
    for own in _LENGTH_TIES.get(system, ()):
        ties[list(own)] = torch.tensor([1 / len(own) if k in own else 0.0 for k in range(3)], dtype=torch.float64)
    free = torch.tensor([float(k in _FREE_ANGLES.get(system, ())) for k in range(3)])
    return ties, free, torch.tensor([90.0, 90.0, 120.0 if system in ("trigonal", "hexagonal") else 90.0])


def distances(sites: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """H_inter and H_intra: distances between the base sites of a set, and between those of an element, as they lie in
    the cell.

    Args:
        sites: ``[B, S, K, 3]``.
        lattice: conventional cells, ``[B, 3, 3]``.

    Returns:
        In Å: of pairs of elements in each set ``[B, S, K(K-1)/2]``, and of pairs of sets for each element ``[B, K,
        S(S-1)/2]``.
    """
    place = torch.einsum("bski,bij->bskj", sites, lattice)
    inter = [_pairs(place, k) for k in (2, 1)]
    return _length(inter[0]), _length(inter[1]).transpose(1, 2)


def image_distances(sites: Tensor, operations: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`distances`, from a base site to the nearest image of the other, in this cell or the next: between
    elements these are distances of the crystal, whichever of its atoms the base sites are; between sets of base sites
    of one crystal they are zero.

    Args:
        sites, lattice: as there. operations: ``[B, 192, 4, 4]``.
    """
    every = images(sites, operations)
    padding = (operations[:, :, 3, 3] == 0)[:, :, None, None]
    found = []
    for axis in (2, 1):
        one, other = _ends(sites.shape[axis], sites.device)
        square = _shortest_squares(every.index_select(axis + 1, other), sites.index_select(axis, one), lattice)
        found.append((square.masked_fill(padding, torch.inf).amin(1) + _ROOT).sqrt())
    return found[0], found[1].transpose(1, 2)


def multiplicities(elements: Tensor, sites: Tensor, operations: Tensor, lattice: Tensor, *, merge: float) -> Tensor:
    """About how many atoms of the conventional cell each base site stands for: the operations of the group over those
    that move the site by less than the distance of merging, ``[B, K]``; 0 for an empty slot.

    Args:
        elements: ``[B, K]``; sites: one set, ``[B, K, 3]``; operations: ``[B, 192, 4, 4]``; lattice: ``[B, 3, 3]``.
        merge: as of :func:`merged`.
    """
    start = sites.unsqueeze(1)
    square = _shortest_squares(images(start, operations), start, lattice)[:, :, 0]
    there = operations[:, :, 3, 3] > 0
    near = (square < merge_distances(elements, merge).to(square)[:, None] ** 2) & there.unsqueeze(2)
    return there.sum(1, keepdim=True) / near.sum(1).clamp(min=1) * (elements > 0)


def merge_distances(elements: Tensor, merge: float) -> Tensor:
    """Å below which images of a site of each element are one atom: ``merge`` sums of its atomic radii, at least
    :data:`MIN_MERGE_DISTANCE`.
    """
    return (2 * merge * atomic_radii().to(elements.device)[elements]).clamp(min=MIN_MERGE_DISTANCE)


def _shortest_squares(to: Tensor, start: Tensor, lattice: Tensor) -> Tensor:
    """Squared lengths in Å² of the shortest ways ``[B, 192, S, P]`` from sites to images, across the borders too.

    Exact where a pair of edges is skewed by up to 120°, which holds in all but strongly skewed monoclinic and triclinic
    cells.
    """
    apart = to - start.unsqueeze(1)
    apart = apart - apart.detach().round()
    metric = lattice @ lattice.mT
    slopes = (apart.flatten(1, 3) @ metric).view_as(apart)
    # x·G·x, and by how much the other side of a border is nearer: in a skewed cell the nearest fraction is not the
    # nearest point
    edges = metric.diagonal(dim1=1, dim2=2)[:, None, None, None]
    across = (edges - 2 * torch.sign(apart.detach()) * slopes).amin(-1)
    return (apart * slopes).sum(-1) + across.clamp(max=0)


def _ends(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    one, other = torch.triu_indices(n, n, 1, device=device)
    return one, other


def _pairs(place: Tensor, axis: int) -> Tensor:
    """Vectors between entries along ``axis``."""
    one, other = _ends(place.shape[axis], place.device)
    return place.index_select(axis, other) - place.index_select(axis, one)


def _length(vectors: Tensor) -> Tensor:
    return ((vectors**2).sum(-1) + _ROOT).sqrt()


def radius_sums(elements: Tensor) -> tuple[Tensor, Tensor]:
    """S_inter ``[B, K(K-1)/2]`` and S_intra ``[B, K]``: sums of atomic radii in Å of the pairs of :func:`distances`;
    0 where a slot is empty.
    """
    radii = atomic_radii().to(elements.device)[elements]
    one, other = _ends(elements.shape[1], elements.device)
    both = (elements[:, one] > 0) & (elements[:, other] > 0)
    return torch.where(both, radii[:, one] + radii[:, other], 0.0), 2 * radii


def merged(elements: Tensor, sites: Tensor, lattice: Tensor, groups: Tensor, *, merge: float) -> CrystalBatch:
    """The crystals that base sites make, in primitive cells: images of a site that lie near each other are one atom at
    their centroid, across the borders of the cell too.

    Images that are joined by distances below ``merge`` sums of their atomic radii form a cluster (single linkage; the
    paper names none). The operations that take an atom of a cluster to another of it leave the centroid in place, so it
    lies on their Wyckoff position, and the crystal keeps the group. Where a chain of images runs through the whole
    crystal there is no centroid; such a site is merged up to a shorter distance.

    Args:
        elements: atomic numbers, 0 for an empty slot, ``[B, K]``.
        sites: one set, ``[B, K, 3]``, in float64.
        lattice: conventional cells, ``[B, 3, 3]``. groups: ``[B]``.
        merge: see above, at least :data:`MIN_MERGE_DISTANCE`; the paper clusters up to 1.2.
    """
    held = elements > 0
    members = [[(z, None) for z in row if z] for row in elements.tolist()]
    made = sites_of(groups.tolist(), members, torch.linalg.det(lattice).abs())
    reach = merge_distances(made.atomic_numbers, merge).to(sites)
    # what is merged lies on its position already: only images that coincide are one atom
    made = replace(made, merge_distance=torch.full_like(made.merge_distance, ROUNDING)).to(device=sites.device)
    to_primitive = torch.stack([_to_primitive(g) for g in groups.tolist()]).to(sites)
    frac = torch.einsum("bki,bij->bkj", sites, to_primitive)[held]
    primitive = made.transform @ lattice.to(made.transform)
    return made.images(_centroids(made, frac, primitive, reach), primitive)[0]


def _centroids(made: Sites, frac: Tensor, lattice: Tensor, reach: Tensor) -> Tensor:
    """The centroid of the cluster that each site belongs to, fractions of the primitive cell, ``[S, 3]``.

    A cluster is what the group H makes of a site whose generators move it by less than ``reach``, and its centroid is
    the point nearest to the site that all of them leave in place: the δ of least norm with (R − 1) δ = −(move of the
    site). Where H holds a translation there is no such point, and the reach is shortened.

    Args:
        frac: ``[S, 3]``; lattice: primitive cells in Å, ``[B, 3, 3]``; reach: Å, ``[S]``.
    """
    point, site, rotation = made.every_image(frac)
    own = lattice[made.crystal]
    inverse = torch.linalg.inv(own)
    apart = wrap_centered(point - frac[site])
    # with the other side of each border these are all moves shorter than the least distance of lattice planes
    moves = (apart.unsqueeze(1) - _BORDERS.to(apart) * torch.sign(apart).unsqueeze(1)) @ own[site]
    reach = torch.minimum(reach, 1 / torch.linalg.vector_norm(inverse, dim=1).amax(1))
    length = torch.linalg.vector_norm(moves, dim=-1)
    turn = (inverse[site] @ rotation.transpose(1, 2) @ own[site]).transpose(1, 2) - torch.eye(3).to(own)
    shift = torch.zeros_like(frac)
    left = torch.ones(len(frac), dtype=torch.bool, device=frac.device)
    for _ in range(MAX_SHORTER):
        near = ((length < reach[site].unsqueeze(1)) & left[site].unsqueeze(1)).to(own)
        often, sums = near.sum(1), (near.unsqueeze(2) * moves).sum(1)
        square = segment_sum((often[:, None, None] * turn.mT @ turn).flatten(1), site, len(frac)).view(-1, 3, 3)
        pull = segment_sum(-(turn.mT @ sums.unsqueeze(2)).squeeze(2), site, len(frac))
        found = (torch.linalg.pinv(square, rtol=1e-6, hermitian=True) @ pull.unsqueeze(2)).squeeze(2)
        off = torch.linalg.vector_norm((turn @ found[site].unsqueeze(2)).squeeze(2).unsqueeze(1) + moves, dim=-1)
        worst = torch.zeros_like(reach).scatter_reduce(0, site, (off * near).amax(1), "amax")
        fixed = left & (worst < ROUNDING / 10)
        shift[fixed] = found[fixed]
        left = left & ~fixed
        if not left.any():
            break
        reach = torch.where(left, SHORTER * reach, reach)
    return frac + (shift.unsqueeze(1) @ inverse).squeeze(1)


@lru_cache(maxsize=230)
def _to_primitive(number: int) -> Tensor:
    """By which rows of conventional fractional coordinates are multiplied."""
    return torch.as_tensor(np.linalg.inv(primitive_transform(space_group(number))))
