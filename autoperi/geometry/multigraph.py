"""The periodic multigraph of a crystal: edges (i, j, τ) with vectors v = (x_j - x_i + τ)·L.

EMPNN (Klipfel et al. 2023), Definition 6: nodes are atoms, an edge is a pair of atoms and an integer lattice shift,
and two atoms may share many edges. Indices and shifts are found without gradients; vectors are recomputed from them
(:func:`edge_vectors`), so that energies are differentiable in positions and lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.reduction import reduce_basis
from autoperi.geometry.segments import chunks, ranges

LARGE_CELL = 150
"""Atoms from which a crystal goes through vesin's cell list (linear) instead of the batched all-images search."""

_CHUNK = 4_000_000  # candidate pairs looked at in one go: 4e6 × 3 float64 stay below 100 MB


@dataclass(frozen=True, eq=False)
class Multigraph:
    """Edges of a batch, sorted by centre atom.

    Attributes:
        edge_index: centre i and neighbour j, ``[2, E]``.
        edge_shift: integer lattice shift τ of the neighbour in the crystal's own basis, ``[E, 3]``.
        n_nodes: number of atoms N of the batch.
    """

    edge_index: Tensor
    edge_shift: Tensor
    n_nodes: int

    @property
    def n_edges(self) -> int:
        """E."""
        return int(self.edge_index.shape[1])

    def degrees(self) -> Tensor:
        """Number of neighbours of each atom, ``[N]``."""
        return torch.bincount(self.edge_index[0], minlength=self.n_nodes)

    def slots(self) -> tuple[Tensor, int]:
        """Place of each edge among its centre's edges, ``[E]``, and the largest degree (at least 1)."""
        return places(self.edge_index[0], self.n_nodes)


def places(centre: Tensor, n_nodes: int) -> tuple[Tensor, int]:
    """Place of each edge among its centre's edges, ``[E]``, and the largest degree (at least 1); edges are sorted by
    ``centre`` ``[E]``.
    """
    degrees = torch.bincount(centre, minlength=n_nodes)
    start = torch.cumsum(degrees, 0) - degrees
    # edges of one centre are neighbours in the list, so a place is the distance from the first of them
    place = torch.arange(len(centre), device=degrees.device) - start[centre]
    return place, max(1, int(degrees.max()) if len(degrees) else 1)


def edge_vectors(batch: CrystalBatch, graph: Multigraph) -> Tensor:
    """Cartesian edge vectors v_ij^τ = (x_j - x_i + τ)·L in Å, ``[E, 3]``, differentiable in coordinates and lattice."""
    i, j = graph.edge_index
    fractional = batch.frac_coords[j] - batch.frac_coords[i] + graph.edge_shift.to(batch.frac_coords.dtype)
    return torch.einsum("ei,eij->ej", fractional, batch.lattice[batch.batch[i]])


def radius_graph(batch: CrystalBatch, cutoff: float, *, centres: Tensor | None = None) -> Multigraph:
    """All pairs of atoms and images closer than ``cutoff`` (Å), for any skew, size or mixture of cells.

    Args:
        batch: B crystals; lattices may be of either handedness.
        cutoff: radius in Å, positive.
        centres: whose neighbours are wanted, ``[N]`` bool; None is every atom's.

    Returns:
        The multigraph; self-images (i, i, τ ≠ 0) are edges, (i, i, 0) is not. No edges at all is a valid answer.
    """
    if not cutoff > 0:
        raise StructureError(f"cutoff={cutoff!r} Å is not positive; give a radius such as 5.0")
    large = (batch.n_atoms >= LARGE_CELL).tolist()
    if not any(large):
        index, shift, _ = _search(batch, cutoff, centres)
        return _sorted(index, shift, int(batch.frac_coords.shape[0]))
    indices, shifts = [], []
    for b, (offset, is_large) in enumerate(zip(batch.offsets.tolist(), large, strict=True)):
        own = None if centres is None else centres[batch.batch == b]
        if is_large:
            index, shift = _search_large(batch[b], cutoff)
            if own is not None:
                index, shift = index[:, own[index[0]]], shift[own[index[0]]]
        else:
            index, shift, _ = _search(batch[b], cutoff, own)
        indices.append(index + offset)
        shifts.append(shift)
    return _sorted(torch.cat(indices, 1), torch.cat(shifts), int(batch.frac_coords.shape[0]))


def nearest_images_graph(batch: CrystalBatch, k: int, *, tolerance: float = 1e-3) -> Multigraph:
    """The ``k`` nearest images of each atom, and all that tie with the k-th within ``tolerance`` (Å).

    Ties are kept whole: cutting a shell would make the graph depend on the order of atoms and on the lattice basis.
    """
    if k < 1:
        raise StructureError(f"k={k!r} neighbours is not positive; give at least 1")
    # a ball that holds k + 1 atoms on average in the sparsest crystal, half as wide again; it grows until it suffices
    density = batch.n_atoms / batch.volume.detach().to(torch.float64)
    radius = float((3 * (k + 1) / (4 * torch.pi * density)).max() ** (1 / 3)) * 1.5
    n = int(batch.frac_coords.shape[0])
    while True:
        index, shift, distance = _search(batch, radius)
        if n == 0 or int(torch.bincount(index[0], minlength=n).min()) >= k:
            break
        radius *= 1.4
    # a stable sort by centre after one by distance: the edges of each atom, nearest first
    order = torch.argsort(distance, stable=True)
    order = order[torch.argsort(index[0][order], stable=True)]
    index, shift, distance = index[:, order], shift[order], distance[order]
    limit = distance[places(index[0], n)[0] == k - 1] + tolerance
    keep = distance <= limit[index[0]]
    return _sorted(index[:, keep], shift[keep], n)


def triplets(graph: Multigraph) -> Tensor:
    """Ordered pairs of different edges that leave the same atom, ``[2, T]`` (the 2-graph Γ₂ of EMPNN, Definition 6)."""
    degrees = graph.degrees()
    start = torch.cumsum(degrees, 0) - degrees
    centre = graph.edge_index[0]
    # each edge is paired with all edges of its centre, and the pair of an edge with itself is left out at the end
    first = torch.repeat_interleave(torch.arange(graph.n_edges, device=centre.device), degrees[centre])
    second = ranges(start[centre], degrees[centre])
    keep = first != second
    return torch.stack([first[keep], second[keep]])


def _sorted(index: Tensor, shift: Tensor, n: int) -> Multigraph:
    # centre, then neighbour, then shift: one order whatever the search, so that sums run in one order too
    key = (index[0] * n + index[1]) if n else index[0]
    order = torch.argsort(key, stable=True)
    return Multigraph(index[:, order], shift[order], n)


def _search(batch: CrystalBatch, cutoff: float, centres: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Edges by trying every image within reach, in float64 and in a reduced basis; crystals in chunks."""
    lattice = batch.lattice.detach().to(torch.float64)
    transform = reduce_basis(lattice)
    inverse = torch.linalg.inv(transform).round()
    reduced = transform @ lattice
    heights = 1.0 / torch.linalg.vector_norm(torch.linalg.inv(reduced), dim=1)  # distances between lattice planes
    # differences are wrapped to [-1/2, 1/2], so an image τ can be within reach only if |τ| - 1/2 <= cutoff / height
    reach = torch.floor(cutoff / heights + 0.5).to(torch.long)
    images = (2 * reach + 1).prod(-1)
    work = (batch.n_atoms**2 * images).tolist()
    frac = torch.einsum("ni,nij->nj", batch.frac_coords.detach().to(torch.float64), inverse[batch.batch])
    # crystals are taken together as long as all their pairs and images fit into memory; one alone may be larger
    found = [
        _search_chunk(batch, frac, reduced, reach, cutoff, part, centres)
        for part in chunks(work, _CHUNK) or [slice(0, 0)]
    ]
    index, shift, distance = (torch.cat(parts, -1 if k == 0 else 0) for k, parts in enumerate(zip(*found, strict=True)))
    # a shift τ' of the reduced basis is τ = τ'·T in the crystal's own
    shift = torch.einsum("ei,eij->ej", shift, transform[batch.batch[index[0]]]).round().to(torch.long)
    return index, shift, distance


def _search_chunk(
    batch: CrystalBatch,
    frac: Tensor,
    reduced: Tensor,
    reach: Tensor,
    cutoff: float,
    part: slice,
    centres: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges, shifts in the reduced basis and distances of the crystals of ``part``.

    Crystals have different numbers of pairs and of images, so nothing is padded: a flat list of pairs and one of images
    are made first, then each pair is joined with all images of its own crystal.
    """
    device = frac.device
    counts, offsets, reach, reduced = batch.n_atoms[part], batch.offsets[part], reach[part], reduced[part]
    # all ordered pairs (i, j) of each crystal: ``place`` counts from 0 to n² - 1, and is read as a number of two digits
    n_pairs = counts**2
    crystal = torch.repeat_interleave(torch.arange(len(counts), device=device), n_pairs)
    place = ranges(torch.zeros_like(n_pairs), n_pairs)
    i = offsets[crystal] + torch.div(place, counts[crystal], rounding_mode="floor")
    j = offsets[crystal] + place % counts[crystal]
    if centres is not None:
        wanted = centres[i]
        i, j, crystal = i[wanted], j[wanted], crystal[wanted]
    # the nearest image of j is the one that τ = 0 means; what was taken off is put back into the shifts at the end
    difference = frac[j] - frac[i]
    wrap = torch.round(difference)
    difference = difference - wrap
    # all images of each crystal: ``flat`` is read as a number of three digits, from -reach to +reach along each axis
    spans = 2 * reach + 1
    n_images = spans.prod(-1)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=device), n_images)
    flat = ranges(torch.zeros_like(n_images), n_images)
    span = spans[owner]
    tau = torch.stack([flat // (span[:, 1] * span[:, 2]), (flat // span[:, 2]) % span[:, 1], flat % span[:, 2]], -1)
    tau = (tau - reach[owner]).to(torch.float64)
    shift_vectors = torch.einsum("ti,tij->tj", tau, reduced[owner])
    vectors = torch.einsum("pi,pij->pj", difference, reduced[crystal])
    # pairs × images, each pair with those of its own crystal
    per_pair = n_images[crystal]
    pair = torch.repeat_interleave(torch.arange(len(crystal), device=device), per_pair)
    image = ranges((torch.cumsum(n_images, 0) - n_images)[crystal], per_pair)
    square = ((vectors[pair] + shift_vectors[image]) ** 2).sum(-1)
    # an atom is no neighbour of itself, but of its own images
    itself = (i[pair] == j[pair]) & ((tau[image] - wrap[pair]).abs().sum(-1) == 0)
    keep = ((square < cutoff**2) & ~itself).nonzero().squeeze(-1)
    pair, image = pair[keep], image[keep]
    return torch.stack([i[pair], j[pair]]), tau[image] - wrap[pair], square[keep].sqrt()


def _search_large(crystal: CrystalBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """One large cell through vesin's linear-scaling cell list."""
    from vesin import NeighborList

    device = crystal.lattice.device
    points = crystal.cart_coords.detach().to(device="cpu", dtype=torch.float64).numpy()
    box = crystal.lattice[0].detach().to(device="cpu", dtype=torch.float64).numpy()
    i, j, shift = NeighborList(cutoff=float(cutoff), full_list=True).compute(
        points=points, box=box, periodic=True, quantities="ijS"
    )
    index = torch.stack([torch.as_tensor(a.astype("int64")) for a in (i, j)])
    return index.to(device), torch.as_tensor(shift.astype("int64")).to(device)
