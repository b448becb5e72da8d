"""The prototype library: structure types as tensors, and the crystals they become for a composition.

A *prototype* is a space group, orbits with their free coordinates, the shape of the cell, and the slots (sets of
orbits that share an element); it has no volume and no elements. What it remembers of the crystals it was learned
from is which elements filled its slots, and by how much their volume departed from the additive one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from autoperi.errors import WeightsError
from autoperi.geometry.lattice import from_log_metric
from autoperi.symmetry.analysis import orbit, site_symmetry_projector, symmetrize_lattice
from autoperi.symmetry.spacegroup import primitive_transform, space_group
from autoperi.symmetry.wyckoff import WyckoffPosition, locate

SITE_TOLERANCE = 2e-4
"""Fractional distance within which a stored coordinate lies on a special position: twice its rounding."""

FIELDS = (
    "space_group",  # [V] uint8
    "slot_start",  # [V + 1] int32: into slot_count
    "slot_count",  # [sum S] uint8: atoms of each slot in the primitive cell, ascending within a prototype
    "orbit_start",  # [V + 1] int32: into orbit_slot and orbit_coord
    "orbit_slot",  # [O] uint8
    "orbit_coord",  # [O, 3] float32: one point of each orbit, primitive basis, rounded to 1e-4
    "shape",  # [V, 5] float32: log-metric shape coordinates of the primitive cell
    "member_start",  # [V + 1] int32: into member rows
    "member_elements",  # [M, S_max] uint8: elements that filled the slots, 0 beyond a prototype's slots
    "member_volume",  # [M] float32: log of volume over additive volume
    "match_pair",  # [P, 2] int32: prototypes a, b whose crystals match (StructureMatcher 0.5/0.3/10)
    "match_permutation",  # [P] int16: index into tie_permutations: slot s of b is slot p[s] of a
    "element_volume",  # [119] float32: additive volume of each element, Å³
)
OPTIONAL_FIELDS = (
    "member_weight",
)  # [M] uint8: how much of the reference of draws without a composition a member is; 1 where it is not stored


@dataclass(frozen=True, eq=False)
class PrototypeLibrary:
    """Tensors of all prototypes, see :data:`FIELDS` and :data:`OPTIONAL_FIELDS`."""

    tensors: dict[str, Tensor]
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        missing = sorted(set(FIELDS) - set(self.tensors))
        if missing:
            raise WeightsError(
                f"the prototype prior lacks {', '.join(missing)}; use weights written by this version of AutoPeri"
            )
        self._arrays.update({name: self.tensors[name].numpy() for name in FIELDS})
        weight = self.tensors.get("member_weight")
        members = len(self._arrays["member_volume"])
        if weight is not None and (weight.shape != (members,) or weight.dtype != torch.uint8):
            raise WeightsError(
                f"member_weight of the prototype prior is no uint8 for each of {members} members; use weights that "
                "AutoPeri wrote"
            )
        self._arrays["member_weight"] = np.ones(members, np.uint8) if weight is None else weight.numpy()

    def __len__(self) -> int:
        return len(self._arrays["space_group"])

    def __getitem__(self, name: str) -> np.ndarray:
        """An array of :data:`FIELDS` or :data:`OPTIONAL_FIELDS`."""
        return self._arrays[name]

    @cached_property
    def counts(self) -> list[tuple[int, ...]]:
        """Atoms per slot of each prototype."""
        start, count = self["slot_start"].tolist(), self["slot_count"].tolist()
        return [tuple(count[a:b]) for a, b in pairwise(start)]

    @cached_property
    def by_counts(self) -> dict[tuple[int, ...], np.ndarray]:
        """Prototypes of each tuple of counts, ``[v]``."""
        table: dict[tuple[int, ...], list[int]] = {}
        for v, counts in enumerate(self.counts):
            table.setdefault(counts, []).append(v)
        return {counts: np.array(v) for counts, v in table.items()}

    @cached_property
    def matches(self) -> dict[int, list[tuple[int, int]]]:
        """For each prototype a, the (b, permutation index) that match it, both directions and itself included."""
        table: dict[int, list[tuple[int, int]]] = {}
        for (a, b), p in zip(self["match_pair"].tolist(), self["match_permutation"].tolist(), strict=True):
            table.setdefault(a, []).append((b, p))
        return table

    def members(self, v: int) -> np.ndarray:
        """Elements of each member of prototype ``v`` by slot, ``[m, S]``."""
        a, b = self["member_start"][v : v + 2]
        return self["member_elements"][a:b, : len(self.counts[v])]

    @lru_cache(maxsize=4096)  # noqa: B019  a library lives as long as its model
    def skeleton(self, v: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Primitive cell of prototype ``v`` at unit volume per atom.

        Returns:
            lattice ``[3, 3]``, fractional coordinates ``[n, 3]``, slot ``[n]`` and orbit ``[n]`` of each atom; exactly
            symmetric under the prototype's space group.
        """
        group = space_group(int(self["space_group"][v])).primitive
        a, b = self["orbit_start"][v : v + 2]
        points, slots, orbits = [], [], []
        for k in range(a, b):
            rough = self["orbit_coord"][k].astype(np.float64)
            projector, offset = site_symmetry_projector(rough, group, tolerance=SITE_TOLERANCE)
            images, _ = orbit(projector @ rough + offset, group)
            points.append(images)
            slots += [int(self["orbit_slot"][k])] * len(images)
            orbits += [k - a] * len(images)
        coords = np.concatenate(points)
        lattice = symmetrize_lattice(unit_cell(self["shape"][v]), group.rotations)
        lattice = lattice * (len(coords) / abs(np.linalg.det(lattice))) ** (1 / 3)
        return lattice, coords % 1.0, np.array(slots), np.array(orbits)

    @lru_cache(maxsize=4096)  # noqa: B019  a library lives as long as its model
    def sites(self, v: int) -> tuple[tuple[int, WyckoffPosition, np.ndarray], ...]:
        """Slot, Wyckoff position and parameters s ``[3]`` of each orbit of the skeleton of prototype ``v``."""
        number = int(self["space_group"][v])
        _, coords, slots, orbits = self.skeleton(v)
        first = np.unique(orbits, return_index=True)[1]
        points = coords[first] @ primitive_transform(space_group(number))
        return tuple((int(slots[k]), *locate(x, number)) for k, x in zip(first, points, strict=True))

    def additive_volume(self, elements: Sequence[int], counts: Sequence[int]) -> float:
        """Sum of the elements' additive volumes in Å³."""
        return float(sum(c * self["element_volume"][z] for z, c in zip(elements, counts, strict=True)))


def unit_cell(shape: np.ndarray) -> np.ndarray:
    """The cell ``[3, 3]`` of unit volume with the log-metric shape coordinates ``[5]``."""
    k = torch.as_tensor(np.concatenate([[0.0], shape.astype(np.float64)]))
    return from_log_metric(k[None])[0].numpy()
