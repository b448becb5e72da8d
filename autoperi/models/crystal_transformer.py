"""A crystal transformer after CTGNN (Du et al., arXiv:2405.11502 (2024)), a baseline.

CTGNN has two transformers: one among the neighbours of an atom, whose edges carry distances and angles, and one among
the atoms of a crystal. So has this network. Its equations are ours, chosen so that the laws of :mod:`autoperi.laws`
hold exactly and one CPU core trains it in minutes; errors of the published program are not comparable digit by digit.
One layer is

    t_ij    = W_c h_i + W_n h_j + W_r G(r_ij)                                     (token of an edge, G Gaussians)
    l_jk    = q_ij·k_ik/√d + Σ_l β_l(t_ij) P_l(cos θ_jik) + ln w_ik               (among the edges of atom i)
    t_ij   += W_o Σ_k softmax_k(l_jk) (v_ik ⊕ P_1..L(cos θ_jik))
    h_i    += (1/k) Σ_j w_ij σ(W_g t_ij) ⊙ silu(W_s t_ij)                         (edges to atom)
    h      += attention over the atoms of the crystal, then a feed-forward network

the last of them after Vaswani et al. (2017), normalised first, with w the occupations of the nearest neighbours
(:func:`autoperi.models.cgcnn.nearest_neighbours`), and P_l the Legendre polynomials of the angle at i between the edges
to j and k, from which all angles of l ≤ ``l_max`` follow through the addition theorem P_l(cos θ_jik) = Σ_m Y_lm(u_ij)
Y_lm(u_ik). They stand among the values too, because weights alone show nothing where all edges of an atom are alike, as
in most elements. Because an edge counts with its occupation, the output is continuous in the positions. The attention
over atoms knows no positions: in a supercell every key is there n times, which changes no weighted mean."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn import functional

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import places
from autoperi.geometry.segments import segment_sum
from autoperi.models.cgcnn import Neighbours, nearest_neighbours
from autoperi.nn.config import config_of
from autoperi.nn.heads import sum_per_crystal
from autoperi.nn.mlp import mlp
from autoperi.units import MAX_ATOMIC_NUMBER

BUNDLED = "crystal-transformer-formation-energy"
"""Name of the weights that ship with AutoPeri."""
COMPONENT = "crystal_transformer"
_ABSENT = -80.0  # logarithm of the weight of a padded edge: nothing beside any other, and finite
_WIDTHS = (8, 12, 14, 18)  # edges of an atom up to which a table holds it: twelve, or somewhat more where the last tie


class EdgeTable(NamedTuple):
    """The edges of some atoms side by side: M atoms with at most K edges each, E edges in all.

    Attributes:
        edges: which edges of the batch these are, ``[E]``.
        slot: place of each in the table of M rows and K columns, flat, ``[E]``.
        shape: (M, K).
        log_weight: ln w, :data:`_ABSENT` where there is no edge, ``[M, K]``.
        harmonics: spherical harmonics of l = 1..l_max, normalised to one for each l, zero where there is no edge,
            ``[M, K, (l_max+1)²-1]``.
    """

    edges: Tensor
    slot: Tensor
    shape: tuple[int, int]
    log_weight: Tensor
    harmonics: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Values of the edges ``[E, F]`` as a table ``[M, K, F]``, zero where there is no edge."""
        m, k = self.shape
        out = torch.zeros(m * k, values.shape[1], dtype=values.dtype, device=values.device)
        return out.index_copy(0, self.slot, values).view(m, k, -1)


def edge_tables(edges: Neighbours, n_atoms: int, l_max: int) -> list[EdgeTable]:
    """Every edge in one of a few tables; atoms with like numbers of edges share one, which keeps padding small."""
    place, width = places(edges.centre, n_atoms)
    harmonics = o3.spherical_harmonics(list(range(1, l_max + 1)), edges.vector, normalize=True, normalization="norm")
    log_weight = torch.log(edges.occupation).clamp(min=_ABSENT).unsqueeze(-1)
    degree = torch.bincount(edges.centre, minlength=n_atoms)
    found, least = [], 0
    for most in [w for w in _WIDTHS if w < width] + [width]:
        here = (degree > least) & (degree <= most)
        chosen = here[edges.centre].nonzero().squeeze(-1)
        least, k = most, int(degree[here].max()) if len(chosen) else 0
        if k:
            slot = (torch.cumsum(here, 0) - 1)[edges.centre[chosen]] * k + place[chosen]
            made = EdgeTable(chosen, slot, (int(here.sum()), k), log_weight, harmonics)
            # a place without an edge is filled with 0, and has the weight of an absent edge once _ABSENT is added again
            weight = made.spread(log_weight[chosen] - _ABSENT).squeeze(-1) + _ABSENT
            found.append(made._replace(log_weight=weight, harmonics=made.spread(harmonics[chosen])))
    return found


class NeighbourAttention(nn.Module):
    """Transformer among the edges of an atom, and what the atom learns from them; see the module's docstring.

    Args:
        channels: C, of an atom.
        edge_channels: of an edge.
        heads: of the attention.
        n_gaussians: G.
        l_max: of the angles, at least 1.
        neighbours: k, by which sums are divided.
    """

    def __init__(
        self, *, channels: int, edge_channels: int, heads: int, n_gaussians: int, l_max: int, neighbours: int
    ) -> None:
        super().__init__()
        self.heads, self.l_max, self.neighbours = heads, l_max, neighbours
        self.norm = nn.LayerNorm(channels)
        self.centre = nn.Linear(channels, edge_channels)
        self.neighbour = nn.Linear(channels, edge_channels, bias=False)
        self.radial = nn.Linear(n_gaussians, edge_channels, bias=False)
        self.norm_edges = nn.LayerNorm(edge_channels)
        self.qkv = nn.Linear(edge_channels, 3 * edge_channels)
        self.angular = nn.Linear(edge_channels, heads * l_max)
        self.mix = nn.Linear(edge_channels + heads * l_max, edge_channels, bias=False)
        degrees = torch.arange(1, l_max + 1)
        of_degree = functional.one_hot(torch.repeat_interleave(degrees - 1, 2 * degrees + 1), l_max)
        self.register_buffer("of_degree", of_degree.to(torch.get_default_dtype()), persistent=False)
        self.message = nn.Linear(edge_channels, 2 * channels)

    def forward(self, atoms: Tensor, edges: Neighbours, basis: Tensor, tables: list[EdgeTable]) -> Tensor:
        """What is added to the atom vectors ``[N, C]``; zero for an atom without edges.

        The basis of the edges is ``[E, G]``.
        """
        normed = self.norm(atoms)
        tokens = self.centre(normed)[edges.centre] + self.neighbour(normed)[edges.neighbour] + self.radial(basis)
        tokens = tokens + self.mix(self.attend(self.norm_edges(tokens), tables))
        gate, core = self.message(functional.silu(tokens)).chunk(2, -1)
        message = torch.sigmoid(gate) * functional.silu(core) * (edges.occupation / self.neighbours).unsqueeze(-1)
        return segment_sum(message, edges.centre, len(atoms))

    def attend(self, tokens: Tensor, tables: list[EdgeTable]) -> Tensor:
        """What an edge learns from the edges of the same atom, ``[E, edge_channels + heads·l_max]``: values, then
        angles, head after head.
        """
        qkv, beta = self.qkv(tokens), self.angular(tokens)
        out = tokens.new_zeros(len(tokens), tokens.shape[1] + beta.shape[1])
        for table in tables:
            out = out.index_copy(0, table.edges, self._among(qkv[table.edges], beta[table.edges], table))
        return out

    def _among(self, qkv: Tensor, beta: Tensor, table: EdgeTable) -> Tensor:
        query, key, value = (self._by_head(x, table.shape) for x in table.spread(qkv).chunk(3, -1))
        of_degree: Tensor = self.of_degree  # type: ignore[assignment]
        own = table.harmonics.unsqueeze(1)
        others = own.expand(-1, self.heads, -1, -1)
        # β_l P_l(cos θ) is a product of what the query and the key each know
        angular = (self._by_head(table.spread(beta), table.shape) @ of_degree.T) * own
        query = torch.cat([query * query.shape[-1] ** -0.5, angular], -1)
        scores = query @ torch.cat([key, others], -1).transpose(-1, -2)
        weight = torch.softmax(scores + table.log_weight[:, None, None], -1)
        values, angles = (weight @ torch.cat([value, others], -1)).split([value.shape[-1], own.shape[-1]], -1)
        found = [x.transpose(1, 2).flatten(2).flatten(0, 1)[table.slot] for x in (values, (angles * own) @ of_degree)]
        return torch.cat(found, -1)

    def _by_head(self, values: Tensor, shape: tuple[int, int]) -> Tensor:
        return values.view(*shape, self.heads, -1).transpose(1, 2)


class AtomAttention(nn.Module):
    """Transformer layer over the atoms of a crystal, without positions (Vaswani et al. 2017, normalised first)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_forward = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.mix = nn.Linear(channels, channels, bias=False)
        self.forward_net = mlp(channels, 2 * channels, channels)

    def forward(self, atoms: Tensor, batch: CrystalBatch) -> Tensor:
        """Atom vectors ``[N, C]`` to new ones."""
        b, width = len(batch), int(batch.n_atoms.max()) if len(batch) else 0
        slot = batch.batch * width + torch.arange(len(atoms), device=atoms.device) - batch.offsets[batch.batch]
        padded = torch.zeros(b * width, 3 * atoms.shape[1], dtype=atoms.dtype, device=atoms.device)
        padded = padded.index_copy(0, slot, self.qkv(self.norm(atoms))).view(b, width, 3, self.heads, -1)
        query, key, value = padded.permute(2, 0, 3, 1, 4)
        there = torch.arange(width, device=atoms.device) < batch.n_atoms.unsqueeze(-1)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        atoms = atoms + self.mix(mixed.transpose(1, 2).reshape(b * width, -1)[slot])
        return atoms + self.forward_net(self.norm_forward(atoms))


class CrystalTransformer(nn.Module):
    """One number a crystal, such as its formation energy in eV/atom; see the module's docstring.

    Args:
        channels: length of the atom vectors.
        edge_channels: length of the edge tokens.
        layers: pairs of the two transformers.
        heads: of either attention; divides both lengths.
        hidden: length of the penultimate layer, which :meth:`features` returns.
        neighbours: k nearest.
        cutoff: in Å.
        n_gaussians: Gaussians at even distances from 0 to the cutoff, each as wide as they are apart.
        l_max: largest degree of the angles, at least 1.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        edge_channels: int = 32,
        layers: int = 2,
        heads: int = 4,
        hidden: int = 128,
        neighbours: int = 12,
        cutoff: float = 8.0,
        n_gaussians: int = 41,
        l_max: int = 3,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if channels % heads or edge_channels % heads or l_max < 1:
            raise ValueError(
                f"{heads} heads must divide {channels} and {edge_channels} channels, and l_max {l_max} be at least 1"
            )
        self.n_neighbours, self.cutoff, self.l_max = neighbours, cutoff, l_max
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, n_gaussians), persistent=False)
        shape = {"edge_channels": edge_channels, "n_gaussians": n_gaussians, "l_max": l_max, "neighbours": neighbours}
        self.local = nn.ModuleList(NeighbourAttention(channels=channels, heads=heads, **shape) for _ in range(layers))
        self.overall = nn.ModuleList(AtomAttention(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.penultimate = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 1)

    def neighbours(self, batch: CrystalBatch) -> Neighbours:
        """The edges that this network reads; they can be found once and given to :meth:`forward` many times."""
        return nearest_neighbours(batch, k=self.n_neighbours, cutoff=self.cutoff)

    def features(self, batch: CrystalBatch, edges: Neighbours | None = None) -> Tensor:
        """Activations of the penultimate layer, ``[B, hidden]``: mean over atoms, linear, SiLU."""
        edges = self.neighbours(batch) if edges is None else edges
        atoms = self.embedding(batch.atomic_numbers)
        centres: Tensor = self.centres  # type: ignore[assignment]
        basis = torch.exp(-(((edges.distance.unsqueeze(-1) - centres) * ((len(centres) - 1) / self.cutoff)) ** 2))
        tables = edge_tables(edges, len(atoms), self.l_max)
        for local, overall in zip(self.local, self.overall, strict=True):
            atoms = overall(atoms + local(atoms, edges, basis, tables), batch)
        pooled = sum_per_crystal(self.norm(atoms), batch) / batch.n_atoms.to(atoms.dtype).unsqueeze(-1)
        return functional.silu(self.penultimate(pooled))

    def forward(self, batch: CrystalBatch, edges: Neighbours | None = None) -> Tensor:
        """One number of each crystal, ``[B]``; a formation energy in eV/atom."""
        return self.out(self.features(batch, edges)).squeeze(-1)


def load_crystal_transformer(
    name_or_path: str | os.PathLike[str] = BUNDLED,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> CrystalTransformer:
    """A trained crystal transformer in evaluation mode.

    Args:
        name_or_path: bundled name, directory or hub repository.
        device: where it runs.
        dtype: float64 by default, in which batchmates change nothing even in the last printed digit.

    Raises:
        WeightsError: no such model, or one without a component ``crystal_transformer``.
    """
    from autoperi.hub.networks import load_pretrained_network

    network: CrystalTransformer = load_pretrained_network(COMPONENT, name_or_path)
    return network.to(device=device, dtype=dtype)
