"""Crystals as sites under a space group: non-equivalent atoms and cell parameters, and all that symmetry makes of them
(Sultanov et al. 2023, sections 2, 4.1 and 4.3).

A *site* stands for an orbit: its images under the operations of the group are the atoms. Images that are nearer than
its ``merge_distance`` are one atom at their centroid, so a site may move freely and still end on a special position. A
site may also be bound to a Wyckoff position, which fixes how many atoms it stands for.

Cells are those of the conventional setting: lengths of its edges at the angles of the crystal family, written as L₃ =
φ⁻¹(a, b, c) with φ(x) = k log(exp(x/k) + 1) (the paper prints φ, but the numbers that take any value are those of φ⁻¹),
equal where the family says so; for monoclinic and triclinic groups, of
which the paper has none, coordinates of the log-metric. Atoms and edges are counted in the primitive cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.lattice import from_lengths_angles, from_log_metric, lengths_angles, to_log_metric
from autoperi.geometry.multigraph import Multigraph, edge_vectors, places, radius_graph
from autoperi.geometry.segments import ranges, segment_sum
from autoperi.geometry.torus import wrap, wrap_centered
from autoperi.symmetry.spacegroup import crystal_system, primitive_transform, space_group
from autoperi.symmetry.wyckoff import WyckoffPosition

PARAMETERS = 6
"""Columns of cell parameters: φ⁻¹ of three lengths, equal where the group ties them, and three zeros; or six
coordinates of the log-metric, zero where the group does not leave them free.
"""
SOFTPLUS_LENGTH = 10.0
"""k of φ in Å: about the edge of a cell, so that the same noise changes short and long edges by like shares."""
METRIC_EDGE = 12.0
"""Å by which coordinates of the log-metric are multiplied, so that all cell parameters are lengths and noise strains
these cells as much as the others.
"""
MERGE_DISTANCE, ROUNDING = 0.3, 1e-3
"""Å below which two images of a site are one atom (section 4.2), and where its Wyckoff position says how many atoms it
stands for.
"""
MAX_EDGES, EDGE_TIE = 64, 1e-3
"""Edges of a site that the multigraph keeps, the shortest ones, and Å within which edges are equally long: a site off
its special position may have hundreds of images near it.
"""
MAX_VOLUME_RATIO = 4.0
"""How many times larger or smaller than natural the volume of a cell may be while it is noisy."""
_DIFFERENCE = 0.02
"""Å of the differences that give the derivative of a cell with respect to its parameters (section 4.3)."""
_METRIC_SYSTEMS = ("triclinic", "monoclinic")
"""Crystal systems whose angles are free."""


@dataclass(frozen=True, eq=False)
class Sites:
    """S sites of B crystals: everything but where they are and how large the cells are.

    Attributes:
        atomic_numbers: of each site, ``[S]``; crystal: ``[S]``, ascending.
        group: space-group numbers, ``[B]``.
        rotations, translations: operations in the primitive cell, on columns, crystal after crystal, ``[Q, 3, 3]`` and
            ``[Q, 3]``; the identity is the first of each crystal's.
        operations: how many each crystal has, ``[B]``.
        transform: rows of the primitive basis in the conventional one, ``[B, 3, 3]``.
        ties: orthonormal directions of the free cell parameters, zero beyond their number, ``[B, 6, 6]``.
        axes: unit vectors along the edges of the conventional cell, ``[B, 3, 3]``; not used where ``metric``.
        metric: whose parameters are coordinates of the log-metric, ``[B]``.
        maps, offsets: each site's Wyckoff position in the primitive cell as a map x → M x + o that leaves its own
            points in place, ``[S, 3, 3]`` and ``[S, 3]``; the identity for a site that is bound to none.
        merge_distance: Å below which two images of a site are one atom, ``[S]``: :data:`MERGE_DISTANCE`, or for sites
            on Wyckoff positions no more than rounding, so that they keep their numbers of atoms.
        volume: natural volume of each conventional cell in Å³, ``[B]``.
    """

    atomic_numbers: Tensor
    crystal: Tensor
    group: Tensor
    rotations: Tensor
    translations: Tensor
    operations: Tensor
    transform: Tensor
    ties: Tensor
    axes: Tensor
    metric: Tensor
    maps: Tensor
    offsets: Tensor
    merge_distance: Tensor
    volume: Tensor

    def __len__(self) -> int:
        return len(self.group)

    @cached_property
    def counts(self) -> Tensor:
        """Sites of each crystal, ``[B]``."""
        return torch.bincount(self.crystal, minlength=len(self))

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Sites:
        """The same with real numbers of ``dtype``, on ``device``."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return Sites(
            **{k: v.to(device=device, dtype=dtype if v.is_floating_point() else None) for k, v in given.items()}
        )

    @property
    def unbound(self) -> Tensor:
        """Which sites are bound to no Wyckoff position, ``[S]``."""
        return self.merge_distance > 2 * ROUNDING  # in float32 too

    def freed(self, volume: Tensor) -> Sites:
        """The same with sites that are bound to no Wyckoff position, and natural volumes in Å³, ``[B]``, that do not
        know how many atoms they stand for.
        """
        maps = torch.eye(3, dtype=self.maps.dtype, device=self.maps.device).expand_as(self.maps)
        merge = torch.full_like(self.merge_distance, MERGE_DISTANCE)
        return replace(self, maps=maps, offsets=torch.zeros_like(self.offsets), merge_distance=merge, volume=volume)

    # --- cells

    def free(self, parameters: Tensor) -> Tensor:
        """``parameters`` ``[B, 6]`` without what the groups do not leave free."""
        return torch.einsum("bki,bkj,bj->bi", self.ties, self.ties, parameters)

    def conventional(self, parameters: Tensor) -> Tensor:
        """Conventional cells ``[B, 3, 3]`` in Å of cell parameters ``[B, 6]``."""
        lengths = softplus(parameters[:, :3])
        return torch.where(
            self.metric[:, None, None],
            from_log_metric(parameters / METRIC_EDGE),
            self.axes * lengths.unsqueeze(-1),
        )

    def lattice(self, parameters: Tensor) -> Tensor:
        """Primitive cells ``[B, 3, 3]`` in Å of cell parameters ``[B, 6]``."""
        return self.transform @ self.conventional(parameters)

    def lattice_slopes(self, parameters: Tensor) -> Tensor:
        """∂(primitive cell)/∂(free cell parameter), ``[B, 6, 3, 3]``, by central differences (section 4.3); zero beyond
        the free ones.
        """
        found = []
        for k in range(PARAMETERS):
            step = _DIFFERENCE * self.ties[:, k]
            found.append((self.lattice(parameters + step) - self.lattice(parameters - step)) / (2 * _DIFFERENCE))
        return torch.stack(found, 1)

    def parameters(self, conventional: Tensor) -> Tensor:
        """Cell parameters ``[B, 6]`` of conventional cells ``[B, 3, 3]``; :meth:`conventional` goes back."""
        lengths = inverse_softplus(lengths_angles(conventional)[0])
        lengths = torch.cat([lengths, torch.zeros_like(lengths)], 1)
        return self.free(torch.where(self.metric[:, None], to_log_metric(conventional) * METRIC_EDGE, lengths))

    def bounded(self, parameters: Tensor) -> Tensor:
        """``parameters`` ``[B, 6]``, where cells of less or more than :data:`MAX_VOLUME_RATIO` times the natural volume
        are brought to it: in a collapsed cell every atom has thousands of neighbours.
        """
        cells = self.conventional(parameters)
        volume = torch.linalg.det(cells).abs().clamp(min=1e-12)
        wanted = torch.minimum(torch.maximum(volume, self.volume / MAX_VOLUME_RATIO), self.volume * MAX_VOLUME_RATIO)
        scaled = self.parameters(cells * (wanted / volume).pow(1 / 3)[:, None, None])
        return torch.where((wanted != volume).unsqueeze(1), scaled, parameters)

    def natural(self) -> Tensor:
        """Parameters ``[B, 6]`` of cells of equal edges at the natural volume."""
        angle_volume = torch.linalg.det(self.axes).abs()
        edges = (self.volume / torch.where(self.metric, 1.0, angle_volume)).pow(1 / 3)
        eye = torch.eye(3, dtype=edges.dtype, device=edges.device)
        return self.parameters(torch.where(self.metric[:, None, None], eye, self.axes) * edges[:, None, None])

    # --- positions

    def placed(self, frac_coords: Tensor) -> Tensor:
        """Any points ``[S, 3]`` taken onto the Wyckoff positions of their sites, wrapped into the primitive cell.

        M may have fractions in a primitive cell, so that points which differ by lattice vectors are taken to different
        places: sites that are on their positions stay there by :meth:`tangent`, not by this.
        """
        return wrap(torch.einsum("sij,sj->si", self.maps, frac_coords) + self.offsets)

    def tangent(self, lattice: Tensor) -> Tensor:
        """Projectors ``[S, 3, 3]`` of Cartesian displacements onto those that keep sites on their Wyckoff positions, in
        primitive cells ``[B, 3, 3]``.
        """
        # rows that span the position: the Cartesian images of the columns of M
        span = self.maps.transpose(1, 2) @ lattice[self.crystal]
        return torch.linalg.pinv(span, rtol=1e-6) @ span

    def images(self, frac_coords: Tensor, lattice: Tensor) -> tuple[CrystalBatch, Tensor, Tensor]:
        """All atoms: the images of sites, where images that coincide are one atom at their centroid.

        Args:
            frac_coords: ``[S, 3]``; lattice: primitive cells, ``[B, 3, 3]``.

        Returns:
            The crystals, whose atoms are images site by site; the site of each atom ``[N]``; and which atoms the sites
            themselves belong to ``[N]``, the first of each.
        """
        counts = self.operations[self.crystal]
        point, site, _ = self.every_image(frac_coords)
        head = self._atoms(point, lattice, counts)
        # the centroid of an atom's images, found from the first of them
        apart = wrap_centered(point - point[head])
        keep = head == torch.arange(len(point), device=head.device)
        many = torch.bincount(head, minlength=len(point)).clamp(min=1).to(point.dtype)
        centroid = point + segment_sum(apart, head, len(point)) / many.unsqueeze(1)
        first = torch.zeros_like(keep)
        first[torch.cumsum(counts, 0) - counts] = True
        kept = site[keep]
        n_atoms = torch.bincount(self.crystal[kept], minlength=len(self))
        batch = CrystalBatch(lattice, wrap(centroid[keep]), self.atomic_numbers[kept], n_atoms)
        return batch, kept, first[keep]

    def seen(self, frac_coords: Tensor, lattice: Tensor) -> Tensor:
        """Projectors ``[S, 3, 3]`` of Cartesian displacements of sites onto those that move their atoms: where images
        are one atom at their centroid, this is the mean of their rotations.
        """
        counts = self.operations[self.crystal]
        start = torch.cumsum(counts, 0) - counts
        point, site, rotation = self.every_image(frac_coords)
        own = (self._atoms(point, lattice, counts) == start[site]).to(rotation)
        mean = segment_sum((own[:, None, None] * rotation).flatten(1), site, len(counts)).view(-1, 3, 3)
        mean = mean / segment_sum(own.unsqueeze(1), site, len(counts)).unsqueeze(-1)
        cell = lattice[self.crystal]
        return torch.linalg.inv(cell) @ mean.transpose(1, 2) @ cell

    def every_image(self, frac_coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of sites under all operations ``[M, 3]``, site by site, the site of each ``[M]``, and the rotations
        that made them ``[M, 3, 3]``.
        """
        counts = self.operations[self.crystal]
        site = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        operation = ranges((torch.cumsum(self.operations, 0) - self.operations)[self.crystal], counts)
        rotation = self.rotations[operation]
        return torch.einsum("mij,mj->mi", rotation, frac_coords[site]) + self.translations[operation], site, rotation

    def _atoms(self, point: Tensor, lattice: Tensor, counts: Tensor) -> Tensor:
        """The first image of the atom that each image belongs to, ``[M]``: images of a site that are nearer than its
        merge distance, or joined by others that are, are one atom.
        """
        start = torch.cumsum(counts, 0) - counts
        n_pairs = counts**2
        owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), n_pairs)
        place = ranges(torch.zeros_like(n_pairs), n_pairs)
        one = torch.div(place, counts[owner], rounding_mode="floor") + start[owner]
        other = place % counts[owner] + start[owner]
        # a vector this short is the wrapped difference itself, however skewed the cell may be
        apart = wrap_centered(point.detach()[one] - point.detach()[other])
        apart = torch.einsum("pi,pij->pj", apart, lattice.detach()[self.crystal[owner]])
        nearest = torch.repeat_interleave(self.merge_distance, n_pairs)
        same = (apart**2).sum(-1) < nearest**2
        one, other = one[same], other[same]
        head = torch.arange(len(point), device=point.device)
        while True:
            lower = head.scatter_reduce(0, one, head[other], "amin")
            if torch.equal(lower, head):
                return head
            head = lower

    def crystals(self, frac_coords: Tensor, parameters: Tensor) -> CrystalBatch:
        """The crystals in their primitive cells."""
        return self.images(frac_coords, self.lattice(parameters))[0]

    def graph(
        self, batch: CrystalBatch, site: Tensor, first: Tensor, cutoff: float
    ) -> tuple[Multigraph, Tensor, Tensor]:
        """The symmetric multigraph: nodes are sites, edges lead from them to the images of all sites (section 4.1).

        Args:
            batch, site, first: as :meth:`images` gives them.
            cutoff: Å.

        Returns:
            The multigraph of sites, edge vectors in Å ``[E, 3]``, and the same in fractions of the primitive cell. Of a
            site with more than :data:`MAX_EDGES`, the shortest; equally long ones are kept together.
        """
        atoms = _shortest(radius_graph(batch, cutoff, centres=first), batch)
        vectors = edge_vectors(batch, atoms)
        i, j = atoms.edge_index
        fractional = batch.frac_coords[j] - batch.frac_coords[i] + atoms.edge_shift.to(batch.frac_coords.dtype)
        return Multigraph(site[atoms.edge_index], atoms.edge_shift, len(self.crystal)), vectors, fractional


def _shortest(graph: Multigraph, batch: CrystalBatch) -> Multigraph:
    """The :data:`MAX_EDGES` shortest edges of each atom, and those as long as the last of them."""
    if not graph.n_edges or int(graph.degrees().max()) <= MAX_EDGES:
        return graph
    length = torch.linalg.vector_norm(edge_vectors(batch, graph).detach(), dim=-1)
    order = torch.argsort(length, stable=True)
    order = order[torch.argsort(graph.edge_index[0][order], stable=True)]  # by centre, then by length
    place, _ = places(graph.edge_index[0][order], graph.n_nodes)
    limit = torch.full((graph.n_nodes,), torch.inf, dtype=length.dtype, device=length.device)
    last = order[place == MAX_EDGES - 1]
    limit[graph.edge_index[0][last]] = length[last] + EDGE_TIE
    keep = length <= limit[graph.edge_index[0]]
    return Multigraph(graph.edge_index[:, keep], graph.edge_shift[keep], graph.n_nodes)


def softplus(x: Tensor) -> Tensor:
    """φ(x) = k log(exp(x/k) + 1), a length for every real number."""
    return SOFTPLUS_LENGTH * torch.nn.functional.softplus(x / SOFTPLUS_LENGTH)


def inverse_softplus(length: Tensor) -> Tensor:
    """φ⁻¹: real numbers of lengths in Å."""
    return length + SOFTPLUS_LENGTH * torch.log(-torch.expm1(-length / SOFTPLUS_LENGTH))


# --- making them


def sites_of(
    groups: Sequence[int],
    members: Sequence[Sequence[tuple[int, WyckoffPosition | None]]],
    volumes: Sequence[float] | Tensor,
) -> Sites:
    """Sites of crystals, in float64.

    Args:
        groups: space-group numbers, one a crystal.
        members: atomic number and Wyckoff position of each site of each crystal; None for one that is bound to none.
        volumes: natural volumes of the conventional cells in Å³.

    Raises:
        StructureError: a crystal without sites.
    """
    if not all(members):
        raise StructureError("a crystal has no site; give each at least one element")
    facts = [_group_tensors(int(g)) for g in groups]
    every = [(z, position) for own in members for z, position in own]
    maps, offsets = zip(*(_position_tensors(p) for _, p in every), strict=True)
    return Sites(
        atomic_numbers=torch.tensor([z for z, _ in every]),
        crystal=torch.repeat_interleave(torch.arange(len(members)), torch.tensor([len(own) for own in members])),
        group=torch.tensor([int(g) for g in groups]),
        rotations=torch.cat([f[0] for f in facts]),
        translations=torch.cat([f[1] for f in facts]),
        operations=torch.tensor([len(f[0]) for f in facts]),
        transform=torch.stack([f[2] for f in facts]),
        ties=torch.stack([f[3] for f in facts]),
        axes=torch.stack([f[4] for f in facts]),
        metric=torch.tensor([crystal_system(int(g)) in _METRIC_SYSTEMS for g in groups]),
        maps=torch.stack(maps),
        offsets=torch.stack(offsets),
        merge_distance=torch.tensor([MERGE_DISTANCE if p is None else ROUNDING for _, p in every], dtype=torch.float64),
        volume=torch.as_tensor(volumes, dtype=torch.float64),
    )


@lru_cache(maxsize=230)
def _group_tensors(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Operations in the primitive cell, the primitive basis, directions of free cell parameters, and unit axes."""
    group = space_group(number)
    system = group.crystal_system
    wide: dict[str, Any] = {"dtype": torch.float64}
    rotations = torch.as_tensor(np.array(group.primitive.rotations), **wide)
    translations = torch.as_tensor(np.array(group.primitive.translations), **wide)
    ties = torch.zeros(PARAMETERS, PARAMETERS, **wide)
    angles = [90.0, 90.0, 120.0 if system in ("trigonal", "hexagonal") else 90.0]
    if system == "triclinic":
        ties = torch.eye(PARAMETERS, **wide)
    elif system == "monoclinic":  # b is unique: of the shears (xy, xz, yz) only that of a and c is free
        for row, column in enumerate((0, 1, 2, 4)):
            ties[row, column] = 1
    elif system == "orthorhombic":
        ties[:3, :3] = torch.eye(3)
    elif system == "cubic":
        ties[0, :3] = 3**-0.5
    else:
        ties[0, :2], ties[1, 2] = 0.5**0.5, 1
    axes = from_lengths_angles(torch.ones(1, 3, **wide), torch.tensor([angles], **wide))[0]
    return rotations, translations, torch.as_tensor(primitive_transform(group), **wide), ties, axes


@lru_cache(maxsize=4096)
def _position_tensors(position: WyckoffPosition | None) -> tuple[Tensor, Tensor]:
    """M and o of a position in the primitive cell; the identity for None."""
    if position is None:
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    transform = primitive_transform(space_group(position.number))
    to_primitive = np.linalg.inv(transform).T  # on columns
    rotation = to_primitive @ position.rotation @ transform.T
    return torch.as_tensor(rotation), torch.as_tensor(to_primitive @ position.translation)
