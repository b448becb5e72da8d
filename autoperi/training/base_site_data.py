"""Crystals as sets of base sites, ready for PGCGM: one orbit an element, with the self-augmentation of Zhao et al."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoperi.data.io import read_table
from autoperi.data.random import numpy_generator
from autoperi.errors import DataError
from autoperi.geometry.lattice import lengths_angles
from autoperi.models.pgcgm import N_GROUPS, SETS, SiteFacts, site_facts
from autoperi.prior.learn import additive_volumes
from autoperi.processes.one_shot import BaseSites
from autoperi.symmetry.analysis import orbit
from autoperi.symmetry.base_sites import affine_matrices, cells, in_slots, multiplicities
from autoperi.symmetry.orbits import primitive_lattice, read_orbits
from autoperi.symmetry.spacegroup import FloatArray, primitive_transform, space_group
from autoperi.training.data import TensorFile
from autoperi.training.prepare import at_most
from autoperi.units import MAX_ATOMIC_NUMBER

PAPER_GROUPS = (62, 63, 71, 122, 123, 129, 139, 140, 141, 148, 164, 166, 167, 186, 191, 194, 216, 221, 225, 227)
"""The 20 space groups of Zhao et al. 2023, Table 3."""
REPEATS = 32
"""Rows of a crystal, of three sets of base sites each (Steps 4 and 5)."""


@dataclass(frozen=True, eq=False)
class BaseSiteBatch:
    """B crystals.

    Attributes:
        made: their base sites and cells.
        elements: ``[B, K]``, 0 for an empty slot; groups: ``[B]``.
        facts: of their base sites, with distances to the nearest images, which are those of the crystal.
    """

    made: BaseSites
    elements: Tensor
    groups: Tensor
    facts: SiteFacts

    def __len__(self) -> int:
        return len(self.groups)

    def to(self, *, device: torch.device | str) -> BaseSiteBatch:
        """The same on a device."""
        made = BaseSites(self.made.sites.to(device), self.made.lattice.to(device))
        facts = SiteFacts(*(part.to(device) for part in self.facts))
        return BaseSiteBatch(made, self.elements.to(device), self.groups.to(device), facts)


@dataclass(frozen=True, eq=False)
class BaseSiteCrystals(TensorFile):
    """N crystals of up to K elements, each element on one orbit, R rows of each.

    Attributes:
        sites: fractions of conventional cells, ``[N, R, 3, K, 3]``.
        parameters: lengths in Å and angles in degrees, ``[N, 6]``.
        elements: by slot, 0 for none, ``[N, K]``; groups: ``[N]``.
    """

    holds: ClassVar[str] = "crystals as base sites"
    sites: Tensor
    parameters: Tensor
    elements: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.groups) * self.sites.shape[1]

    @cached_property
    def n_atoms(self) -> Tensor:
        """Elements of each row, by which batches are sorted."""
        return (self.elements > 0).sum(1).repeat_interleave(self.sites.shape[1])

    @cached_property
    def _facts(self) -> SiteFacts:
        """Of the first set of each crystal, which holds for all of its sets, ``[N, 1, ...]``."""
        found = []
        for part in torch.arange(len(self.groups)).split(256):
            groups, elements = self.groups[part], self.elements[part]
            made = BaseSites(self.sites[part, 0, :1], cells(self.parameters[part], groups))
            found.append(site_facts(made, elements, groups, nearest=True))
        full, inter, _ = (torch.cat(parts) for parts in zip(*found, strict=True))
        return SiteFacts(full, inter, torch.zeros(*self.elements.shape, SETS))

    def take(self, rows: Tensor) -> tuple[BaseSiteBatch, dict[str, Tensor]]:
        """Rows, of which each crystal has as many as augmentations."""
        repeats = self.sites.shape[1]
        crystal = torch.div(rows, repeats, rounding_mode="floor")
        groups = self.groups[crystal]
        made = BaseSites(self.sites[crystal, rows % repeats], cells(self.parameters[crystal], groups))
        full, inter, intra = (part[crystal] for part in self._facts)
        facts = SiteFacts(full.expand(-1, SETS, -1, -1), inter.expand(-1, SETS, -1), intra)
        return BaseSiteBatch(made, self.elements[crystal], groups, facts), {"row": rows}


def base_site_crystals(
    path: Path,
    *,
    slots: int,
    fewest: int,
    groups: tuple[int, ...] = (),
    min_crystals: int = 1,
    max_atoms: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> BaseSiteCrystals:
    """The crystals of a table that base sites can stand for.

    Args:
        path: the table.
        slots, fewest: most and fewest elements.
        groups: space groups, all where it is empty; min_crystals: of a group, or it is left out.
        max_atoms: of the given cells.
        repeats: rows of each crystal; seed: of their choice.

    Raises:
        DataError: there is none.
    """
    table = at_most(read_table(path), max_atoms, str(path))
    found = []
    for place, crystal in enumerate(zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True)):
        content = set(crystal[2].tolist())
        if not fewest <= len(content) <= slots:
            continue
        read = read_orbits(*crystal)
        if read is None or len(read[1]) != len(content) or (groups and read[0].number not in groups):
            continue
        info, orbits = read
        transform = primitive_transform(space_group(info.number))
        cell = np.linalg.inv(transform) @ primitive_lattice(info)
        points = {o.element: o.position.rotation @ o.parameters + o.position.translation for o in orbits}
        found.append((info.number, in_slots(content), points, cell, place))
    often = Counter(number for number, *_ in found)
    found = [one for one in found if often[one[0]] >= min_crystals]
    if not found:
        raise DataError(
            f"{path} has no crystal of {fewest} to {slots} elements with one orbit each, {min_crystals} in a space "
            "group; give other data"
        )
    sites = torch.zeros(len(found), repeats, SETS, slots, 3)
    elements = torch.zeros(len(found), slots, dtype=torch.long)
    for k, (number, order, points, cell, place) in enumerate(found):
        atoms = [orbit(points[z], space_group(number))[0] for z in order]
        sets = augmented(atoms, cell, repeats * SETS, numpy_generator(seed, place))
        sites[k, :, :, : len(order)] = torch.as_tensor(sets).view(repeats, SETS, len(order), 3).float()
        elements[k, : len(order)] = torch.tensor(order)
    parameters = torch.cat(lengths_angles(torch.as_tensor(np.stack([one[3] for one in found]))), 1)
    return BaseSiteCrystals(sites, parameters.float(), elements, torch.tensor([one[0] for one in found]))


def augmented(atoms: list[FloatArray], cell: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """``n`` sets of base sites of a crystal, ``[n, K, 3]`` (Steps 1 to 3 of the self-augmentation).

    The first element and one of its atoms are drawn; each further element, in random order, gives the atom with the
    smallest sum of distances, inside the cell, to those that were chosen before.

    Args:
        atoms: fractions of each element's atoms, ``[m, 3]`` each, K of them.
        cell: rows in Å, ``[3, 3]``.
    """
    found = np.empty((n, len(atoms), 3))
    places = [own @ cell for own in atoms]
    for row in found:
        order = rng.permutation(len(atoms))
        first = rng.integers(len(atoms[order[0]]))
        row[order[0]] = atoms[order[0]][first]
        chosen = [places[order[0]][first]]
        for k in order[1:]:
            nearest = int(np.argmin(np.linalg.norm(places[k][:, None] - np.stack(chosen), axis=-1).sum(1)))
            row[k] = atoms[k][nearest]
            chosen.append(places[k][nearest])
    return found


def element_volumes(data: BaseSiteCrystals, *, merge: float) -> Tensor:
    """Additive volumes of the elements in Å³ that add up best to the cells, ``[119]``."""
    counts = np.zeros((len(data.groups), MAX_ATOMIC_NUMBER + 1))
    volumes = np.zeros(len(data.groups))
    for part in torch.arange(len(data.groups)).split(256):
        elements, groups = data.elements[part], data.groups[part]
        lattice = cells(data.parameters[part], groups)
        each, which = affine_matrices(groups)
        atoms = multiplicities(elements, data.sites[part, 0, 0], each[which], lattice, merge=merge)
        np.add.at(counts, (part[:, None].expand_as(elements).numpy(), elements.numpy()), atoms.numpy())
        volumes[part.numpy()] = torch.linalg.det(lattice).numpy()
    return torch.as_tensor(additive_volumes(counts, volumes)).float()


def occurrences_of(data: BaseSiteCrystals) -> tuple[Tensor, Tensor]:
    """How many crystals of a group and a number of elements have an element in a slot, ``[231, K, K, 119]``, and which
    elements meet in a crystal, ``[119, 119]``.
    """
    slots = data.elements.shape[1]
    counts = torch.zeros(N_GROUPS, slots, slots, MAX_ATOMIC_NUMBER + 1, dtype=torch.int32)
    together = torch.zeros(MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
    for group, row in zip(data.groups.tolist(), data.elements.tolist(), strict=True):
        own = [z for z in row if z]
        for slot, z in enumerate(own):
            counts[group, len(own) - 1, slot, z] += 1
            together[z, own] = True
    return counts.clamp(max=torch.iinfo(torch.int16).max).short(), together  # as a model holds them
