"""EMPNN: equivariant message passing that acts on the lattice (Klipfel et al., AAAI 2023).

One pass reads a crystal and predicts an element of gl(3) as a weighted sum of vector fields; its exponential deforms
the lattice, ρ' = exp(A)·ρ (eqs. 10a and 10b), with fractional coordinates unchanged. With rows as lattice vectors, L =
ρᵀ, this is L' = L·exp(A)ᵀ.

Where a field is not symmetric, the deformation H = exp(A) turns the crystal as well as straining it. By the polar
decomposition H = R S the lattice Hρ is Sρ turned by R, and "rotation doesn't act on material properties": calling the
model gives the symmetric log S, rotation removed, which is what relaxers and losses use; :meth:`Empnn.deformation`
gives H itself, rotation kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import matrix_exp, symmetric_log
from autoperi.nn.backbone import Backbone, BackboneOutput
from autoperi.nn.config import config_of
from autoperi.nn.lattice_fields import LatticeField
from autoperi.nn.radial import polynomial_envelope
from autoperi.nn.two_graph import TwoGraph, TwoGraphInteraction, two_graph

UPDATES = ("exp", "first_order")


class Empnn(nn.Module):
    """Lattice relaxer; by default with the edge ket-bra field and messages on the 1-graph.

    Args:
        channels, layers, cutoff, n_radial, l_max: of the shared :class:`~autoperi.nn.backbone.Backbone`.
        max_strain: bound on the Frobenius norm of A, reached smoothly, so that no input can explode.
        fields: the union of vector fields that act on the lattice, see :mod:`autoperi.nn.lattice_fields`.
        update: ``exp``, or ``first_order`` for 1 + A instead of exp(A) (section 5.3).
        pair_layers: layers of message passing on the 2-graph (eqs. 8b and 9) after those of the backbone; 0 leaves
            messages on the 1-graph.
        pair_width: width of networks on the 2-graph.
        pair_reach: cutoff of the 2-graph in units of the cube root of the volume per atom, see
            :mod:`autoperi.nn.two_graph`.

    Raises:
        RequestError: an unknown field or update, or a bound that the first-order form cannot have.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 2,
        cutoff: float = 5.0,
        n_radial: int = 8,
        l_max: int = 2,
        max_strain: float = 1.0,
        fields: Sequence[str] = ("edge",),
        update: str = "exp",
        pair_layers: int = 0,
        pair_width: int = 32,
        pair_reach: float = 1.5,
    ) -> None:
        super().__init__()
        if update not in UPDATES:
            raise RequestError(f"update={update!r} is not known; choose of {', '.join(UPDATES)}")
        if update == "first_order" and not max_strain <= 0.9:
            raise RequestError(
                f"max_strain={max_strain} lets 1 + A become singular; give at most 0.9 with update='first_order'"
            )
        if not pair_reach > 0:
            raise RequestError(f"pair_reach={pair_reach!r} is not positive; give a length such as 1.5")
        self.config = config_of(locals())
        self.max_strain, self.update, self.pair_reach = max_strain, update, pair_reach
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.field = LatticeField(channels, n_radial, fields=fields, width=pair_width, cell_messages=pair_layers > 0)
        neighbours = 4.19 * pair_reach**3
        self.pair_interactions = nn.ModuleList(
            TwoGraphInteraction(channels, n_radial, pair_width, neighbours) for _ in range(pair_layers)
        )

    def forward(self, batch: CrystalBatch) -> Tensor:
        """The symmetric exponent log S of the deformation without its rotation, ``[B, 3, 3]``; L' = L·exp(log S).

        O(3) acts on it by conjugation, translations, permutations and SL3(Z) not at all (Proposition 4). For symmetric
        fields and ``update="exp"`` it is A of eq. 10 itself.
        """
        exponent = self.exponent(batch)
        if self.field.symmetric and self.update == "exp":
            return exponent
        deformation = self._deform(exponent)
        return 0.5 * symmetric_log(deformation.mT @ deformation)

    def deformation(self, batch: CrystalBatch) -> Tensor:
        """H = exp(A) or 1 + A with its rotation, ``[B, 3, 3]``, det H > 0; ρ' = H ρ, in rows L' = L·Hᵀ."""
        return self._deform(self.exponent(batch))

    def exponent(self, batch: CrystalBatch) -> Tensor:
        """A of eqs. 10a and 10b, bounded, ``[B, 3, 3]``: an element of gl(3), symmetric where all fields are."""
        geometry = self.backbone.geometry(batch)
        output = self.backbone.features(batch.atomic_numbers, geometry)
        graph: TwoGraph | None = None
        messages: Tensor | None = None
        if self.pair_interactions or self.field.pair_fields:
            graph = two_graph(batch, geometry, reach=self.pair_reach, cutoff=self.backbone.cutoff)
            scalars = output.scalars
            for layer in self.pair_interactions:
                scalars, messages = layer(scalars, graph)
            output = BackboneOutput(scalars, output.equivariant, geometry)
        envelope = polynomial_envelope(geometry.distances / self.backbone.cutoff)
        strain = self.field(output, batch, envelope, graph, messages)
        # scaling by the norm keeps the direction of A, hence equivariance, and bounds its eigenvalues
        norm = torch.sqrt((strain**2).sum((-1, -2), keepdim=True) + 1e-12)
        return strain * (self.max_strain * torch.tanh(norm / self.max_strain) / norm)

    def _deform(self, exponent: Tensor) -> Tensor:
        if self.update == "exp":
            return matrix_exp(exponent)
        return torch.eye(3, dtype=exponent.dtype, device=exponent.device) + exponent
