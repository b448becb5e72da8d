"""The lattice relaxer that ``relax_lattice`` and ``generate`` use: EMPNN passes that know how sure they are.

Klipfel et al. (AAAI 2023) let a network read a crystal and act on its lattice, ρ' = exp(A)·ρ (eq. 10a), with A in the
span of edge ket-bras |u⟩⟨u| (Definition 8). This model keeps that and adds what a relaxer in daily use needs:

- **A natural unit of length.** ℓ = (V̂/N)^⅓ with V̂ the sum of learned element volumes: crystals enter scaled to 20 Å³
  an atom, so that every one of them has about as many neighbours, and a cell that is far too dense can be brought to V̂
  before anything else is asked.
- **Two fields.** |u⟩⟨u| = I/3 + (|u⟩⟨u| - I/3): the weights of the two parts differ, φ_iso and φ_dev, each
  Σ_c α_c(h_i) R_c(r_ij) s_c(h_j). That is what the last layer's features of l = 0 and 2 already hold, so the field
  costs no further work on edges.
- **Uncertainty.** From the invariants and the sizes of both fields the network predicts how large the error will be
  that is left, b_iso and b_dev (means of |tr e|/√3 and ‖dev e‖, by the likelihood of a Laplace distribution), and by
  how much to shorten each field. A relaxation that does not stand out from that error is not believed
  (:func:`autoperi.processes.lattice.cautious`).

All of it is invariant or equivariant under O(3) × translations × S_n × SL3(Z) and the choice of supercell (Proposition
4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import covalent_radii
from autoperi.models.empnn import Empnn
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM, Backbone
from autoperi.nn.config import config_of
from autoperi.nn.heads import sum_per_crystal
from autoperi.nn.mlp import mlp
from autoperi.nn.node_field import traceless_basis
from autoperi.processes.lattice import LatticeStep, length_error
from autoperi.units import MAX_ATOMIC_NUMBER

KIND = "relaxer"
"""What the config of a component says under ``kind`` where its network is this one."""
_TINY = 1e-3


class LatticeRelaxer(nn.Module):
    """A pass of the relaxer; see the module's docstring.

    Args:
        channels, layers, n_radial, l_max: of the shared :class:`~autoperi.nn.backbone.Backbone`; l_max is at least 2.
        cutoff: radius of the multigraph in Å of the scaled crystal; 4.75 Å hold about 22 neighbours at 20 Å³ an atom.
        hidden: width of the heads.
        max_strain: bound on the norm of A, reached smoothly.
        caution: how many times its expected error a relaxation must exceed to be believed, see
            :func:`~autoperi.processes.lattice.cautious`.
        calibration: factor and power of :meth:`expected_error`.
        kind: what tells this config from that of an :class:`~autoperi.models.empnn.Empnn`; only :data:`KIND`.
    """

    radii_log_volume: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 3,
        cutoff: float = 4.75,
        n_radial: int = 8,
        l_max: int = 2,
        hidden: int = 64,
        max_strain: float = 1.5,
        caution: float = 3.0,
        calibration: Sequence[float] = (1.0, 1.0),
        kind: str = KIND,
    ) -> None:
        if kind != KIND:
            raise ValueError(f"kind={kind!r} is not {KIND!r}")
        super().__init__()
        self.config = config_of(locals())
        self.max_strain, self.caution = max_strain, caution
        self.calibration = (float(calibration[0]), float(calibration[1]))
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        # relative to the covalent spheres, so that an element never seen keeps a sensible volume
        self.log_volume = nn.Parameter(torch.zeros(MAX_ATOMIC_NUMBER + 1))
        self.register_buffer("radii_log_volume", _radii_log_volumes(), persistent=False)
        self.atom = mlp(channels, hidden, hidden + channels + 1, norm=True)
        self.hidden = hidden
        last = nn.Linear(hidden, 4)
        with torch.no_grad():  # a fresh model hardly doubts its fields, and expects errors of a few per cent
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([1.0, 1.0, -3.0, -3.0]))
        self.judge = nn.Sequential(nn.Linear(hidden + 3, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

    def natural_volume(self, batch: CrystalBatch) -> Tensor:
        """V̂ in Å³, the volume that the composition suggests, ``[B]``."""
        volumes = torch.exp(self.log_volume.to(batch.lattice.dtype) + self.radii_log_volume.to(batch.lattice.dtype))
        return sum_per_crystal(volumes.index_select(0, batch.atomic_numbers), batch)

    def expected_error(self, spread: Tensor) -> Tensor:
        """Mean relative error of a cell's lengths, ``[B]``, from the spread of a step: √(b_iso²/3 + 2 b_dev²/15), the
        root mean square of uᵀeu over directions u, as ``calibration`` (factor, power) found it on crystals that the
        network was not trained on.
        """
        factor, power = self.calibration
        return factor * length_error(spread) ** power

    def scaled(self, batch: CrystalBatch) -> CrystalBatch:
        """The crystals as the backbone reads them: at :data:`~autoperi.nn.backbone.MEAN_VOLUME_PER_ATOM` Å³ an atom if
        their volume is V̂.
        """
        unit = (self.natural_volume(batch).detach() / (MEAN_VOLUME_PER_ATOM * batch.n_atoms)).pow(1 / 3)
        return batch.replace(lattice=batch.lattice / unit[:, None, None])

    def forward(self, batch: CrystalBatch) -> Tensor:
        """The exponent A of eq. 10a, symmetric, ``[B, 3, 3]``: O(3) acts on it by conjugation, SL3(Z) not at all."""
        return self.step(batch).strain

    def step(self, batch: CrystalBatch) -> LatticeStep:
        """One pass: A and what it leaves."""
        output = self.backbone(self.scaled(batch))
        per_atom = self.atom(output.scalars)
        pooled, weights, volume = per_atom.split([self.hidden, output.scalars.shape[1], 1], -1)
        shape = (output.equivariant[2] * weights.unsqueeze(1)).sum(-1)  # [N, 5]
        count = batch.n_atoms.to(shape.dtype).unsqueeze(-1)
        means = sum_per_crystal(torch.cat([pooled, volume, shape], -1), batch) / count
        pooled, volume, shape = means.split([self.hidden, 1, 5], -1)
        norm = torch.sqrt((shape**2).sum(-1, keepdim=True) + 1e-12)
        sizes = [torch.log(norm + _TINY), volume, torch.log(volume.abs() + _TINY)]
        judged = self.judge(torch.cat([torch.nn.functional.silu(pooled), *sizes], -1))
        gates, spread = torch.sigmoid(judged[:, :2]), torch.exp(judged[:, 2:].clamp(-9.0, 1.0))
        volume, shape = volume * gates[:, :1], shape * gates[:, 1:]
        total = torch.sqrt((shape**2).sum(-1, keepdim=True) + volume**2 + 1e-12)
        bound = self.max_strain * torch.tanh(total / self.max_strain) / total
        strain = torch.einsum("mab,nm->nab", traceless_basis(shape), shape * bound)
        one = torch.eye(3, dtype=strain.dtype, device=strain.device) / 3**0.5
        strain = strain + (volume * bound).unsqueeze(-1) * one
        connected = torch.zeros(len(batch), dtype=torch.bool, device=strain.device)
        connected[batch.batch[output.geometry.graph.edge_index[0]]] = True
        return LatticeStep(strain * connected[:, None, None], spread, connected)


def lattice_network(*, kind: str = "empnn", **config: Any) -> Empnn | LatticeRelaxer:
    """The network of a component ``empnn``: a :class:`LatticeRelaxer` where its config says so by ``kind``, else a
    one-shot :class:`Empnn`.
    """
    return Empnn(**config) if kind == "empnn" else LatticeRelaxer(kind=kind, **config)


def _radii_log_volumes() -> Tensor:
    """Log of 4/3 π r³/0.6 with r the covalent radius in Å, ``[Z]``."""
    radii = torch.tensor(covalent_radii(), dtype=torch.float32)[: MAX_ATOMIC_NUMBER + 1]
    return torch.log(4 / 3 * math.pi * radii.nan_to_num(1.5).clamp(min=0.3) ** 3 / 0.6)
