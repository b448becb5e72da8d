"""Crystals as orbits of their space groups, ready for training a flow on their free parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from autoperi.errors import DataError
from autoperi.prior.learn import additive_volumes
from autoperi.symmetry.freedom import Freedom, Orbit, freedom_at_volume
from autoperi.symmetry.orbits import primitive_lattice, read_orbits
from autoperi.symmetry.spacegroup import FloatArray, IntArray
from autoperi.training.coupling import Choices, Equivalents, equivalents
from autoperi.training.data import TensorFile
from autoperi.training.prepare import at_most
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from autoperi.data.io import CrystalTable


@dataclass(frozen=True, eq=False)
class OrbitCrystals(TensorFile):
    """Crystals in standard primitive cells, atoms gathered in Wyckoff orbits: tensors alone, so that training needs no
    symmetry library.

    Attributes:
        freedom: of all crystals, about cells of equal edges at their additive volume.
        parameters: s of each orbit, ``[O, 3]``.
        lattice: rows in Å, obeying the group exactly, ``[B, 3, 3]``.
        group: space-group numbers, ``[B]``.
        element_volume: additive volumes in Å³ by atomic number, ``[119]``.
        equivalents: the other descriptions of each crystal.
        labels: per crystal, each ``[B]``; NaN where missing.
    """

    holds: ClassVar[str] = "crystals as orbits"
    freedom: Freedom
    parameters: Tensor
    lattice: Tensor
    group: Tensor
    element_volume: Tensor
    equivalents: Equivalents
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.group)

    @property
    def n_atoms(self) -> Tensor:
        """Atoms of each primitive cell, ``[B]``."""
        return self.freedom.n_atoms

    def take(self, rows: Tensor) -> tuple[OrbitBatch, dict[str, Tensor]]:
        """The crystals of ``rows`` and their labels, and ``row`` itself."""
        freedom = self.freedom[rows]
        orbits, _ = self.freedom.orbits_of(rows)
        y = freedom.coordinates(self.lattice[rows], self.parameters[orbits])
        return OrbitBatch(freedom, y, self.equivalents.take(rows), self.group[rows]), {
            "row": rows,
            **{k: v[rows] for k, v in self.labels.items()},
        }


@dataclass(frozen=True, eq=False)
class OrbitBatch:
    """B crystals: their freedom, their coordinates ``[B, D]``, their other descriptions, and their space-group numbers
    ``[B]``.
    """

    freedom: Freedom
    y: Tensor
    choices: list[Choices]
    group: Tensor

    def __len__(self) -> int:
        return len(self.freedom)

    def to(self, *, device: torch.device | str) -> OrbitBatch:
        """The same on a device."""
        return OrbitBatch(self.freedom.to(device=device), self.y.to(device), self.choices, self.group)


def orbit_table(
    path: str | Path, *, max_atoms: int | None = None, element_volume: Tensor | None = None
) -> tuple[OrbitCrystals, list[int]]:
    """The crystals of a file, of at most ``max_atoms``, as :func:`orbit_crystals`.

    Raises:
        DataError: a file that cannot be read, or no crystal that is small enough.
    """
    from autoperi.data.io import read_table

    return _of_table(read_table(path), str(path), max_atoms, element_volume)


def split_orbit_table(path: str | Path, *, max_atoms: int | None = None) -> tuple[OrbitCrystals, OrbitCrystals]:
    """The crystals of a file to train and to validate on, 80 to 20, by their ids
    (:func:`autoperi.data.splits.held_out`).

    Raises:
        DataError: as :func:`orbit_table`, or a file so small that either part is empty.
    """
    from autoperi.data.io import read_table
    from autoperi.data.splits import held_out

    table = read_table(path)
    aside = np.array(held_out(table.ids), dtype=bool)
    if aside.all() or not aside.any():
        raise DataError(f"{path} has too few crystals to set some aside by their ids; give crystals to validate on")
    data, _ = _of_table(table[~aside], str(path), max_atoms, None)
    return data, _of_table(table[aside], str(path), max_atoms, data.element_volume)[0]


def _of_table(
    table: CrystalTable, source: str, max_atoms: int | None, element_volume: Tensor | None
) -> tuple[OrbitCrystals, list[int]]:
    table = at_most(table, max_atoms, source)
    crystals = zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True)
    return orbit_crystals(crystals, element_volume=element_volume)


def orbit_crystals(
    crystals: Iterable[tuple[FloatArray, FloatArray, IntArray]],
    labels: dict[str, Tensor] | None = None,
    *,
    element_volume: Tensor | None = None,
) -> tuple[OrbitCrystals, list[int]]:
    """Crystals as orbits, and the rows that could not be read so.

    Args:
        crystals: lattice in Å, fractional coordinates and atomic numbers of each.
        labels: per crystal.
        element_volume: additive volumes in Å³, ``[119]``: those of the training set for any other; None fits them to
            these crystals.

    Raises:
        DataError: no crystal could be read.
    """
    groups: list[int] = []
    orbits: list[list[Orbit]] = []
    lattices, kept, failed = [], [], []
    for k, crystal in enumerate(crystals):
        read = read_orbits(*crystal)
        if read is None:
            failed.append(k)
            continue
        info, members = read
        kept.append(k)
        groups.append(info.number)
        orbits.append(members)
        lattices.append(primitive_lattice(info))
    if not kept:
        raise DataError(
            "no crystal could be read as orbits of a space group; give crystals with atoms apart from each other"
        )
    compositions = np.zeros((len(kept), MAX_ATOMIC_NUMBER + 1))
    for k, members in enumerate(orbits):
        for o in members:
            compositions[k, o.element] += o.position.primitive_multiplicity
    if element_volume is None:
        element_volume = torch.as_tensor(additive_volumes(compositions, np.abs(np.linalg.det(np.stack(lattices)))))
    freedom, s = freedom_at_volume(groups, orbits, element_volume.double().numpy())
    lattice = torch.as_tensor(np.stack(lattices))
    chosen = {name: values[kept] for name, values in (labels or {}).items()}
    return OrbitCrystals(
        freedom, s, lattice, torch.tensor(groups), element_volume, equivalents(groups, orbits), chosen
    ), failed
