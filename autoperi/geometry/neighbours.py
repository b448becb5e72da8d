"""Neighbour lists with a skin: edges found once, reused while no pair can have entered the cutoff unseen."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.multigraph import Multigraph, edge_vectors, radius_graph
from autoperi.geometry.segments import segment_max, segment_sum


class NeighbourLists:
    """Edges within ``cutoff`` of crystals that move a little between calls.

    All pairs within cutoff + skin are kept from the last search and sorted out by distance at each call, so the edges
    are exactly those of :func:`~autoperi.geometry.multigraph.radius_graph`. A crystal is searched again when a pair
    might have come in: with F = L₀⁻¹L the deformation since the search and u the largest displacement on top of it
    (relative to the mean one), pairs within the cutoff now were within (cutoff + 2u)·‖F⁻¹‖₂ then, which must not exceed
    cutoff + skin. For a cell that rests this is the usual rule of half a skin.

    Atoms and their order must stay the same, and coordinates must not be wrapped between calls (wrapping is harmless
    but costs a search).

    Args:
        cutoff: in Å.
        skin: in Å; 0 searches at every call.

    Attributes:
        searches: crystals searched so far.

    Raises:
        RequestError: a cutoff or skin that is not a sensible number.
    """

    def __init__(self, cutoff: float, *, skin: float = 0.5) -> None:
        if not all(isinstance(x, numbers.Real) for x in (cutoff, skin)) or not cutoff > 0 or not 0 <= skin <= 10:
            raise RequestError(
                f"cutoff={cutoff!r} Å and skin={skin!r} Å make no neighbour list; give a positive cutoff and a skin "
                "of 0 to 10 Å"
            )
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.searches = 0
        self._lattice: Tensor | None = None
        self._frac = torch.zeros(0, 3)
        self._edges: list[tuple[Tensor, Tensor]] = []
        self._joined: Multigraph | None = None

    def edges(self, batch: CrystalBatch) -> tuple[Multigraph, Tensor]:
        """The multigraph within the cutoff and its edge vectors in Å, ``[E, 3]``."""
        stale = self._stale(batch)
        if bool(stale.any()):
            self._search(batch, stale)
        if self._joined is None:
            offsets = batch.offsets.tolist()
            self._joined = Multigraph(
                torch.cat([index + start for (index, _), start in zip(self._edges, offsets, strict=True)], 1),
                torch.cat([shift for _, shift in self._edges]),
                int(batch.frac_coords.shape[0]),
            )
        vectors = edge_vectors(batch, self._joined)
        near = ((vectors * vectors).sum(-1) < self.cutoff**2).nonzero().squeeze(-1)
        graph = Multigraph(self._joined.edge_index[:, near], self._joined.edge_shift[near], self._joined.n_nodes)
        return graph, vectors[near]

    def keep(self, batch: CrystalBatch, chosen: Sequence[int]) -> None:
        """Forget all crystals but the ``chosen`` ones of ``batch``, the batch of the last call."""
        if self._lattice is not None:
            rest = CrystalBatch(self._lattice, self._frac, batch.atomic_numbers, batch.n_atoms)[
                torch.as_tensor(chosen, dtype=torch.long)
            ]
            self._lattice, self._frac = rest.lattice, rest.frac_coords
            self._edges = [self._edges[k] for k in chosen]
            self._joined = None

    def _stale(self, batch: CrystalBatch) -> Tensor:
        every = torch.ones(len(batch), dtype=torch.bool, device=batch.lattice.device)
        if (
            self._lattice is None
            or self._lattice.shape != batch.lattice.shape
            or self._frac.shape != batch.frac_coords.shape
        ):
            return every
        # u = x - x₀F, which is the change of fractional coordinates in the cell as it is now
        moved = torch.einsum("ni,nij->nj", batch.frac_coords - self._frac, batch.lattice[batch.batch])
        mean = segment_sum(moved, batch.batch, len(batch)) / batch.n_atoms.unsqueeze(-1)
        distance = torch.linalg.vector_norm(moved - mean[batch.batch], dim=-1)
        largest = segment_max(distance, batch.batch, len(batch))
        if torch.equal(batch.lattice, self._lattice):
            return ~(2 * largest < self.skin)  # NaN is stale
        back = torch.linalg.matrix_norm(torch.linalg.solve(batch.lattice, self._lattice), ord=2)
        return ~((self.cutoff + 2 * largest) * back < self.cutoff + self.skin)

    def _search(self, batch: CrystalBatch, stale: Tensor) -> None:
        chosen = stale.nonzero().squeeze(-1)
        part = batch[chosen]
        self.searches += len(part)
        graph = radius_graph(part, self.cutoff + self.skin)
        owner = part.batch[graph.edge_index[0]]
        counts = torch.bincount(owner, minlength=len(part)).tolist()
        indices, shifts = graph.edge_index.split(counts, 1), graph.edge_shift.split(counts)
        found = [
            (index - start, shift) for index, shift, start in zip(indices, shifts, part.offsets.tolist(), strict=True)
        ]
        if len(found) == len(batch):
            self._edges, self._lattice, self._frac = found, batch.lattice.clone(), batch.frac_coords.clone()
        else:
            assert self._lattice is not None
            for k, edges in zip(chosen.tolist(), found, strict=True):
                self._edges[k] = edges
            atoms = stale[batch.batch]
            self._lattice = torch.where(stale.view(-1, 1, 1), batch.lattice, self._lattice)
            self._frac = torch.where(atoms.unsqueeze(-1), batch.frac_coords, self._frac)
        self._joined = None
