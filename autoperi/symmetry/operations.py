"""The operations of crystals' space groups, and the atom that each makes of each atom: what a symmetry distance
compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoperi.symmetry.analysis import atom_permutations
from autoperi.symmetry.freedom import Freedom
from autoperi.symmetry.spacegroup import space_group
from autoperi.symmetry.wyckoff import GENERIC


@dataclass(frozen=True, eq=False)
class Operations:
    """All G operations x → R x + t of B crystals in their primitive cells, one crystal after the other, and P pairs of
    them with atoms.

    Attributes:
        rotations: R, ``[G, 3, 3]``, translations: t, ``[G, 3]``, acting on columns of fractional coordinates.
        crystal: of each operation, ``[G]``.
        operation, atom, image: an operation and the atom ``image`` that it makes of ``atom``, modulo the lattice, each
            ``[P]``; operation by operation, atoms in their order.
    """

    rotations: Tensor
    translations: Tensor
    crystal: Tensor
    operation: Tensor
    atom: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.crystal)


def operations_of(freedom: Freedom, groups: Tensor) -> Operations:
    """The operations of crystals given by their orbits; images are those that the orbits' maps have, whatever the
    parameters.

    Args:
        freedom: B crystals.
        groups: space-group numbers, ``[B]``.
    """
    generic = torch.as_tensor(GENERIC, device=freedom.maps.device)
    points = torch.einsum("nij,j->ni", freedom.maps.double(), generic) + freedom.offsets.double()
    counts = freedom.n_atoms.tolist()
    parts = []
    first, done = 0, 0
    for b, (number, x, orbit) in enumerate(
        zip(groups.tolist(), points.cpu().split(counts), freedom.orbit.cpu().split(counts), strict=True)
    ):
        group = space_group(number).primitive
        every = np.arange(len(group))
        images = atom_permutations(x.numpy(), orbit.numpy(), group).reshape(-1) + first
        operation, atom = np.repeat(every + done, len(x)), np.tile(np.arange(len(x)) + first, len(group))
        parts.append((group.rotations, group.translations, np.full(len(group), b), operation, atom, images))
        first, done = first + len(x), done + len(group)
    rotations, translations, *indices = (torch.as_tensor(np.concatenate(own)) for own in zip(*parts, strict=True))
    device = freedom.maps.device
    return Operations(rotations.to(freedom.maps), translations.to(freedom.maps), *(i.to(device) for i in indices))
