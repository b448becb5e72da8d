"""Vector fields of Definition 8 against the geometry they come from, and their sums against the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.laws import random_orthogonal
from autoperi.nn.backbone import Backbone
from autoperi.nn.lattice_fields import (
    FIELDS,
    PAIR_FIELDS,
    SYMMETRIC,
    LatticeField,
    check_fields,
    is_symmetric,
    on_pairs,
    pair_coefficients,
)
from autoperi.nn.radial import polynomial_envelope
from autoperi.nn.two_graph import EdgePairNetwork, TwoGraph, TwoGraphInteraction, legendre, two_graph

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)
ALL = [*FIELDS, *(f"{f}_symmetric" for f in FIELDS if f not in ("triplet", "triplet_symmetric"))]


def field_matrices(field: str, v: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
    """λ of edges v ``[T, 3]`` in Å, or of pairs of edges (v, w), ``[T, 3, 3]``: by their definitions."""
    r = torch.linalg.vector_norm(v, dim=-1)
    u = v / r.unsqueeze(-1)
    own = u.unsqueeze(-1) * u.unsqueeze(-2)
    if w is None:
        return own * (r if field.removesuffix(SYMMETRIC) == "distance" else torch.ones_like(r))[:, None, None]
    s = torch.linalg.vector_norm(w, dim=-1)
    t = w / s.unsqueeze(-1)
    mixed = u.unsqueeze(-1) * t.unsqueeze(-2)
    a, b, c, d = (k[:, None, None] for k in pair_coefficients(field, r, s, (u * t).sum(-1)))
    return a * own + b * (t.unsqueeze(-1) * t.unsqueeze(-2)) + c * mixed + d * mixed.mT


def edges(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=g, dtype=F64) * 2, torch.randn(n, 3, generator=g, dtype=F64) * 2, g


def length(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.linalg.vector_norm(v, dim=-1)


def angle(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(v, w), dim=-1), (v * w).sum(-1))


def area(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.linalg.vector_norm(torch.linalg.cross(v, w), dim=-1)


def derivative(invariant, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """λ with d/dt f(exp(tX)ρ) = ⟨λ, X⟩, by finite differences in all nine directions X."""
    out = torch.zeros(len(v), 3, 3, dtype=F64)
    for i in range(3):
        for j in range(3):
            x = torch.zeros(3, 3, dtype=F64)
            x[i, j] = 1e-6
            up, down = torch.linalg.matrix_exp(x), torch.linalg.matrix_exp(-x)
            out[:, i, j] = (invariant(v @ up.T, w @ up.T) - invariant(v @ down.T, w @ down.T)) / 2e-6
    return out


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_gradient_fields_are_derivatives(seed: int) -> None:
    v, w, _ = edges(seed)
    sine = torch.sin(angle(v, w))[:, None, None]
    scale = 1 + (length(v, w) * length(w, v))[:, None, None]
    for found, invariant, factor in (
        (field_matrices("distance", v), length, torch.ones_like(sine)),
        (field_matrices("triplet_distance", v, w), length, torch.ones_like(sine)),
        (field_matrices("angle", v, w), angle, sine),
        (field_matrices("area", v, w), area, sine),
    ):
        torch.testing.assert_close(found / scale, derivative(invariant, v, w) * factor / scale, rtol=0, atol=2e-8)


def test_equation_7_as_it_is_printed() -> None:
    v, w, _ = edges(1)
    u, t = v / length(v, w)[:, None], w / length(w, v)[:, None]
    normal = torch.linalg.cross(u, t)
    sine = torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    omega = normal / sine
    bra = torch.einsum("ti,tj->tij", torch.linalg.cross(omega, t), w) - torch.einsum(
        "ti,tj->tij", torch.linalg.cross(omega, u), v
    )
    torch.testing.assert_close(field_matrices("angle_as_printed", v, w), bra * sine[:, None])
    # with u in the place of ρe = v it is the derivative
    torch.testing.assert_close(field_matrices("angle_as_printed", u, t), field_matrices("angle", v, w))


@pytest.mark.parametrize("field", ALL)
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_fields_turn_with_the_crystal(field: str, seed: int) -> None:
    v, w, g = edges(seed)
    q = random_orthogonal(g)
    arguments = (v, w) if on_pairs(field) else (v,)
    found = field_matrices(field, *arguments)
    torch.testing.assert_close(
        field_matrices(field, *(x @ q.T for x in arguments)), q @ found @ q.T, rtol=1e-9, atol=1e-9
    )
    assert torch.allclose(found, found.mT, rtol=0, atol=1e-12) == is_symmetric(field)
    assert float(found.abs().max()) > 1e-3


@pytest.mark.parametrize("field", FIELDS)
def test_symmetrised(field: str) -> None:
    v, w, _ = edges(2)
    pair = (v, w) if on_pairs(field) else (v,)
    found = field_matrices(field, *pair)
    if field == "triplet":  # Definition 8 has no half
        torch.testing.assert_close(field_matrices("triplet_symmetric", *pair), found + found.mT)
    elif field != "triplet_symmetric":
        torch.testing.assert_close(field_matrices(f"{field}_symmetric", *pair), 0.5 * (found + found.mT))


def test_collinear_edges_have_no_direction_to_prefer() -> None:
    v = torch.tensor([[0.0, 0, 2], [0, 0, 2], [1, 1, 1]], dtype=F64)
    w = torch.tensor([[0.0, 0, 3], [0, 0, -1], [-2, -2, -2]], dtype=F64)
    assert float(field_matrices("angle", v, w).abs().max()) < 1e-12
    assert float(field_matrices("area", v, w).abs().max()) < 1e-12
    nearby = w + 1e-9 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    for field in PAIR_FIELDS:
        torch.testing.assert_close(field_matrices(field, v, nearby), field_matrices(field, v, w), rtol=0, atol=1e-7)


# --- sums


def crystals(seed: int = 0, sizes: tuple[int, ...] = (1, 4, 3)) -> CrystalBatch:
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        cell = (14.0 * n) ** (1 / 3) * (torch.eye(3, dtype=F64) + 0.15 * torch.randn(3, 3, generator=g, dtype=F64))
        made.append((cell, torch.rand(n, 3, generator=g, dtype=F64), torch.randint(1, 80, (n,), generator=g)))
    return CrystalBatch.from_list(made)


@pytest.mark.parametrize(
    "fields", [("triplet",), ("angle_as_printed", "edge"), ("triplet_symmetric", "area", "distance", "triplet_edge")]
)
def test_sums_are_those_of_the_definition(fields: tuple[str, ...]) -> None:
    torch.manual_seed(3)
    batch = crystals()
    backbone = Backbone(channels=8, layers=1, cutoff=4.0).double()
    layer = LatticeField(8, 8, fields=fields, hidden=16, width=8).double()
    output = backbone(batch)
    geometry = output.geometry
    envelope = polynomial_envelope(geometry.distances / 4.0)
    graph = two_graph(batch, geometry, reach=1.5, cutoff=4.0)
    with torch.no_grad():
        found = layer(output, batch, envelope, graph)
        i, j = geometry.graph.edge_index
        hidden = layer.centre(output.scalars)[i] + layer.neighbour(output.scalars)[j] + layer.radial(geometry.radial)
        expected = torch.zeros(len(batch), 3, 3, dtype=F64)
        if layer.edge_fields:
            weights = layer.weight(hidden)
            for b in range(len(batch)):
                here = batch.batch[i] == b
                for k, field in enumerate(layer.edge_fields):
                    terms = (weights[here, k] * envelope[here])[:, None, None] * field_matrices(
                        field, geometry.vectors[here]
                    )
                    expected[b] += terms.sum(0) / envelope[here].sum()
        weights = layer.pair_weight(hidden[graph.edges], graph)
        first, second = graph.pairs
        v, w = geometry.vectors[graph.edges[first]], geometry.vectors[graph.edges[second]]
        for b in range(len(batch)):
            here = batch.batch[graph.nodes[0][first]] == b
            for k, field in enumerate(layer.pair_fields):
                terms = (weights[here, k] * graph.envelope[here])[:, None, None] * field_matrices(
                    field, v[here], w[here]
                )
                expected[b] += terms.sum(0) / graph.envelope[here].sum()
    assert float(expected.abs().max()) > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_pairs_of_rock_salt() -> None:
    a = 5.64
    cell = torch.tensor([[0.0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], dtype=F64)
    batch = CrystalBatch.from_list([(cell, [[0.0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])])
    geometry = Backbone(channels=4, layers=1).double().geometry(batch)
    graph = two_graph(
        batch, geometry, reach=1.3, cutoff=5.0
    )  # 3.66 Å: the six neighbours at 2.82 Å, not the twelve at 3.99 Å
    assert len(graph.edges) == 12
    assert graph.pairs.shape[1] == 2 * 6 * 5
    assert sorted({round(float(c), 9) + 0.0 for c in graph.cosines}) == [-1, 0]
    torch.testing.assert_close(graph.lengths, torch.full_like(graph.lengths, a / 2))
    first, second = graph.pairs
    assert torch.equal(graph.nodes[0][first], graph.nodes[0][second])
    assert bool((first != second).all())


def test_a_dense_cell_costs_no_more_pairs() -> None:
    batch = crystals(4, (6,))
    backbone = Backbone(channels=4, layers=1).double()
    counts = []
    for factor in (1.0, 0.4):
        small = batch.replace(lattice=batch.lattice * factor)
        counts.append(two_graph(small, backbone.geometry(small), reach=1.5, cutoff=5.0).pairs.shape[1])
    assert counts[0] == counts[1]


def test_legendre() -> None:
    x = torch.linspace(-1, 1, 7, dtype=F64)
    found = legendre(x, 3)
    torch.testing.assert_close(found, torch.stack([x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2], -1))


def test_messages_see_angles() -> None:
    """Two environments with the same distances and other angles: messages on Γ₁ with l_max = 0 cannot tell them apart,
    those on Γ₂ can.
    """
    torch.manual_seed(0)
    bent = torch.tensor([[0.0, 0, 0], [0.08, 0, 0], [0, 0.08, 0]], dtype=F64)
    straight = torch.tensor([[0.0, 0, 0], [0.08, 0, 0], [-0.08, 0, 0]], dtype=F64)
    batch = CrystalBatch.from_list([(torch.eye(3) * 20, x, [8, 1, 1]) for x in (bent, straight)])
    backbone = Backbone(channels=8, layers=1, cutoff=2.2, l_max=0).double()
    layer = TwoGraphInteraction(8, 8, 8, 14.0).double()
    with torch.no_grad():
        output = backbone(batch)
        assert torch.allclose(output.scalars[0], output.scalars[3], rtol=0, atol=1e-12)
        graph: TwoGraph = two_graph(batch, output.geometry, reach=1.5, cutoff=2.2)
        scalars, messages = layer(output.scalars, graph)
    assert messages.shape == (len(graph.edges), 8)
    assert float((scalars[0] - scalars[3]).abs().max()) > 1e-5
    assert EdgePairNetwork(4, 4, 2)(torch.zeros(len(graph.edges), 4), graph_of_dtype(graph)).shape == (
        graph.pairs.shape[1],
        2,
    )


def graph_of_dtype(graph: TwoGraph) -> TwoGraph:
    import dataclasses

    return dataclasses.replace(graph, angular=graph.angular.float())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((), "names no list"),
        ("edge", "names no list"),
        (("edge", "tripletts"), "'tripletts' is not known"),
        (("edge", "edge"), "twice"),
        (("edge", "edge_symmetric"), "twice"),
    ],
)
def test_unknown_fields(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_fields(fields)
