"""Heads: what a model reads from the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoperi.crystal import CrystalBatch
from autoperi.geometry.lattice import VOIGT, symmetric_matrix
from autoperi.nn.backbone import BackboneOutput


def sum_per_crystal(values: Tensor, batch: CrystalBatch) -> Tensor:
    """Sum node values ``[N, ...]`` over each crystal, ``[B, ...]``."""
    out = torch.zeros(len(batch), *values.shape[1:], dtype=values.dtype, device=values.device)
    return out.index_add(0, batch.batch, values)


class ScalarHead(nn.Module):
    """Invariant quantities per atom, ``[N, outputs]``; a crystal's value is their sum or mean."""

    def __init__(self, channels: int, outputs: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, outputs))

    def forward(self, output: BackboneOutput) -> Tensor:
        """Backbone features to ``[N, outputs]``."""
        return self.net(output.scalars)


class LatticeField(nn.Module):
    """The edge ket-bra field of EMPNN (Definition 8): A = 1/|Γ₁| Σ_γ φ(m_γ) |u_γ⟩⟨u_γ|, symmetric.

    The weight φ of an edge comes from its message m_γ = φ_m(h_i, h_j, r_ij) (eq. 8a); the sum is the exponent of
    eq. 10a. The mean is taken with the envelope-weighted number of edges, so that an edge that crosses the cutoff
    changes nothing abruptly.
    """

    def __init__(self, channels: int, n_radial: int, hidden: int = 64) -> None:
        super().__init__()
        self.centre = nn.Linear(channels, hidden)
        self.neighbour = nn.Linear(channels, hidden, bias=False)
        self.radial = nn.Linear(n_radial, hidden, bias=False)
        self.weight = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, output: BackboneOutput, batch: CrystalBatch, envelope: Tensor) -> Tensor:
        """Exponents A of each crystal, symmetric, ``[B, 3, 3]``; zero where a crystal has no edges.

        Args:
            output: backbone features and edges.
            batch: the crystals.
            envelope: smooth weight of each edge in [0, 1], ``[E]``.
        """
        geometry = output.geometry
        i, j = geometry.graph.edge_index
        hidden = self.centre(output.scalars)[i] + self.neighbour(output.scalars)[j] + self.radial(geometry.radial)
        weight = self.weight(hidden).squeeze(-1) * envelope
        unit = geometry.vectors / geometry.distances.clamp(min=1e-9).unsqueeze(-1)
        # the six independent entries of |u⟩⟨u| instead of nine keep the sum cheap and the result exactly symmetric
        rows, cols = (list(axis) for axis in VOIGT)
        entries = weight.unsqueeze(-1) * unit[:, rows] * unit[:, cols]
        crystal = batch.batch[i]
        total = torch.zeros(len(batch), 6, dtype=entries.dtype, device=entries.device).index_add(0, crystal, entries)
        count = torch.zeros(len(batch), dtype=entries.dtype, device=entries.device).index_add(0, crystal, envelope)
        return symmetric_matrix(total / count.clamp(min=1e-6).unsqueeze(-1))
