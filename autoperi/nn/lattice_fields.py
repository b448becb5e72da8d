"""Vector fields that deform a lattice: EMPNN, Definition 8 and eqs. 5-7, summed with learned weights into the exponent
of eq. 10.

A field gives every edge γ or pair of edges (γ, γ') a matrix λ of gl(3), which acts on columns: ρ̇ = λ ρ, where ρ = Lᵀ.
With u and v = r u the unit and the full edge vector, u' and v' = r' u' those of γ', both from the common atom, θ the
angle between them and 𝒜 the area of their triangle:

    edge               |u⟩⟨u|                                     on Γ₁
    distance           ∂r/∂ρ = |u⟩⟨v|                             on Γ₁, eq. 6
    triplet_edge       |u⟩⟨u|                                     on Γ₂
    triplet            |u⟩⟨u'|                                    on Γ₂
    triplet_distance   ∂r/∂ρ = |u⟩⟨v|                             on Γ₂
    angle              ∂θ/∂ρ · sin θ                             on Γ₂
    angle_as_printed   (|ω×u'⟩⟨v'| - |ω×u⟩⟨v|) · sin θ            on Γ₂, eq. 7, ω the unit normal
    area               ∂𝒜/∂ρ · sin θ                             on Γ₂

and each of them with ``_symmetric`` at its end is ½(λ + λᵀ), but for ``triplet_symmetric``, which is Definition 8's
|u⟩⟨u'| + |u'⟩⟨u|. Pairs are ordered both ways, so the fields of γ' are those of γ in the other pair and need no names.

What the paper leaves open, and how it is settled here:

- *Gradients in ρ.* Written in lattice coordinates, ∂r/∂ρ is |u⟩⟨e| with e = ρ⁻¹v (eq. 6), which changes with the
  choice of basis and fails the condition of Proposition 4. The gradients here are those with respect to the action of
  the group, d/dt f(exp(tX)ρ) = ⟨λ, X⟩, which turn e into v = ρe; they are invariant under SL3(Z).
- *Plain or symmetrised.* r, θ and 𝒜 do not change when the crystal is turned, so their gradients are orthogonal to all
  antisymmetric X: they are symmetric matrices already, and the symmetrised field is the same one. Only |u⟩⟨u'| and eq.
  7 as it is printed have an antisymmetric part.
- *Equation 7.* The derivative of θ is |ω×u'⟩⟨u'| - |ω×u⟩⟨u|, with u where eq. 7 prints ρe = v. ``angle`` is the
  derivative.
- *The factor sin θ.* ω does not exist for collinear edges, which crystals are full of. Times sin θ all three fields are
  polynomials in u and u', zero or well defined there; the learned weight, a function of θ, takes the factor up.

Every field of a pair is a combination a|u⟩⟨u| + b|u'⟩⟨u'| + c|u⟩⟨u'| + d|u'⟩⟨u| whose coefficients are functions of
r, r' and cos θ. So a union of fields costs hardly more than one: weights and coefficients are added up first, then
matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import VOIGT, symmetric_matrix
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import BackboneOutput
from autoperi.nn.two_graph import EdgePairNetwork, TwoGraph

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
SYMMETRIC = "_symmetric"


EDGE_FIELDS = ("edge", "distance")
_PAIRS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor | float, ...]]] = {
    # a, b, c, d from r, s = r' and the cosine of the angle
    "triplet_edge": lambda r, s, cos: (1.0, 0.0, 0.0, 0.0),  # noqa: ARG005
    "triplet": lambda r, s, cos: (0.0, 0.0, 1.0, 0.0),  # noqa: ARG005
    "triplet_symmetric": lambda r, s, cos: (0.0, 0.0, 1.0, 1.0),  # noqa: ARG005
    "triplet_distance": lambda r, s, cos: (r, 0.0, 0.0, 0.0),  # noqa: ARG005
    # sin θ ω×u' = (u×u')×u' = cos θ u' - u, and sin θ ω×u = u' - cos θ u
    "angle": lambda r, s, cos: (cos, cos, -1.0, -1.0),  # noqa: ARG005
    "angle_as_printed": lambda r, s, cos: (r * cos, s * cos, -s, -r),
    # ∂𝒜/∂ρ = 𝒜 times the projector on the plane of the triangle, which is (|u⟩⟨u| + |u'⟩⟨u'| - cos θ (|u⟩⟨u'| +
    # |u'⟩⟨u|)) / sin² θ
    "area": lambda r, s, cos: (0.5 * r * s, 0.5 * r * s, -0.5 * r * s * cos, -0.5 * r * s * cos),
}
PAIR_FIELDS = tuple(_PAIRS)
FIELDS = (*EDGE_FIELDS, *PAIR_FIELDS)
"""Names of fields; with ``_symmetric`` at its end, each is symmetrised."""
_GENERAL = ("triplet", "angle_as_printed")
"""Those that are not symmetric."""


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        RequestError: no field, an unknown one, or one named twice.
    """
    if isinstance(fields, str) or not fields:
        raise RequestError(f"fields={fields!r} names no list of fields; give one or more of {', '.join(FIELDS)}")
    names = tuple(fields)
    for name in names:
        if name not in FIELDS and str(name).removesuffix(SYMMETRIC) not in FIELDS:
            raise RequestError(
                f"field {name!r} is not known; choose of {', '.join(FIELDS)}, each also with {SYMMETRIC!r} at its end"
            )
    if len(set(map(same_field, names))) < len(names):
        raise RequestError(
            f"fields={list(names)} names a field twice; give each once ({SYMMETRIC!r} changes only "
            f"{', '.join(_GENERAL)}: the others are symmetric)"
        )
    return names


def same_field(field: str) -> str:
    """The shortest name of a field: that without ``_symmetric`` where it is symmetric already."""
    plain = field.removesuffix(SYMMETRIC)
    return field if plain in _GENERAL else plain


def on_pairs(field: str) -> bool:
    """Whether a field lives on Γ₂."""
    return field.removesuffix(SYMMETRIC) not in EDGE_FIELDS


def is_symmetric(field: str) -> bool:
    """Whether every matrix of a field is symmetric, so that its sum is an exponent without rotation."""
    return field not in _GENERAL


def pair_coefficients(field: str, r: Tensor, s: Tensor, cosines: Tensor) -> Coefficients:
    """a, b, c, d of a field on Γ₂ (see the module's docstring), each ``[T]``, from r = r_γ, s = r_γ' in Å and cos θ."""
    formula = _PAIRS[field if field in _PAIRS else field.removesuffix(SYMMETRIC)]
    a, b, c, d = (torch.as_tensor(x).to(cosines).expand_as(cosines) for x in formula(r, s, cosines))
    return (a, b, c, d) if field in _PAIRS else (a, b, 0.5 * (c + d), 0.5 * (c + d))


class LatticeField(nn.Module):
    """Σ over Γ₁ plus Σ over Γ₂ of learned weights times fields (EMPNN, eqs. 10a and 10b, and their union).

        A = 1/|Γ₁| Σ_γ φ(m_γ) λ_γ + 1/|Γ₂| Σ_(γ,γ') φ(m_γ, m_γ', θ_γγ') λ_γγ'

    The weight of an edge comes from its message m_γ = φ_m(h_i, h_j, r_ij) (eq. 8a), to which 2-cells add theirs where
    the network passes messages on them; the weight of a pair from both messages and the angle. Means are taken with the
    envelope-weighted number of edges or pairs, so that an edge that crosses the cutoff changes nothing abruptly.

    Args:
        channels, n_radial: of the backbone.
        fields: names of :data:`FIELDS`, see the module's docstring.
        hidden: width of the networks of edges.
        width: of those of pairs, and of the messages from 2-cells.
        cell_messages: messages from 2-cells will be given.

    Raises:
        RequestError: as :func:`check_fields`.
    """

    def __init__(
        self,
        channels: int,
        n_radial: int,
        *,
        fields: Sequence[str] = ("edge",),
        hidden: int = 64,
        width: int = 32,
        cell_messages: bool = False,
    ) -> None:
        super().__init__()
        self.fields = check_fields(fields)
        self.edge_fields = tuple(f for f in self.fields if not on_pairs(f))
        self.pair_fields = tuple(f for f in self.fields if on_pairs(f))
        self.symmetric = all(is_symmetric(f) for f in self.fields)
        self.centre = nn.Linear(channels, hidden)
        self.neighbour = nn.Linear(channels, hidden, bias=False)
        self.radial = nn.Linear(n_radial, hidden, bias=False)
        if self.edge_fields:
            self.weight = nn.Sequential(
                nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, len(self.edge_fields))
            )
        if self.pair_fields:
            self.pair_weight = EdgePairNetwork(hidden, width, len(self.pair_fields))
        if cell_messages:
            self.from_cells = nn.Linear(width, hidden, bias=False)

    def forward(
        self,
        output: BackboneOutput,
        batch: CrystalBatch,
        envelope: Tensor,
        graph: TwoGraph | None = None,
        messages: Tensor | None = None,
    ) -> Tensor:
        """A of each crystal, ``[B, 3, 3]``, symmetric where all fields are; zero where a crystal has no edges.

        Args:
            output: backbone features and edges.
            batch: the crystals.
            envelope: smooth weight of each edge in [0, 1], ``[E]``.
            graph: Γ₂, for fields or messages that live on it.
            messages: of its short edges, from 2-cells, ``[S, width]``.
        """
        geometry = output.geometry
        i, j = geometry.graph.edge_index
        hidden = self.centre(output.scalars)[i] + self.neighbour(output.scalars)[j] + self.radial(geometry.radial)
        if graph is not None and messages is not None:
            hidden = hidden.index_add(0, graph.edges, self.from_cells(messages))
        total = self._edge_sum(geometry.vectors, geometry.distances, hidden, envelope, batch.batch[i], len(batch))
        if self.pair_fields:
            assert graph is not None
            total = total + self._pair_sum(graph, hidden.index_select(0, graph.edges), batch)
        return total

    def _edge_sum(
        self, vectors: Tensor, distances: Tensor, hidden: Tensor, envelope: Tensor, crystal: Tensor, n: int
    ) -> Tensor:
        """Eq. 10a."""
        if not self.edge_fields:
            return vectors.new_zeros(n, 3, 3)
        weights = (self.weight(hidden) * envelope.unsqueeze(-1)).unbind(-1)
        scaled = [
            w * distances if f.removesuffix(SYMMETRIC) == "distance" else w
            for f, w in zip(self.edge_fields, weights, strict=True)
        ]
        unit = vectors / distances.clamp(min=1e-9).unsqueeze(-1)
        # the six independent entries of |u⟩⟨u| instead of nine keep the sum cheap and the result exactly symmetric
        rows, cols = (list(axis) for axis in VOIGT)
        entries = sum(scaled[1:], scaled[0]).unsqueeze(-1) * unit[:, rows] * unit[:, cols]
        count = segment_sum(envelope, crystal, n).clamp(min=1e-6)
        return symmetric_matrix(segment_sum(entries, crystal, n) / count.unsqueeze(-1))

    def _pair_sum(self, graph: TwoGraph, hidden: Tensor, batch: CrystalBatch) -> Tensor:
        """Eq. 10b: coefficients of all fields, then sums over γ' for each γ, then one outer product an edge."""
        first, second = graph.pairs
        weights = (self.pair_weight(hidden, graph) * graph.envelope.unsqueeze(-1)).unbind(-1)
        r, s = graph.lengths[first], graph.lengths[second]
        a, b, c, d = (torch.zeros_like(r) for _ in range(4))
        # all fields share four matrices, |u⟩⟨u|, |u'⟩⟨u'|, |u⟩⟨u'| and |u'⟩⟨u|, so their coefficients are added first
        for field, weight in zip(self.pair_fields, weights, strict=True):
            found = pair_coefficients(field, r, s, graph.cosines)
            a, b, c, d = (old + weight * new for old, new in zip((a, b, c, d), found, strict=True))
        units, other = graph.units, graph.units.index_select(0, second)
        none = torch.zeros_like(graph.lengths)
        # a|u⟩⟨u| belongs to the first edge of the pair, b|u'⟩⟨u'| to the second, whose own |u⟩⟨u| it is
        own = none.index_add(0, first, a).index_add(0, second, b)
        # Σ_γ' c|u⟩⟨u'| = |u⟩⟨Σ_γ' c u'|: one outer product an edge instead of one a pair
        right = torch.zeros_like(units).index_add(0, first, c.unsqueeze(-1) * other)
        left = right if self.symmetric else torch.zeros_like(units).index_add(0, first, d.unsqueeze(-1) * other)
        column, row = units.unsqueeze(-1), units.unsqueeze(-2)
        matrices = own[:, None, None] * (column * row) + (column * right.unsqueeze(-2) + left.unsqueeze(-1) * row)
        crystal = batch.batch[graph.nodes[0]]
        count = segment_sum(graph.envelope, crystal[first], len(batch)).clamp(min=1e-6)
        return segment_sum(matrices, crystal, len(batch)) / count[:, None, None]
