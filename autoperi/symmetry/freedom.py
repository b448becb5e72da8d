"""The free parameters of crystals in their space groups: what a flow may move while the symmetry stays exact.

A crystal of a space group, in its primitive cell, is a set of Wyckoff orbits x_i = A_i s_o + b_i with free coordinates
s on the circle, and a lattice L = L₀ exp(S) with S in the symmetric strains that commute with the point group (one in a
cubic crystal, six in a triclinic one). L₀ is a reference cell of the same symmetry. P1 is the case of one orbit an atom
and six strains.

Velocities come from an equivariant network as a strain rate and displacements of all atoms. These obey the group
already; the projection onto free parameters removes rounding, and the translations that a polar group leaves free,
which move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import log_metric_basis, symmetric_exp, symmetric_log
from autoperi.geometry.segments import ranges, segment_sum
from autoperi.geometry.torus import Space, wrap
from autoperi.symmetry.analysis import strain_projector, symmetrize_lattice
from autoperi.symmetry.spacegroup import FloatArray, space_group
from autoperi.symmetry.wyckoff import WyckoffPosition

STRAINS = 6
"""The first columns of the coordinates: strains along an orthonormal basis; those a group does not have are absent."""


@dataclass(frozen=True, eq=False)
class Freedom:
    """Free parameters of B crystals with N atoms in O orbits, padded to D = 6 + 3·(most orbits of a crystal) columns.

    Attributes:
        atomic_numbers: ``[N]``, n_atoms: ``[B]``.
        orbit: orbit of each atom, counted through the batch, ``[N]``.
        maps: A, ``[N, 3, 3]``, offsets: b, ``[N, 3]``: atom = A s + b.
        free: which components of s count, ``[O, 3]``.
        crystal: crystal of each orbit, ``[O]``, place: its column block there, ``[O]``.
        reference: L₀, rows in Å, ``[B, 3, 3]``.
        strains: orthonormal symmetric strains that keep the group, zero where absent, ``[B, 6, 3, 3]``.
        polar: projector on the fractional translations that the group leaves free, ``[B, 3, 3]``.
    """

    atomic_numbers: Tensor
    n_atoms: Tensor
    orbit: Tensor
    maps: Tensor
    offsets: Tensor
    free: Tensor
    crystal: Tensor
    place: Tensor
    reference: Tensor
    strains: Tensor
    polar: Tensor

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __getitem__(self, rows: Tensor) -> Freedom:
        """The crystals of ``rows`` ``[b]``, in that order."""
        # atoms lie orbit by orbit, orbits crystal by crystal: first ranges of orbits, then the atoms in them, and all
        # indices counted anew
        orbits, n_orbits = self.orbits_of(rows)
        atoms, sizes = _members(self.orbit, len(self.free), orbits)
        chosen = dict.fromkeys(("atomic_numbers", "maps", "offsets"), atoms)
        chosen |= dict.fromkeys(("free", "place"), orbits)
        chosen |= dict.fromkeys(("n_atoms", "reference", "strains", "polar"), rows)
        return replace(
            self,
            orbit=torch.repeat_interleave(torch.arange(len(orbits), device=rows.device), sizes),
            crystal=torch.repeat_interleave(torch.arange(len(rows), device=rows.device), n_orbits),
            **{name: getattr(self, name)[index] for name, index in chosen.items()},
        )

    def orbits_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Orbits of the crystals of ``rows``, one crystal after the other, ``[o]``, and how many each has, ``[b]``."""
        return _members(self.crystal, len(self), rows)

    @cached_property
    def width(self) -> int:
        """D."""
        return STRAINS + 3 * (int(self.place.max()) + 1 if len(self.place) else 0)

    @cached_property
    def space(self) -> Space:
        """Which coordinates there are, and which are circular."""
        present = torch.zeros(len(self), self.width, dtype=torch.bool, device=self.n_atoms.device)
        present[:, :STRAINS] = self.strains.flatten(2).abs().sum(-1) > 0
        present.view(-1)[self._columns] = self.free.reshape(-1)
        circular = torch.zeros_like(present)
        circular[:, STRAINS:] = True
        return Space(present, circular)

    def crystals(self, y: Tensor, *, strain: Tensor | None = None, moves: Tensor | None = None) -> CrystalBatch:
        """The crystals with coordinates ``[B, D]``; differentiable.

        Args:
            y: coordinates.
            strain, moves: strains ``[B, 3, 3]`` and fractional displacements of atoms ``[N, 3]`` added to them, free of
                the group or not.
        """
        # strains and positions are linear in y, so the same maps serve coordinates and velocities
        own, fractional = self.displacements(y)
        fractional = fractional + self.offsets
        strain = own if strain is None else own + strain
        fractional = fractional if moves is None else fractional + moves
        return CrystalBatch(self.reference @ symmetric_exp(strain), wrap(fractional), self.atomic_numbers, self.n_atoms)

    def coordinates(self, lattice: Tensor, parameters: Tensor) -> Tensor:
        """Coordinates ``[B, D]`` of lattices ``[B, 3, 3]`` (any orientation) and orbit parameters s ``[O, 3]``."""
        # L = L₀ exp(S) Q with Q a rotation: exp(2S) = L₀⁻¹ L Lᵀ L₀⁻ᵀ does not know the orientation
        inverse = torch.linalg.inv(self.reference)
        stretch = inverse @ lattice @ lattice.transpose(1, 2) @ inverse.transpose(1, 2)
        strain = 0.5 * symmetric_log(0.5 * (stretch + stretch.transpose(1, 2)))
        y = lattice.new_zeros(len(self), self.width)
        y.view(-1)[self._columns] = wrap(parameters * self.free).reshape(-1)
        y[:, :STRAINS] = torch.einsum("bij,bkij->bk", strain, self.strains)
        return y

    def velocity(self, strain_rate: Tensor, displacements: Tensor) -> Tensor:
        """Velocities ``[B, D]`` from dS/dt ``[B, 3, 3]`` and dx/dt, fractional, ``[N, 3]``: least squares over each
        orbit's atoms.
        """
        # a polar group leaves translations along an axis free; they move nothing, and are taken out
        b = self.crystal.index_select(0, self.orbit)
        mean = segment_sum(displacements, b, len(self)) / self.n_atoms.unsqueeze(1)
        moves = displacements - torch.einsum("bij,bj->bi", self.polar, mean).index_select(0, b)
        # least squares over the atoms of an orbit, dx_n = A_n ds: ds = (Σ AᵀA)⁻¹ Σ Aᵀ dx
        pulled = torch.einsum("nij,ni->nj", self.maps, moves)
        total = segment_sum(pulled, self.orbit, len(self.free))
        rate = torch.einsum("oij,oj->oi", self._inverse_gram, total) * self.free
        # an orbit's rates go to its own columns; orbits that a crystal does not have keep zeros
        out = strain_rate.new_zeros(len(self), self.width)
        strain = torch.einsum("bij,bkij->bk", strain_rate, self.strains)
        padded = out.view(-1).index_put((self._columns,), rate.reshape(-1)).view(len(self), -1)
        return torch.cat([strain, padded[:, STRAINS:]], 1)

    def displacements(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """dS/dt ``[B, 3, 3]`` and the atoms' dx/dt, fractional, ``[N, 3]``, of a velocity ``[B, D]``; :meth:`velocity`
        goes back.
        """
        strain = torch.einsum("bk,bkij->bij", velocity[:, :STRAINS], self.strains)
        s = velocity.reshape(-1)[self._columns].view(-1, 3)
        return strain, torch.einsum("nij,nj->ni", self.maps, s.index_select(0, self.orbit))

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Freedom:
        """The same with real numbers of ``dtype``, on ``device``."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return Freedom(
            **{k: v.to(device=device, dtype=dtype if v.is_floating_point() else None) for k, v in given.items()}
        )

    @cached_property
    def _columns(self) -> Tensor:
        """Flat places of s in ``[B, D]``, ``[3·O]``."""
        start = self.crystal * self.width + STRAINS + 3 * self.place
        return (start.unsqueeze(1) + torch.arange(3, device=start.device)).reshape(-1)

    @cached_property
    def _inverse_gram(self) -> Tensor:
        gram = torch.einsum("nki,nkj->nij", self.maps, self.maps)
        total = segment_sum(gram, self.orbit, len(self.free))
        # ones where a component is not free: its row and column of the Gram matrix are zero
        return torch.linalg.inv(total + torch.diag_embed((~self.free).to(total)))


def _members(owner: Tensor, n: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Members of the ``chosen`` ones of ``n`` owners, one owner after the other, and how many each has; ``owner``
    ascends.
    """
    counts = torch.bincount(owner, minlength=n)
    starts, lengths = (torch.cumsum(counts, 0) - counts)[chosen], counts[chosen]
    return ranges(starts, lengths), lengths


@dataclass(frozen=True, eq=False)
class Orbit:
    """One orbit of one crystal: an element on a Wyckoff position, with parameters s ``[3]``."""

    element: int
    position: WyckoffPosition
    parameters: FloatArray


def freedom_of(
    groups: Sequence[int], orbits: Sequence[Sequence[Orbit]], references: Sequence[FloatArray]
) -> tuple[Freedom, Tensor]:
    """The freedom of crystals given by orbits in standard primitive cells, and their parameters s ``[O, 3]``, in
    float64.

    Args:
        groups: space-group numbers, one a crystal.
        orbits: of each crystal.
        references: L₀ of each crystal, rows in Å, ``[3, 3]``, obeying its group.
    """
    crystal, place, every = zip(*((b, k, o) for b, own in enumerate(orbits) for k, o in enumerate(own)), strict=True)
    maps, offsets = zip(*(o.position.primitive_maps for o in every), strict=True)
    sizes = [len(a) for a in maps]
    strains = [_strains(number, reference) for number, reference in zip(groups, references, strict=True)]
    counts = [sum(o.position.primitive_multiplicity for o in members) for members in orbits]
    freedom = Freedom(
        atomic_numbers=torch.as_tensor(np.repeat([o.element for o in every], sizes)),
        n_atoms=torch.tensor(counts),
        orbit=torch.as_tensor(np.repeat(np.arange(len(every)), sizes)),
        maps=torch.as_tensor(np.concatenate(maps), dtype=torch.float64),
        offsets=torch.as_tensor(np.concatenate(offsets), dtype=torch.float64),
        free=torch.tensor([[axis in o.position.free_axes for axis in range(3)] for o in every]),
        crystal=torch.tensor(crystal),
        place=torch.tensor(place),
        reference=torch.as_tensor(np.stack(references), dtype=torch.float64),
        strains=torch.as_tensor(np.stack(strains), dtype=torch.float64),
        polar=torch.as_tensor(np.stack([_polar(number) for number in groups]), dtype=torch.float64),
    )
    return freedom, torch.as_tensor(np.stack([o.parameters for o in every]), dtype=torch.float64)


def freedom_at_volume(
    groups: Sequence[int], orbits: Sequence[Sequence[Orbit]], element_volume: FloatArray
) -> tuple[Freedom, Tensor]:
    """:func:`freedom_of` about cells of equal edges, at the sum of the elements' volumes in Å³, ``[119]`` by atomic
    number.
    """
    sizes = [sum(element_volume[o.element] * o.position.primitive_multiplicity for o in own) for own in orbits]
    return freedom_of(groups, orbits, [equal_edges(g) * v ** (1 / 3) for g, v in zip(groups, sizes, strict=True)])


@lru_cache(maxsize=230)
def equal_edges(number: int) -> FloatArray:
    """The group's own version of a primitive cell with three equal, orthogonal edges, at unit volume, rows ``[3,
    3]``.
    """
    lattice = symmetrize_lattice(np.eye(3), space_group(number).primitive.rotations)
    return lattice / abs(np.linalg.det(lattice)) ** (1 / 3)


def _strains(number: int, reference: FloatArray) -> FloatArray:
    """Orthonormal strains that keep the group of a cell, ``[6, 3, 3]``, the isotropic one first; zero beyond their
    number.
    """
    # a scaled cell has the same, so that the cells of equal edges need one calculation a group
    unit = np.round(reference / abs(np.linalg.det(reference)) ** (1 / 3), 10)
    return _strains_of(number, tuple(unit.reshape(-1).tolist()))


@lru_cache(maxsize=1024)
def _strains_of(number: int, unit: tuple[float, ...]) -> FloatArray:
    basis = log_metric_basis().numpy()
    projector = strain_projector(np.array(unit).reshape(3, 3), space_group(number).primitive.rotations)
    isotropic = np.einsum("kii->k", basis) / 3**0.5
    rest = projector - np.outer(isotropic, isotropic)
    values, vectors = np.linalg.eigh(0.5 * (rest + rest.T))
    chosen = [isotropic, *vectors.T[values > 0.5]]
    out = np.zeros((STRAINS, 3, 3))
    out[: len(chosen)] = np.einsum("dk,kij->dij", np.stack(chosen), basis)
    return out


@lru_cache(maxsize=230)
def _polar(number: int) -> FloatArray:
    """Projector on fractional translations that commute with the group, mean of its rotations in the primitive cell,
    ``[3, 3]``.
    """
    return space_group(number).primitive.rotations.mean(0)
