"""The potential: total energy as a sum over atoms on the shared backbone; forces and stress are its derivatives.

E = Σ_i [E₀(Z_i) + ε(h_i)] + Σ_(i<j) ZBL(Z_i, Z_j, r_ij) (seed 0, section 3.2.3: an invariant scalar head). The sum over atoms makes
the energy size-extensive; the envelope of the radial basis, with two vanishing derivatives at the cutoff, makes it smooth
there. The screened nuclear repulsion (Ziegler, Biersack, Littmark 1985) acts only below the sum of two covalent radii: it
keeps atoms apart where no training frame was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoperi.crystal import CrystalBatch
from autoperi.geometry.multigraph import Multigraph
from autoperi.nn.backbone import Backbone
from autoperi.nn.heads import ScalarHead, sum_per_crystal
from autoperi.nn.radial import polynomial_envelope
from autoperi.units import MAX_ATOMIC_NUMBER

COULOMB_EV_A = 14.399645
"""e²/(4πε₀) in eV·Å."""
ZBL_LENGTH_A = 0.8854 * 0.529177210903
_ZBL_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_ZBL_DECAYS = (3.1998, 0.94229, 0.4029, 0.20162)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a potential says of a batch.

    Attributes:
        energy: total energies in eV, ``[B]``.
        energies: of the atoms in eV, ``[N]``; they add up to ``energy``.
        forces: in eV/Å, ``[N, 3]``, or None where they were not asked for.
        stress: in eV/Å³, tension positive, ``[B, 3, 3]``, or None.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None
    stress: Tensor | None


class Potential(nn.Module):
    """Energies, forces and stresses of periodic crystals.

    Args:
        channels, layers, cutoff, n_radial, l_max: of the shared :class:`~autoperi.nn.backbone.Backbone`.
        hidden: width of the energy head.
    """

    radii: Tensor

    def __init__(
        self, *, channels: int = 64, layers: int = 3, cutoff: float = 5.0, n_radial: int = 8, l_max: int = 2, hidden: int = 64
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "layers": layers,
            "cutoff": cutoff,
            "n_radial": n_radial,
            "l_max": l_max,
            "hidden": hidden,
        }
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.head = ScalarHead(channels, hidden=hidden)
        self.reference = nn.Parameter(torch.zeros(MAX_ATOMIC_NUMBER + 1))
        self.register_buffer("radii", _covalent_radii())

    @property
    def cutoff(self) -> float:
        """Radius of the multigraph in Å."""
        return self.backbone.cutoff

    def atomic_energies(self, batch: CrystalBatch, graph: Multigraph | None = None) -> Tensor:
        """Energies of the atoms in eV, ``[N]``, differentiable in positions and lattice."""
        output = self.backbone(batch, graph)
        energies = self.head(output).squeeze(-1) + self.reference[batch.atomic_numbers]
        return energies + self._repulsion(batch, output.geometry.graph, output.geometry.distances)

    def forward(
        self, batch: CrystalBatch, *, graph: Multigraph | None = None, derivatives: bool = True, create_graph: bool = False
    ) -> Evaluation:
        """Energies, and by autograd forces F = -∂E/∂x and stress σ = (1/V) ∂E/∂ε.

        With rows as lattice vectors, L → L(1 + ε) at fixed fractional coordinates gives ∂E/∂ε_ab = Σ_k L_ka ∂E/∂L_kb.

        Args:
            batch: B crystals.
            graph: their edges within the cutoff, if they are known.
            derivatives: give forces and stress.
            create_graph: keep the derivatives differentiable, for training on them.
        """
        if not derivatives:
            energies = self.atomic_energies(batch, graph)
            return Evaluation(sum_per_crystal(energies, batch), energies, None, None)
        with torch.enable_grad():
            coords, lattice = batch.frac_coords.detach().requires_grad_(), batch.lattice.detach().requires_grad_()
            energies = self.atomic_energies(batch.replace(frac_coords=coords, lattice=lattice), graph)
            energy = sum_per_crystal(energies, batch)
            by_coords, by_lattice = torch.autograd.grad(energy.sum(), (coords, lattice), create_graph=create_graph, materialize_grads=True)
        inverse = torch.linalg.inv(batch.lattice.detach())
        forces = -torch.einsum("nj,nij->ni", by_coords, inverse[batch.batch])
        virial = batch.lattice.detach().transpose(1, 2) @ by_lattice
        stress = 0.5 * (virial + virial.transpose(1, 2)) / batch.volume.detach().view(-1, 1, 1)
        return Evaluation(energy, energies, forces, stress)

    def _repulsion(self, batch: CrystalBatch, graph: Multigraph, distance: Tensor) -> Tensor:
        """ZBL energy of each atom's half of its pairs in eV, ``[N]``; zero beyond the sum of covalent radii."""
        i, j = graph.edge_index
        numbers = batch.atomic_numbers
        reach = self.radii[numbers[i]] + self.radii[numbers[j]]
        near = (distance < reach).nonzero().squeeze(-1)
        i, j, r, reach = i[near], j[near], distance[near].clamp(min=1e-3), reach[near]
        zi, zj = numbers[i].to(r.dtype), numbers[j].to(r.dtype)
        x = r * (zi**0.23 + zj**0.23) / ZBL_LENGTH_A
        screening = torch.zeros_like(r)
        for weight, decay in zip(_ZBL_WEIGHTS, _ZBL_DECAYS, strict=True):
            screening = screening + weight * torch.exp(-decay * x)
        pair = COULOMB_EV_A * zi * zj / r * screening * polynomial_envelope(r / reach)
        return torch.zeros(len(numbers), dtype=r.dtype, device=r.device).index_add(0, i, 0.5 * pair)


def _covalent_radii() -> Tensor:
    """Covalent radii in Å by atomic number (Cordero et al. 2008, as in ASE); 0 for the unused entry 0."""
    from ase.data import covalent_radii

    radii = torch.tensor(covalent_radii, dtype=torch.float32)[: MAX_ATOMIC_NUMBER + 1]
    radii[0] = 0.0
    return radii
