"""Crystals as orbits of their space groups, ready for training a flow on their free parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoperi.crystal import CrystalBatch
from autoperi.errors import DataError, StructureError
from autoperi.geometry.freedom import Freedom, Orbit, equal_edges, freedom_of
from autoperi.geometry.spacegroup import FloatArray, IntArray, primitive_transform, space_group
from autoperi.geometry.symmetry import SymmetryInfo, analyse, symmetrize_lattice
from autoperi.geometry.wyckoff import LETTERS, locate, wyckoff_positions

SYMPREC = (0.1, 0.03, 0.01, 0.001)
"""Tolerances in Å at which the space group of a training crystal is looked for: the loosest that keeps its atoms."""
TOLERANCE = 0.02
"""How far, in fractions, an atom may lie from its Wyckoff position; spglib's standard cells are exact to rounding."""


@dataclass(frozen=True, eq=False)
class OrbitCrystals:
    """Crystals in standard primitive cells, atoms gathered in Wyckoff orbits.

    Attributes:
        group: space-group numbers, ``[B]``.
        n_orbits: ``[B]``.
        element: atomic number, letter: index of the Wyckoff letter, of each orbit, ``[O]``.
        parameters: s of each orbit, ``[O, 3]``, float64.
        lattice: rows in Å, obeying the group exactly, ``[B, 3, 3]``, float64.
        labels: per crystal, each ``[B]``; NaN where missing.
    """

    group: Tensor
    n_orbits: Tensor
    element: Tensor
    letter: Tensor
    parameters: Tensor
    lattice: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.group)

    def take(self, rows: Tensor) -> tuple[Selection, dict[str, Tensor]]:
        """The crystals of ``rows`` and their labels, and ``row`` itself."""
        return Selection(self, rows), {"row": rows, **{k: v[rows] for k, v in self.labels.items()}}

    @cached_property
    def n_atoms(self) -> Tensor:
        """Atoms of each primitive cell, ``[B]``."""
        return torch.as_tensor(self.compositions.sum(1)).long()

    def freedom(self, rows: Sequence[int], volume: Callable[[Tensor, Tensor, int], Tensor] | None = None) -> tuple[Freedom, Tensor]:
        """Freedom and coordinates ``[b, D]`` of some crystals.

        Args:
            rows: which.
            volume: atomic numbers ``[N]``, crystal of each ``[N]`` and b to volumes in Å³, ``[b]``, at which the reference cells (of equal edges as
                far as the group lets them) are taken; None takes each crystal's own lattice for reference.
        """
        groups = [int(self.group[k]) for k in rows]
        orbits = [self._orbits(k) for k in rows]
        lattices = self.lattice[list(rows)]
        references: list[FloatArray] = list(lattices.numpy())
        if volume is not None:
            numbers = torch.tensor([o.element for members in orbits for o in members for _ in range(o.position.primitive_multiplicity)])
            counts = torch.tensor([sum(o.position.primitive_multiplicity for o in members) for members in orbits])
            crystal = torch.repeat_interleave(torch.arange(len(orbits)), counts)
            sizes = volume(numbers, crystal, len(orbits)).tolist()
            references = [equal_edges(g) * size ** (1 / 3) for g, size in zip(groups, sizes, strict=True)]
        freedom, s = freedom_of(groups, orbits, references)
        return freedom, freedom.coordinates(lattices, s)

    @cached_property
    def compositions(self) -> FloatArray:
        """Atoms of each element in the primitive cell, ``[B, 119]``."""
        counts = np.zeros((len(self), 119))
        for k in range(len(self)):
            for o in self._orbits(k):
                counts[k, o.element] += o.position.primitive_multiplicity
        return counts

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        names = ("group", "n_orbits", "element", "letter", "parameters", "lattice")
        save_file({**{n: getattr(self, n) for n in names}, **{f"label.{k}": v for k, v in self.labels.items()}}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> OrbitCrystals:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing or holds something else.
        """
        try:
            tensors = load_file(str(path))
            labels = {k.removeprefix("label."): tensors.pop(k) for k in list(tensors) if k.startswith("label.")}
            return cls(**tensors, labels=labels)
        except Exception as error:
            raise DataError(f"{path} does not hold crystals as orbits ({error}); make it anew from a table of crystals") from None

    @cached_property
    def _starts(self) -> Tensor:
        return torch.cumsum(self.n_orbits, 0) - self.n_orbits

    def _orbits(self, k: int) -> list[Orbit]:
        first = int(self._starts[k])
        positions = wyckoff_positions(int(self.group[k]))
        return [
            Orbit(int(self.element[i]), positions[int(self.letter[i])], self.parameters[i].numpy())
            for i in range(first, first + int(self.n_orbits[k]))
        ]


@dataclass(frozen=True, eq=False)
class Selection:
    """Some rows of :class:`OrbitCrystals`: a batch before anybody has chosen its reference cells."""

    data: OrbitCrystals
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, **_: Any) -> Selection:
        """Itself: what is made of it goes to a device."""
        return self


def orbits_of(info: SymmetryInfo) -> list[Orbit]:
    """The orbits of an analysed crystal, in the order of its standard primitive cell.

    Raises:
        StructureError: an atom that lies on no Wyckoff position of its group, or an orbit that is not whole.
    """
    transform = primitive_transform(space_group(info.number))
    found = []
    for first in np.unique(info.primitive_equivalent_atoms):
        point = info.primitive_frac_coords[first] @ transform
        position, s = locate(point, info.number, tolerance=TOLERANCE)
        if position.primitive_multiplicity != int((info.primitive_equivalent_atoms == first).sum()):
            raise StructureError(
                f"an orbit of {info.symbol} has not the multiplicity of its position {position.label}; use a tighter tolerance"
            )
        found.append(Orbit(int(info.primitive_numbers[first]), position, s))
    return found


def orbit_crystals(
    crystals: Iterable[tuple[FloatArray, FloatArray, IntArray]], labels: dict[str, Tensor] | None = None
) -> tuple[OrbitCrystals, list[int]]:
    """Crystals as orbits, and the rows that could not be read so.

    Args:
        crystals: lattice in Å, fractional coordinates and atomic numbers of each.
        labels: per crystal.
    """
    groups, counts, elements, letters, parameters, lattices, kept, failed = [], [], [], [], [], [], [], []
    for k, crystal in enumerate(crystals):
        for symprec in SYMPREC:
            try:
                info = analyse(*crystal, symprec=symprec)
                orbits = orbits_of(info)
                break
            except StructureError:
                continue
        else:
            failed.append(k)
            continue
        kept.append(k)
        groups.append(info.number)
        counts.append(len(orbits))
        elements += [o.element for o in orbits]
        letters += [LETTERS.index(o.position.letter) for o in orbits]
        parameters += [o.parameters for o in orbits]
        lattices.append(symmetrize_lattice(info.primitive_lattice, space_group(info.number).primitive.rotations))
    if not kept:
        raise DataError("no crystal could be read as orbits of a space group; give crystals with atoms apart from each other")
    data = OrbitCrystals(
        torch.tensor(groups),
        torch.tensor(counts),
        torch.tensor(elements),
        torch.tensor(letters),
        torch.as_tensor(np.stack(parameters), dtype=torch.float64),
        torch.as_tensor(np.stack(lattices), dtype=torch.float64),
        {name: values[kept] for name, values in (labels or {}).items()},
    )
    return data, failed


def as_batch(data: OrbitCrystals, rows: Sequence[int]) -> CrystalBatch:
    """Some crystals atom by atom."""
    freedom, y = data.freedom(rows)
    return freedom.crystals(y)
