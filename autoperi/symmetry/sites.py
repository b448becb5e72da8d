"""Crystals as sites under a space group: non-equivalent atoms and cell parameters, and all that symmetry makes of them
(Sultanov et al. 2023, sections 2, 4.1 and 4.3).

A *site* stands for an orbit: its images under the operations of the group are the atoms. Images that are nearer than
:data:`MERGE_DISTANCE` are one atom, so a site may move freely and still end on a special position. A site may also be
bound to a Wyckoff position, which fixes how many atoms it stands for.

Cells are those of the conventional setting: lengths of its edges at the angles of the crystal family, written as L₃ =
φ⁻¹(a, b, c) with φ(x) = k log(exp(x/k) + 1), equal where the family says so; for monoclinic and triclinic groups, of
which the paper has none, coordinates of the log-metric. Atoms and edges are counted in the primitive cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.lattice import from_lengths_angles, from_log_metric, lengths_angles, to_log_metric
from autoperi.geometry.multigraph import Multigraph, edge_vectors, radius_graph
from autoperi.geometry.segments import ranges, segment_sum
from autoperi.geometry.torus import wrap, wrap_centered
from autoperi.symmetry.spacegroup import primitive_transform, space_group
from autoperi.symmetry.wyckoff import WyckoffPosition

PARAMETERS = 6
"""Columns of cell parameters: three lengths or six coordinates of the log-metric; those that a group does not leave
free are zero.
"""
SOFTPLUS_LENGTH = 1.0
"""k of φ in Å."""
METRIC_EDGE = 5.0
"""Å by which coordinates of the log-metric are multiplied, so that all cell parameters are lengths."""
MERGE_DISTANCE = 0.3
"""Å below which two images of a site are one atom (section 4.2)."""
_DIFFERENCE = 1e-3
"""Å of the differences that give the derivative of a cell with respect to its parameters (section 4.3)."""
_LAST_TRICLINIC, _LAST_MONOCLINIC, _LAST_ORTHORHOMBIC, _LAST_TETRAGONAL, _LAST_HEXAGONAL = 2, 15, 74, 142, 194


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

    def unbound(self, chosen: Tensor) -> Sites:
        """The same with the sites of the crystals of ``chosen`` ``[B]`` bound to no Wyckoff position."""
        free = chosen[self.crystal]
        one = torch.eye(3, dtype=self.maps.dtype, device=self.maps.device)
        maps = torch.where(free[:, None, None], one, self.maps)
        return replace(self, maps=maps, offsets=torch.where(free[:, None], 0.0, self.offsets))

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

    def natural(self) -> Tensor:
        """Parameters ``[B, 6]`` of cells of equal edges at the natural volume."""
        angle_volume = torch.linalg.det(self.axes).abs()
        edges = (self.volume / torch.where(self.metric, 1.0, angle_volume)).pow(1 / 3)
        eye = torch.eye(3, dtype=edges.dtype, device=edges.device)
        return self.parameters(torch.where(self.metric[:, None, None], eye, self.axes) * edges[:, None, None])

    # --- positions

    def placed(self, frac_coords: Tensor) -> Tensor:
        """Sites ``[S, 3]`` moved onto their Wyckoff positions, wrapped into the primitive cell."""
        return wrap(torch.einsum("sij,sj->si", self.maps, frac_coords) + self.offsets)

    def tangent(self, lattice: Tensor) -> Tensor:
        """Projectors ``[S, 3, 3]`` of Cartesian displacements onto those that keep sites on their Wyckoff positions, in
        primitive cells ``[B, 3, 3]``.
        """
        # rows that span the position: the Cartesian images of the columns of M
        span = self.maps.transpose(1, 2) @ lattice[self.crystal]
        return torch.linalg.pinv(span, rtol=1e-6) @ span

    def images(self, frac_coords: Tensor, lattice: Tensor) -> tuple[CrystalBatch, Tensor, Tensor]:
        """All atoms: the images of sites, of which those that coincide are one.

        Args:
            frac_coords: ``[S, 3]``; lattice: primitive cells, ``[B, 3, 3]``.

        Returns:
            The crystals, whose atoms are images site by site; the site of each atom ``[N]``; and which atoms are the
            sites themselves ``[N]``.
        """
        counts = self.operations[self.crystal]
        site = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        operation = ranges((torch.cumsum(self.operations, 0) - self.operations)[self.crystal], counts)
        point = torch.einsum("mij,mj->mi", self.rotations[operation], frac_coords[site]) + self.translations[operation]
        keep = ~self._repeated(point, lattice, counts)
        first = torch.zeros_like(keep)
        first[torch.cumsum(counts, 0) - counts] = True
        kept = site[keep]
        n_atoms = torch.bincount(self.crystal[kept], minlength=len(self))
        batch = CrystalBatch(lattice, wrap(point[keep]), self.atomic_numbers[kept], n_atoms)
        return batch, kept, first[keep]

    def _repeated(self, point: Tensor, lattice: Tensor, counts: Tensor) -> Tensor:
        """Which images have an earlier one of the same site within :data:`MERGE_DISTANCE`, ``[M]``."""
        start = torch.cumsum(counts, 0) - counts
        n_pairs = counts**2
        owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), n_pairs)
        place = ranges(torch.zeros_like(n_pairs), n_pairs)
        one, other = torch.div(place, counts[owner], rounding_mode="floor"), place % counts[owner]
        earlier = other < one
        owner, one, other = owner[earlier], one[earlier] + start[owner[earlier]], other[earlier] + start[owner[earlier]]
        # a vector this short is the wrapped difference itself, however skewed the cell may be
        apart = wrap_centered(point.detach()[one] - point.detach()[other])
        apart = torch.einsum("pi,pij->pj", apart, lattice.detach()[self.crystal[owner]])
        same = (apart**2).sum(-1) < MERGE_DISTANCE**2
        repeated = torch.zeros(len(point), dtype=torch.bool, device=point.device)
        repeated[one[same]] = True
        return repeated

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
            The multigraph of sites, edge vectors in Å ``[E, 3]``, and the same in fractions of the primitive cell.
        """
        atoms = radius_graph(batch, cutoff, centres=first)
        vectors = edge_vectors(batch, atoms)
        i, j = atoms.edge_index
        fractional = batch.frac_coords[j] - batch.frac_coords[i] + atoms.edge_shift.to(batch.frac_coords.dtype)
        return Multigraph(site[atoms.edge_index], atoms.edge_shift, len(self.crystal)), vectors, fractional


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
        metric=torch.tensor([int(g) <= _LAST_MONOCLINIC for g in groups]),
        maps=torch.stack(maps),
        offsets=torch.stack(offsets),
        volume=torch.as_tensor(volumes, dtype=torch.float64),
    )


@lru_cache(maxsize=230)
def _group_tensors(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Operations in the primitive cell, the primitive basis, directions of free cell parameters, and unit axes."""
    group = space_group(number)
    wide = {"dtype": torch.float64}
    rotations = torch.as_tensor(np.array(group.primitive.rotations), **wide)
    translations = torch.as_tensor(np.array(group.primitive.translations), **wide)
    ties = torch.zeros(PARAMETERS, PARAMETERS, **wide)
    angles = [90.0, 90.0, 120.0 if _LAST_TETRAGONAL < number <= _LAST_HEXAGONAL else 90.0]
    if number <= _LAST_TRICLINIC:
        ties = torch.eye(PARAMETERS, **wide)
    elif number <= _LAST_MONOCLINIC:  # b is unique: of the shears (xy, xz, yz) only that of a and c is free
        for row, column in enumerate((0, 1, 2, 4)):
            ties[row, column] = 1
    elif number <= _LAST_ORTHORHOMBIC:
        ties[:3, :3] = torch.eye(3)
    elif number <= _LAST_HEXAGONAL:
        ties[0, :2], ties[1, 2] = 0.5**0.5, 1
    else:
        ties[0, :3] = 3**-0.5
    axes = from_lengths_angles(torch.ones(1, 3, **wide), torch.tensor([angles], **wide))[0]
    return rotations, translations, torch.as_tensor(primitive_transform(group), **wide), ties, axes


@lru_cache(maxsize=4096)
def _map_of(number: int, letter: str, rotation: bytes, translation: bytes) -> tuple[Tensor, Tensor]:
    transform = primitive_transform(space_group(number))
    to_primitive = np.linalg.inv(transform).T  # on columns
    r = np.frombuffer(rotation).reshape(3, 3)
    found = to_primitive @ r @ transform.T
    return torch.as_tensor(found), torch.as_tensor(to_primitive @ np.frombuffer(translation))


def _position_tensors(position: WyckoffPosition | None) -> tuple[Tensor, Tensor]:
    """M and o of a position in the primitive cell; the identity for None."""
    if position is None:
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    rotation = np.asarray(position.rotation, dtype=np.float64)
    translation = np.asarray(position.translation, dtype=np.float64)
    return _map_of(position.number, position.letter, rotation.tobytes(), translation.tobytes())


def site_volumes(sites: Sites, n_atoms: Tensor, volume_per_atom: Tensor) -> Tensor:
    """Conventional volume ``[B]`` of crystals of ``n_atoms`` in the primitive cell at Å³ an atom ``[B]``."""
    return n_atoms * volume_per_atom / torch.linalg.det(sites.transform).abs()


def mean_over_sites(values: Tensor, sites: Sites) -> Tensor:
    """Mean of site values ``[S, ...]`` over each crystal, ``[B, ...]``."""
    total = segment_sum(values, sites.crystal, len(sites))
    return total / sites.counts.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
