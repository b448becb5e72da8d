"""The 2-graph of a crystal and message passing on it (EMPNN, Definitions 5-7, eqs. 8 and 9).

A 2-cell is an ordered pair of different edges that share their centre, γ = (i, j, τ) and γ' = (i, k, τ'). The paper's
path i → j → k is the same pair seen from its middle atom, with one edge turned round: the unoriented angle at that atom
is the same up to π - θ.

Which edges form 2-cells: the number of pairs grows with the square of the neighbours, and the edges of the 1-graph (30
an atom within 5 Å, thousands in a cell that is much too small) are too many. 2-cells take the edges shorter than

    c = min(reach · (V/N)^(1/3), cutoff of the 1-graph),      V/N the volume per atom,

a cutoff of one crystal, as Definition 6 allows. An ideal density has 4/3 π reach³ neighbours within it (14 for reach =
1.5), whatever the size of the cell, so that the cost an atom is bounded. c depends on nothing but the crystal, and
every message carries the envelope of its edges, zero at c: nothing jumps where an edge crosses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import Multigraph, triplets
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import EdgeGeometry
from autoperi.nn.mlp import mlp
from autoperi.nn.radial import polynomial_envelope

N_ANGULAR = 5
"""Legendre polynomials P₁ … P₅ of cos θ that messages see; smooth at 0 and π, where θ itself is not."""


@dataclass(frozen=True, eq=False)
class TwoGraph:
    """Γ₂ of a batch.

    Attributes:
        edges: the short edges, as places in the 1-graph, ``[S]``.
        nodes: their centres i and neighbours j, ``[2, S]``.
        units: unit vectors u_γ, ``[S, 3]``.
        lengths: r_γ in Å, ``[S]``.
        radial: their radial basis, ``[S, R]``.
        edge_envelope: smooth weight in [0, 1], ``[S]``.
        pairs: first and second edge of each 2-cell, as places in ``edges``, ``[2, T]``.
        cosines: cos θ between them, ``[T]``.
        angular: Legendre polynomials of ``cosines``, ``[T, N_ANGULAR]``.
        envelope: product of the envelopes of the two edges, ``[T]``.
    """

    edges: Tensor
    nodes: Tensor
    units: Tensor
    lengths: Tensor
    radial: Tensor
    edge_envelope: Tensor
    pairs: Tensor
    cosines: Tensor
    angular: Tensor
    envelope: Tensor


def two_graph(batch: CrystalBatch, geometry: EdgeGeometry, *, reach: float, cutoff: float) -> TwoGraph:
    """Γ₂ of the crystals, see the module's docstring.

    Args:
        batch: B crystals.
        geometry: their edges within ``cutoff``.
        reach: cutoff of 2-cells in units of the cube root of the volume per atom.
        cutoff: of the 1-graph in Å.
    """
    # pairs are many, so only edges shorter than the reach make them, whatever the density of the crystal
    index = geometry.graph.edge_index
    limit = (reach * (batch.volume / batch.n_atoms) ** (1 / 3)).clamp(max=cutoff)[batch.batch[index[0]]]
    edges = (geometry.distances < limit).nonzero().squeeze(-1)
    nodes = index[:, edges]
    lengths = geometry.distances[edges]
    units = geometry.vectors[edges] / lengths.clamp(min=1e-9).unsqueeze(-1)
    edge_envelope = polynomial_envelope(lengths / limit[edges])
    pairs = triplets(Multigraph(nodes, geometry.graph.edge_shift[edges], geometry.graph.n_nodes))
    first, second = pairs
    cosines = (units.index_select(0, first) * units.index_select(0, second)).sum(-1)
    envelope, radial = edge_envelope[first] * edge_envelope[second], geometry.radial[edges]
    angular = legendre(cosines, N_ANGULAR)
    return TwoGraph(edges, nodes, units, lengths, radial, edge_envelope, pairs, cosines, angular, envelope)


def legendre(x: Tensor, n: int) -> Tensor:
    """Legendre polynomials P₁ … P_n of x ``[T]`` by Bonnet's recursion, ``[T, n]``."""
    found = [torch.ones_like(x), x]
    for k in range(1, n):
        found.append(((2 * k + 1) * x * found[k] - k * found[k - 1]) / (k + 1))
    return torch.stack(found[1 : n + 1], -1)


class EdgePairNetwork(nn.Module):
    """A network of a pair of edges and the angle between them, φ(m_γ, m_γ', θ_γγ'): the arguments of eqs. 8b and 10b.

    Args:
        inputs: width of the messages m.
        width: of the hidden layers.
        outputs: numbers a pair.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(inputs, width, bias=False)
        self.angle = nn.Linear(N_ANGULAR, width, bias=False)
        self.net = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, messages: Tensor, graph: TwoGraph) -> Tensor:
        """Messages of the short edges ``[S, inputs]`` to ``[T, outputs]``."""
        first, second = graph.pairs
        # the linear maps act on edges, of which there are far fewer than pairs
        hidden = self.first(messages).index_select(0, first) + self.second(messages).index_select(0, second)
        return self.net(hidden + self.angle(graph.angular))


class TwoGraphInteraction(nn.Module):
    """One layer of message passing on Γ₁ and Γ₂:

        m_γ   = φ_m1(z_i, z_j, r_γ)                                  (eq. 8a)
        m_γγ' = φ_m2(m_γ, m_γ', θ_γγ')                               (eq. 8b)
        m_γ  += Σ_γ' m_γγ'                                           (2-cells feed edges)
        z_i  += φ_u(z_i, Σ_(γ of i) m_γ, Σ_((γ, γ') of i) m_γγ')     (eq. 9)

    In eq. 8b, z_k and both lengths enter through the messages. Sums are scaled by the square root of the number of
    neighbours that an ideal density has within the reach.

    Args:
        channels: width of z.
        n_radial: of the radial basis.
        width: of the messages.
        neighbours: that number.
    """

    def __init__(self, channels: int, n_radial: int, width: int, neighbours: float) -> None:
        super().__init__()
        self.scale = neighbours**-0.5
        self.centre = nn.Linear(channels, width)
        self.neighbour = nn.Linear(channels, width, bias=False)
        self.radial = nn.Linear(n_radial, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.pair = EdgePairNetwork(width, width, width)
        self.update = mlp(channels + 2 * width, 2 * channels, channels, norm=True)

    def forward(self, scalars: Tensor, graph: TwoGraph) -> tuple[Tensor, Tensor]:
        """Scalars ``[N, C]`` to updated scalars and the messages of the short edges, ``[S, width]``, zero at their
        cutoff.
        """
        i, j = graph.nodes
        of_atoms = self.centre(scalars).index_select(0, i) + self.neighbour(scalars).index_select(0, j)
        hidden = of_atoms + self.radial(graph.radial)
        messages = self.message(hidden) * graph.edge_envelope.unsqueeze(-1)
        # a message, and a pair of them, fades to zero before its edge leaves the graph
        cells = self.pair(messages, graph) * graph.envelope.unsqueeze(-1)
        from_cells = segment_sum(cells, graph.pairs[0], len(messages)) * self.scale
        by_edges, by_cells = (segment_sum(m, i, len(scalars)) * self.scale for m in (messages, from_cells))
        return scalars + self.update(torch.cat([scalars, by_edges, by_cells], -1)), messages + from_cells
