"""The potential: total energy as a sum over atoms on the shared backbone; forces and stress are its derivatives.

E = Σ_i [E₀(Z_i) + ε(h_i)] + Σ_(i<j) ZBL(Z_i, Z_j, r_ij) (AutoPeri-GNN, section 3.2.3: an invariant scalar head). The
sum over atoms makes the energy size-extensive; the envelope of the radial basis, with two vanishing derivatives at the
cutoff, makes it smooth there. The energy is a function of the edge vectors alone, and forces and stress are taken with
respect to them. The screened nuclear repulsion (Ziegler, Biersack, Littmark 1985) acts only below the sum of two
covalent radii: it keeps atoms apart where no training frame was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.data.elements import covalent_radii, symbol_of
from autoperi.errors import StructureError
from autoperi.geometry.multigraph import Multigraph, edge_vectors, radius_graph
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import Backbone
from autoperi.nn.config import config_of
from autoperi.nn.heads import ScalarHead, sum_per_crystal
from autoperi.nn.radial import polynomial_envelope
from autoperi.units import MAX_ATOMIC_NUMBER

COULOMB_EV_A = 14.399645
"""e²/(4πε₀) in eV·Å."""
ZBL_LENGTH_A = 0.8854 * 0.529177210903
_ZBL_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_ZBL_DECAYS = (3.1998, 0.94229, 0.4029, 0.20162)


class Evaluation(NamedTuple):
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
    seen: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 3,
        cutoff: float = 5.0,
        n_radial: int = 8,
        l_max: int = 2,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.head = ScalarHead(channels, hidden=hidden)
        self.reference = nn.Parameter(torch.zeros(MAX_ATOMIC_NUMBER + 1))
        radii = torch.tensor(covalent_radii(), dtype=torch.float32)
        radii[0] = 0.0  # no element
        self.register_buffer("radii", radii)
        self.register_buffer("seen", torch.ones(MAX_ATOMIC_NUMBER + 1, dtype=torch.bool))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.setdefault(f"{prefix}seen", self.seen)  # checkpoints older than this buffer
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def cutoff(self) -> float:
        """Radius of the multigraph in Å."""
        return self.backbone.cutoff

    def set_seen(self, atomic_numbers: Tensor) -> None:
        """Record that the training set held exactly these elements; new networks claim to know all."""
        self.seen.zero_()
        self.seen[atomic_numbers.unique().to(self.seen.device)] = True

    def check_elements(self, atomic_numbers: Tensor) -> None:
        """Refuse elements that no training frame held, of which the network knows nothing.

        Raises:
            StructureError: the message lists them.
        """
        numbers = torch.as_tensor(atomic_numbers).unique().to(self.seen.device)
        unknown = numbers[~self.seen[numbers]].tolist()
        if unknown:
            names = ", ".join(map(symbol_of, unknown))
            raise StructureError(
                f"the potential was never trained on {names}; leave these elements out, or use another potential"
            )

    def edge_energies(
        self, atomic_numbers: Tensor, graph: Multigraph, vectors: Tensor, *, once: bool = False
    ) -> Tensor:
        """Energies of atoms ``[N]`` in eV from edge vectors ``[E, 3]`` in Å; edges beyond the cutoff count for nothing.

        ``once``: only first derivatives with respect to the vectors will be asked for.
        """
        output = self.backbone.features(atomic_numbers, self.backbone.geometry_of(graph, vectors), once=once)
        energies = self.head(output).squeeze(-1) + self.reference[atomic_numbers]
        return energies + self._repulsion(atomic_numbers, graph, output.geometry.distances)

    def forward(
        self,
        batch: CrystalBatch,
        *,
        graph: Multigraph | None = None,
        vectors: Tensor | None = None,
        derivatives: bool = True,
        create_graph: bool = False,
    ) -> Evaluation:
        """Energies, and by autograd forces and stress.

        With g_e = ∂E/∂v_e of the edge e from atom i to (j, τ): F_i = Σ_(e from i) g_e - Σ_(e to i) g_e, and the
        symmetric stress σ = (1/V) Σ_e v_e ⊗ g_e, which is (1/V) ∂E/∂ε of the strain that takes L to L(1 + ε).

        A batch in float64 and a network in float32 go together: vectors are formed, and energies and forces added up,
        in the batch's precision.

        Args:
            batch: B crystals.
            graph: their edges within the cutoff, if they are known.
            vectors: of these edges in Å, ``[E, 3]``, if they are known.
            derivatives: give forces and stress.
            create_graph: keep the derivatives differentiable, for training on them.
        """
        graph = radius_graph(batch, self.cutoff) if graph is None else graph
        vectors = (edge_vectors(batch, graph) if vectors is None else vectors).detach()
        kind, own = vectors.dtype, self.reference.dtype
        if not derivatives:
            energies = self.edge_energies(batch.atomic_numbers, graph, vectors.to(own)).to(kind)
            return Evaluation(sum_per_crystal(energies, batch), energies, None, None)
        with torch.enable_grad():
            leaf = vectors.to(own).clone().requires_grad_()
            energies = self.edge_energies(batch.atomic_numbers, graph, leaf, once=not create_graph)
            (slopes,) = torch.autograd.grad(energies.sum(), leaf, create_graph=create_graph, materialize_grads=True)
            slopes, energies = slopes.to(kind), energies.to(kind)
            i, j = graph.edge_index
            forces = segment_sum(slopes, i, graph.n_nodes).index_add(0, j, -slopes)
            pressure = segment_sum(torch.einsum("ea,eb->eab", vectors, slopes), i, graph.n_nodes)
            virial = sum_per_crystal(pressure, batch)
            stress = 0.5 * (virial + virial.transpose(1, 2)) / batch.volume.detach().view(-1, 1, 1)
        return Evaluation(sum_per_crystal(energies, batch), energies, forces, stress)

    def _repulsion(self, numbers: Tensor, graph: Multigraph, distance: Tensor) -> Tensor:
        """ZBL energy of each atom's half of its pairs in eV, ``[N]``; zero beyond the sum of covalent radii."""
        i, j = graph.edge_index
        # two francium atoms would reach beyond the cutoff, where there are no edges
        reach = (self.radii[numbers[i]] + self.radii[numbers[j]]).clamp(max=self.cutoff)
        near = (distance < reach).nonzero().squeeze(-1)
        if not len(near):
            return torch.zeros(len(numbers), dtype=distance.dtype, device=distance.device)
        i, j, r, reach = i[near], j[near], distance[near].clamp(min=1e-3), reach[near]
        zi, zj = numbers[i].to(r.dtype), numbers[j].to(r.dtype)
        x = r * (zi**0.23 + zj**0.23) / ZBL_LENGTH_A
        screening = torch.zeros_like(r)
        for weight, decay in zip(_ZBL_WEIGHTS, _ZBL_DECAYS, strict=True):
            screening = screening + weight * torch.exp(-decay * x)
        pair = COULOMB_EV_A * zi * zj / r * screening * polynomial_envelope(r / reach)
        return segment_sum(0.5 * pair, i, len(numbers))
