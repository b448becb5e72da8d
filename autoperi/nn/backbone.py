"""The equivariant backbone that all models share.

Nodes carry features of irreps ``C x 0e + C x 1o + C x 2e`` (e3nn). One layer is

    A_i^{lm,c}  = Σ_(j,τ) R^{l,c}(r_ij) Y_lm(u_ij) s_j^c                  (message, EMPNN eq. 8a)
    s_i        += MLP(s_i, {⟨(W A)_i^l, (W' A)_i^l⟩}_l)                    (update,  EMPNN eq. 9)

R is linear in a Bessel basis, Y are e3nn's spherical harmonics, W mixes channels of one l, and the bracket is the
invariant inner product over m: it holds distances at l = 0 and angles at l > 0. Because R is linear, the sum over
neighbours is one dense matrix product per atom over a geometry tensor that all layers share, which is what makes a
CPU fast. Everything depends on edge vectors alone, hence invariant or equivariant under Euc(3) × S_n × SL3(Z)
(EMPNN, Propositions 1, 2 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.multigraph import Multigraph, edge_vectors, radius_graph
from autoperi.nn.mlp import mlp
from autoperi.nn.radial import BesselBasis
from autoperi.units import MAX_ATOMIC_NUMBER

MEAN_VOLUME_PER_ATOM = 20.0
"""Å³ an atom to which networks that know an element's size scale a crystal before a backbone reads it, so that a cutoff
holds about as many neighbours in every crystal: the mean of Materials Project.
"""


@dataclass(frozen=True, eq=False)
class EdgeGeometry:
    """What a layer needs of the edges.

    Attributes:
        graph: the multigraph.
        vectors: edge vectors in Å, ``[E, 3]``.
        distances: their lengths in Å, ``[E]``.
        radial: radial basis, ``[E, R]``.
        neighbours: padded neighbour table, ``[N, K]``.
        operator: radial basis times spherical harmonics, zero where padded, ``[N, R·(l_max+1)², K]``.
    """

    graph: Multigraph
    vectors: Tensor
    distances: Tensor
    radial: Tensor
    neighbours: Tensor
    operator: Tensor


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """Node features and the geometry they came from.

    Attributes:
        scalars: invariant node features, ``[N, C]``.
        equivariant: the last layer's features per l, each ``[N, 2l+1, C]``.
        geometry: the edges, for heads that act on them.
    """

    scalars: Tensor
    equivariant: list[Tensor]
    geometry: EdgeGeometry


class _Sums(torch.autograd.Function):
    """Σ_k Σ_r W[m, r, c] operator[n, mr, k] source[neighbour(n, k), c], a few atoms at a time, so that temporaries stay
    in the cache.

    What a network that is only evaluated needs: first derivatives with respect to operator and source.

    n counts atoms, k the places of its neighbour table, m the components of all l, r radial functions and c channels.
    """

    CHUNK_BYTES = 1 << 20

    @staticmethod
    def forward(ctx: Any, operator: Tensor, source: Tensor, neighbours: Tensor, weight: Tensor) -> Tensor:
        n, c = source.shape
        out = source.new_empty(n, weight.shape[0], c)
        for part in _Sums.parts(n, weight):
            # [n, k, c]: places that are padded read atom 0, and count for nothing because the operator is zero there
            gathered = source.index_select(0, neighbours[part].reshape(-1)).view(-1, neighbours.shape[1], c)
            # the sum over neighbours is one matrix product an atom, [n, mr, k] @ [n, k, c], before W mixes r into m
            summed = torch.bmm(operator[part], gathered).view(-1, *weight.shape)
            torch.sum(summed.mul_(weight), 2, out=out[part])
        ctx.save_for_backward(operator, source, neighbours, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        operator, source, neighbours, weight = ctx.saved_tensors
        n, c = source.shape
        by_operator, by_source = torch.empty_like(operator), torch.zeros_like(source)
        for part in _Sums.parts(n, weight):
            places = neighbours[part].reshape(-1)
            # the derivative with respect to Σ_k, [n, mr, c]: the gradient of each m goes to all its radial functions
            by_sum = (grads[0][part].unsqueeze(2) * weight).flatten(1, 2)
            gathered = source.index_select(0, places).view(-1, neighbours.shape[1], c)
            torch.bmm(by_sum, gathered.transpose(1, 2), out=by_operator[part])
            # an atom is the neighbour of many others, whose contributions add up
            by_source.index_add_(0, places, torch.bmm(operator[part].transpose(1, 2), by_sum).view(-1, c))
        return by_operator, by_source, None, None

    @staticmethod
    def parts(n: int, weight: Tensor) -> list[slice]:
        on_cpu = weight.device.type == "cpu"
        size = max(1, _Sums.CHUNK_BYTES // (weight.numel() * weight.element_size()) if on_cpu else n)
        return [slice(start, start + size) for start in range(0, n, size)]


class Interaction(nn.Module):
    """One message-passing layer; see the module's docstring."""

    def __init__(self, channels: int, n_radial: int, l_max: int, neighbours: float) -> None:
        super().__init__()
        self.n_radial, self.l_max = n_radial, l_max
        self.scale = neighbours**-0.5
        self.source = nn.Linear(channels, channels, bias=False)
        self.radial = nn.Parameter(torch.randn(l_max + 1, n_radial, channels) * n_radial**-0.5)
        self.left = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(l_max + 1))
        self.right = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(l_max + 1))
        self.update = mlp((l_max + 2) * channels, 2 * channels, channels, norm=True)

    def forward(self, scalars: Tensor, geometry: EdgeGeometry, *, once: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Scalars ``[N, C]`` to updated scalars and the equivariant features per l, each ``[N, 2l+1, C]``.

        ``once`` says that neither second derivatives nor those of the weights will be asked for, which saves time and
        memory.
        """
        n, c = scalars.shape
        widths = [2 * ell + 1 for ell in range(self.l_max + 1)]
        # one R for each l serves all its 2l + 1 components, which keeps the layer equivariant; [(l_max+1)², R, C]
        expanded = [weight.expand(width, -1, -1) for weight, width in zip(self.radial.split(1), widths, strict=True)]
        radial = torch.cat(expanded) * self.scale
        source = self.source(scalars)
        if once or not torch.is_grad_enabled():
            sums = _Sums.apply(geometry.operator, source, geometry.neighbours, radial)
        else:
            # index_select and a product with a sum are several times faster on a CPU than indexing and einsum
            gathered = source.index_select(0, geometry.neighbours.reshape(-1)).view(n, -1, c)  # [N, K, C]
            sums = (torch.bmm(geometry.operator, gathered).view(n, -1, self.n_radial, c) * radial).sum(2)
        features = [f.contiguous() for f in sums.split(widths, 1)]
        # a feature of l = 0 is invariant as it is; of l > 0 only inner products over m are
        invariants = [scalars, self.left[0](features[0])[:, 0]]
        for left, right, f in list(zip(self.left, self.right, features, strict=True))[1:]:
            invariants.append((left(f) * right(f)).sum(1))
        return scalars + self.update(torch.cat(invariants, -1)), features


class Backbone(nn.Module):
    """Element embedding followed by :class:`Interaction` layers.

    Args:
        channels: C, features per irrep.
        layers: number of interactions.
        cutoff: radius of the multigraph in Å.
        n_radial: Bessel functions.
        l_max: largest angular momentum, 0 to 3.
        neighbours: mean number of neighbours, a constant that keeps sums of order one.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 3,
        cutoff: float = 5.0,
        n_radial: int = 8,
        l_max: int = 2,
        neighbours: float = 30.0,
    ) -> None:
        super().__init__()
        self.channels, self.cutoff, self.l_max = channels, cutoff, l_max
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.basis = BesselBasis(n_radial, cutoff)
        self.interactions = nn.ModuleList(Interaction(channels, n_radial, l_max, neighbours) for _ in range(layers))

    def geometry(self, batch: CrystalBatch, graph: Multigraph | None = None) -> EdgeGeometry:
        """Edges of the batch within the cutoff, with everything that layers share."""
        graph = radius_graph(batch, self.cutoff) if graph is None else graph
        return self.geometry_of(graph, edge_vectors(batch, graph))

    def geometry_of(self, graph: Multigraph, vectors: Tensor) -> EdgeGeometry:
        """As :meth:`geometry`, from edge vectors in Å, ``[E, 3]``, in the order of the edges of ``graph``."""
        distances = torch.linalg.vector_norm(vectors, dim=-1)
        radial = self.basis(distances)
        harmonics = o3.spherical_harmonics(list(range(self.l_max + 1)), vectors, normalize=True, normalization="norm")
        place, width = graph.slots()
        centre, neighbour = graph.edge_index
        # a table of as many columns as the largest degree, so that sums over neighbours are matrix products
        neighbours = torch.zeros(graph.n_nodes, width, dtype=torch.long, device=vectors.device)
        neighbours[centre, place] = neighbour
        product = (harmonics.unsqueeze(-1) * radial.unsqueeze(-2)).flatten(1)  # [E, (l_max+1)² R]
        operator = torch.zeros(graph.n_nodes, width, product.shape[1], dtype=product.dtype, device=product.device)
        # contiguous for fast products
        operator = operator.index_put((centre, place), product).transpose(1, 2).contiguous()
        return EdgeGeometry(graph, vectors, distances, radial, neighbours, operator)

    def forward(self, batch: CrystalBatch, graph: Multigraph | None = None) -> BackboneOutput:
        """Features of every atom of the batch."""
        return self.features(batch.atomic_numbers, self.geometry(batch, graph))

    def features(
        self, atomic_numbers: Tensor, geometry: EdgeGeometry, *, once: bool = False, condition: Tensor | None = None
    ) -> BackboneOutput:
        """Features of atoms ``[N]`` from the geometry of their edges.

        Args:
            atomic_numbers: ``[N]``.
            geometry: their edges.
            once: as in :class:`Interaction`.
            condition: invariants added to the embeddings, ``[N, C]``: a time, a latent vector.
        """
        scalars = self.embedding(atomic_numbers)
        if condition is not None:
            scalars = scalars + condition
        equivariant: list[Tensor] = []
        for layer in self.interactions:
            scalars, equivariant = layer(scalars, geometry, once=once)
        return BackboneOutput(scalars, equivariant, geometry)
