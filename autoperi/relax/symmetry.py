"""The space group of a crystal, held while it is relaxed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import from_symmetric_coords, to_symmetric_coords
from autoperi.symmetry.analysis import (
    analyse,
    atom_permutations,
    strain_projector,
    symmetrize_coords,
    symmetrize_lattice,
    symmetrize_vectors,
)


class FixedSymmetry:
    """The space group of one crystal in its own cell.

    Raises:
        StructureError: there is none to be found.
    """

    def __init__(self, crystal: CrystalBatch, symprec: float) -> None:
        lattice, frac, numbers = (t.cpu().numpy() for t in crystal.unbatch()[0])
        info = analyse(lattice, frac, numbers, symprec=symprec)
        self.group = info.input_group
        # symprec is in Å, the tolerance of the permutations in parts of the cell
        tolerance = 5 * symprec * float(np.linalg.norm(np.linalg.inv(lattice), ord=2))
        self.permutations = atom_permutations(frac, numbers, self.group, tolerance=tolerance)

    def exact(self, lattice: Tensor, frac: Tensor) -> tuple[Tensor, Tensor]:
        """Lattice and coordinates moved onto the group, each coordinate by its nearest image."""
        x = frac.cpu().numpy()
        new = symmetrize_coords(x, self.group, self.permutations)
        new = new + np.rint(x - new)  # symmetrize_coords wraps
        rows = symmetrize_lattice(lattice.cpu().numpy(), self.group.rotations)
        return torch.as_tensor(rows).to(lattice), torch.as_tensor(new).to(frac)

    def project(self, lattice: Tensor, forces: Tensor, stress: Tensor) -> tuple[Tensor, Tensor]:
        """Forces and stress without what would break the group."""
        rows = lattice.cpu().numpy()
        fractional = symmetrize_vectors(forces.cpu().numpy() @ np.linalg.inv(rows), self.group, self.permutations)
        projector = torch.as_tensor(strain_projector(rows, self.group.rotations)).to(stress)
        return torch.as_tensor(fractional @ rows).to(forces), from_symmetric_coords(
            to_symmetric_coords(stress) @ projector.T
        )
