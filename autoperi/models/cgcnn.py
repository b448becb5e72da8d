"""CGCNN: crystal graph convolutional network (Xie & Grossman, PRL 120, 145301 (2018)), a baseline and a feature
extractor.

The gated convolution of eq. 5 with batch normalisation, over the 12 nearest neighbours within 8 Å and Gaussians of
their distances. Three things differ from the paper:

* The vector of an element is learned; the paper feeds nine fixed properties of it through a linear layer.
* Which neighbours are "the twelve nearest" is undefined where the twelfth ties with the thirteenth, as in every
  body-centred metal, and a choice among them would depend on the order of atoms and on the lattice basis. Here each
  neighbour has an occupation in [0, 1], a smooth step of its distance r around a level μ of its atom, and μ is where
  the occupations sum to twelve. Where no other distance lies within 0.2 Å of the twelfth this is the paper's choice;
  ties share what is left equally, which is what a random choice among them gives on average; and the output is
  continuous in the positions.
* The loss of :mod:`autoperi.training` is the mean absolute error.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import edge_vectors, radius_graph
from autoperi.geometry.segments import segment_sum
from autoperi.nn.config import config_of
from autoperi.nn.heads import sum_per_crystal
from autoperi.units import MAX_ATOMIC_NUMBER

BUNDLED = "cgcnn-formation-energy"
"""Name of the weights that ship with AutoPeri."""
COMPONENT = "cgcnn"
_HALF_WIDTH = 0.1  # Å: half of the range of distances that share the last places
_BISECTIONS = 60  # from 8 Å down to the spacing of float64


class Neighbours(NamedTuple):
    """Weighted edges of a batch, sorted by centre atom.

    Attributes:
        centre, neighbour: atoms of each edge, ``[E]`` each.
        distance: in Å, ``[E]``.
        occupation: in (0, 1], summing to at most ``k`` over the edges of a centre, ``[E]``.
        vector: from the centre to the neighbour in Å, ``[E, 3]``.
    """

    centre: Tensor
    neighbour: Tensor
    distance: Tensor
    occupation: Tensor
    vector: Tensor


@torch.no_grad()
def nearest_neighbours(batch: CrystalBatch, *, k: int = 12, cutoff: float = 8.0) -> Neighbours:
    """The ``k`` nearest neighbours of each atom within ``cutoff`` (Å), the last places shared smoothly.

    The occupation of an edge of length r is s((μ - r) / 0.2 Å), s the smoothstep from 0 at -1/2 to 1 at 1/2, with the
    level μ of its centre such that all add up to ``k``; it fades to zero over the last 0.2 Å before the cutoff. An atom
    with fewer than ``k`` neighbours keeps them all; one with none has no edge. No gradients are followed.

    Args:
        batch: B crystals.
        k: places to fill, at least 1.
        cutoff: in Å, more than 0.2.
    """
    n = int(batch.frac_coords.shape[0])
    double = batch.to(dtype=torch.float64)
    density = batch.n_atoms / double.volume
    start = 1.25 * (3 * (k + 1) / (4 * torch.pi * density)) ** (1 / 3) + 2 * _HALF_WIDTH
    # fixed radii, so that what is found for a crystal does not depend on its batchmates
    radii = [r for r in (3.5, 4.0, 4.5, 5.0, 5.7, 6.5) if r < cutoff - 2 * _HALF_WIDTH] + [cutoff]
    waiting = torch.ones(len(batch), dtype=torch.bool, device=batch.lattice.device)
    found: list[tuple[Tensor, ...]] = []
    for radius in radii:
        last = radius == cutoff
        chosen = (waiting if last else waiting & (start <= radius)).nonzero().squeeze(-1)
        if not len(chosen):
            continue
        part = double[chosen]
        graph = radius_graph(part, radius)
        vector = edge_vectors(part, graph)
        distance = torch.linalg.vector_norm(vector, dim=-1)
        i, j = graph.edge_index
        # what lies up to 2 half-widths beyond the k-th neighbour can be occupied
        sure = torch.bincount(i[distance <= radius - 2 * _HALF_WIDTH], minlength=graph.n_nodes) >= k
        lacking = sum_per_crystal((~sure).to(torch.long), part) > 0
        done = torch.ones_like(lacking) if last else ~lacking
        keep = done[part.batch[i]]
        waiting[chosen[done]] = False
        shift = (batch.offsets[chosen] - part.offsets)[part.batch]
        found.append(((i + shift[i])[keep], (j + shift[j])[keep], distance[keep], vector[keep]))
    if not found:  # no crystals at all
        index, real = batch.n_atoms.new_zeros(0), double.lattice.new_zeros(0)
        found.append((index, index, real, real.view(0, 3)))
    centre, neighbour, distance, vector = (torch.cat(column) for column in zip(*found, strict=True))
    occupation = _occupations(centre, distance, n, k, cutoff)
    keep = (occupation > 0).nonzero().squeeze(-1)
    keep = keep[torch.argsort(centre[keep] * max(n, 1) + neighbour[keep], stable=True)]
    return Neighbours(
        centre[keep], neighbour[keep], *(x[keep].to(batch.lattice.dtype) for x in (distance, occupation, vector))
    )


def _occupations(centre: Tensor, distance: Tensor, n: int, k: int, cutoff: float) -> Tensor:
    """Occupation of each edge; bisection for the level of each atom, monotone by construction."""
    fade = _smoothstep((cutoff - _HALF_WIDTH - distance) / (2 * _HALF_WIDTH))
    low = torch.zeros(n, dtype=distance.dtype, device=distance.device)
    high = torch.full_like(low, cutoff + _HALF_WIDTH)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = segment_sum(fade * _smoothstep((middle[centre] - distance) / (2 * _HALF_WIDTH)), centre, n) >= k
        high = torch.where(enough, middle, high)
        low = torch.where(enough, low, middle)
    return fade * _smoothstep((high[centre] - distance) / (2 * _HALF_WIDTH))


def _smoothstep(x: Tensor) -> Tensor:
    t = (x + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


class _Norm(nn.BatchNorm1d):
    """Batch normalisation that falls back on its running statistics where there are no two rows to compare."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class GatedConvolution(nn.Module):
    """Eq. 5: v_i ← g(v_i + BN Σ_j w_ij σ(z_ij W_f + b_f) ⊙ g(z_ij W_s + b_s)), z_ij = v_i ⊕ v_j ⊕ u_ij, g softplus.

    As in the paper's own program, z W is batch-normalised before the gate. The three blocks of W act separately,
    because atoms are fewer than edges.
    """

    def __init__(self, channels: int, n_gaussians: int) -> None:
        super().__init__()
        self.centre = nn.Linear(channels, 2 * channels)
        self.neighbour = nn.Linear(channels, 2 * channels, bias=False)
        self.edge = nn.Linear(n_gaussians, 2 * channels, bias=False)
        self.norm_edges, self.norm_atoms = _Norm(2 * channels), _Norm(channels)

    def forward(self, atoms: Tensor, basis: Tensor, edges: Neighbours) -> Tensor:
        """Atom vectors ``[N, C]`` and edge vectors ``[E, G]`` to new atom vectors."""
        z = self.centre(atoms)[edges.centre] + self.neighbour(atoms)[edges.neighbour] + self.edge(basis)
        gate, core = self.norm_edges(z).chunk(2, -1)
        message = torch.sigmoid(gate) * functional.softplus(core) * edges.occupation.unsqueeze(-1)
        return functional.softplus(atoms + self.norm_atoms(segment_sum(message, edges.centre, len(atoms))))


class Cgcnn(nn.Module):
    """Formation energy in eV/atom from the graph of nearest neighbours; see the module's docstring.

    In evaluation mode a crystal's result does not depend on its batchmates.

    Args:
        channels: length of the atom vectors.
        layers: number of convolutions.
        hidden: length of the penultimate layer, which :meth:`features` returns.
        neighbours: k.
        cutoff: in Å.
        n_gaussians: Gaussians at even distances from 0 to the cutoff, each as wide as they are apart.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 3,
        hidden: int = 128,
        neighbours: int = 12,
        cutoff: float = 8.0,
        n_gaussians: int = 41,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.n_neighbours, self.cutoff = neighbours, cutoff
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, n_gaussians), persistent=False)
        self.convolutions = nn.ModuleList(GatedConvolution(channels, n_gaussians) for _ in range(layers))
        self.penultimate = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 1)

    def neighbours(self, batch: CrystalBatch) -> Neighbours:
        """The edges that this network reads; they can be found once and given to :meth:`forward` many times."""
        return nearest_neighbours(batch, k=self.n_neighbours, cutoff=self.cutoff)

    def features(self, batch: CrystalBatch, edges: Neighbours | None = None) -> Tensor:
        """Activations of the penultimate layer, ``[B, hidden]``: mean over atoms, softplus, linear, softplus."""
        edges = self.neighbours(batch) if edges is None else edges
        centres: Tensor = self.centres  # type: ignore[assignment]
        spacing = self.cutoff / (len(centres) - 1)
        basis = torch.exp(-(((edges.distance.unsqueeze(-1) - centres) / spacing) ** 2))
        atoms = self.embedding(batch.atomic_numbers)
        for layer in self.convolutions:
            atoms = layer(atoms, basis, edges)
        pooled = sum_per_crystal(atoms, batch) / batch.n_atoms.to(atoms.dtype).unsqueeze(-1)
        return functional.softplus(self.penultimate(functional.softplus(pooled)))

    def forward(self, batch: CrystalBatch, edges: Neighbours | None = None) -> Tensor:
        """Formation energy of each crystal in eV/atom, ``[B]``."""
        return self.out(self.features(batch, edges)).squeeze(-1)


def load_cgcnn(
    name_or_path: str | os.PathLike[str] = BUNDLED,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Cgcnn:
    """A trained CGCNN in evaluation mode.

    Args:
        name_or_path: bundled name, directory or hub repository.
        device: where it runs.
        dtype: float64 by default, in which batchmates change nothing even in the last printed digit.

    Raises:
        WeightsError: no such model, or one without a component ``cgcnn``.
    """
    from autoperi.hub.networks import load_pretrained_network

    network: Cgcnn = load_pretrained_network(COMPONENT, name_or_path)
    return network.to(device=device, dtype=dtype)
