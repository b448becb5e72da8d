"""Crystals as sites under their space groups, ready for training scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoperi.errors import DataError
from autoperi.symmetry.orbits import primitive_lattice, read_orbits
from autoperi.symmetry.sites import Sites, sites_of
from autoperi.symmetry.spacegroup import FloatArray, IntArray, primitive_transform, space_group
from autoperi.symmetry.wyckoff import LETTERS, wyckoff_positions
from autoperi.training.data import TensorFile
from autoperi.units import MAX_ATOMIC_NUMBER


@dataclass(frozen=True, eq=False)
class SiteBatch:
    """B crystals.

    Attributes:
        sites: their sites.
        frac_coords: of sites in the standard primitive cell, ``[S, 3]``.
        parameters: of the cells, ``[B, 6]``.
    """

    sites: Sites
    frac_coords: Tensor
    parameters: Tensor

    def __len__(self) -> int:
        return len(self.sites)

    def to(self, *, device: torch.device | str) -> SiteBatch:
        """The same on a device."""
        return SiteBatch(self.sites.to(device=device), self.frac_coords.to(device), self.parameters.to(device))


@dataclass(frozen=True, eq=False)
class SiteCrystals(TensorFile):
    """Crystals in standard settings, one site an orbit.

    Attributes:
        atomic_numbers: of each site, ``[S]``; letters: index of its Wyckoff letter, ``[S]``.
        frac_coords: in the standard primitive cell, ``[S, 3]``.
        sites_of_crystal: how many sites each crystal has, ``[B]``; n_atoms: atoms of the primitive cell, ``[B]``.
        group: space-group numbers, ``[B]``.
        conventional: cells, rows in Å, ``[B, 3, 3]``.
        element_volume: additive volumes in Å³ by atomic number, ``[119]``.
        labels: per crystal, each ``[B]``.
    """

    holds: ClassVar[str] = "crystals as sites"
    atomic_numbers: Tensor
    letters: Tensor
    frac_coords: Tensor
    sites_of_crystal: Tensor
    n_atoms: Tensor
    group: Tensor
    conventional: Tensor
    element_volume: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.group)

    @cached_property
    def _starts(self) -> Tensor:
        return torch.cumsum(self.sites_of_crystal, 0) - self.sites_of_crystal

    def sites(self, rows: Tensor) -> tuple[Sites, Tensor]:
        """Sites of the crystals of ``rows`` in float64, and their places in the data, ``[S]``."""
        members, volumes = [], []
        chosen: list[int] = []
        for b in rows.tolist():
            start, count, group = int(self._starts[b]), int(self.sites_of_crystal[b]), int(self.group[b])
            own = range(start, start + count)
            positions = wyckoff_positions(group)
            numbers = self.atomic_numbers[start : start + count].tolist()
            found = [positions[k] for k in self.letters[start : start + count].tolist()]
            members.append(list(zip(numbers, found, strict=True)))
            volumes.append(sum(float(self.element_volume[z]) * p.multiplicity for z, p in members[-1]))
            chosen += own
        return sites_of(self.group[rows].tolist(), members, volumes), torch.tensor(chosen)

    def take(self, rows: Tensor) -> tuple[SiteBatch, dict[str, Tensor]]:
        """The crystals of ``rows`` in float32, and their labels."""
        sites, places = self.sites(rows)
        parameters = sites.parameters(self.conventional[rows].double())
        batch = SiteBatch(sites.to(dtype=torch.float32), self.frac_coords[places].float(), parameters.float())
        return batch, {"row": rows, **{k: v[rows] for k, v in self.labels.items()}}


def site_crystals(
    crystals: Iterable[tuple[FloatArray, FloatArray, IntArray]], *, element_volume: Tensor | None = None
) -> SiteCrystals:
    """Crystals as sites; those that spglib cannot read so are left out.

    Args:
        crystals: lattice in Å, fractional coordinates and atomic numbers of each.
        element_volume: additive volumes in Å³, ``[119]``; None fits them to these crystals.

    Raises:
        DataError: no crystal could be read.
    """
    from autoperi.prior.learn import additive_volumes

    numbers, letters, frac, counts, atoms, groups, cells, contents = [], [], [], [], [], [], [], []
    for crystal in crystals:
        read = read_orbits(*crystal)
        if read is None:
            continue
        info, orbits = read
        to_primitive = np.linalg.inv(primitive_transform(space_group(info.number)))
        content = np.zeros(MAX_ATOMIC_NUMBER + 1)
        for o in orbits:
            numbers.append(o.element)
            letters.append(LETTERS.index(o.position.letter))
            frac.append((o.position.rotation @ o.parameters + o.position.translation) @ to_primitive)
            content[o.element] += o.position.primitive_multiplicity
        counts.append(len(orbits))
        atoms.append(int(content.sum()))
        groups.append(info.number)
        cells.append(to_primitive @ primitive_lattice(info))
        contents.append(content)
    if not groups:
        raise DataError("no crystal could be read as sites of a space group; give crystals with atoms apart")
    conventional = np.stack(cells)
    if element_volume is None:
        centred = np.array([space_group(g).n_centring for g in groups])
        volumes = np.abs(np.linalg.det(conventional)) / centred
        element_volume = torch.as_tensor(additive_volumes(np.stack(contents), volumes))
    return SiteCrystals(
        torch.tensor(numbers),
        torch.tensor(letters),
        torch.as_tensor(np.stack(frac) % 1.0),
        torch.tensor(counts),
        torch.tensor(atoms),
        torch.tensor(groups),
        torch.as_tensor(conventional),
        element_volume.float(),
    )
