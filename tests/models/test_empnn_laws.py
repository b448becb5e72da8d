"""Proposition 4 of EMPNN for every vector field, update, order of the graph and depth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError
from autoperi.geometry.lattice import matrix_exp, metric, symmetric_exp
from autoperi.laws import check_lattice_field, permuted, random_orthogonal, rebased, rotated, translated
from autoperi.models.empnn import UPDATES, Empnn
from autoperi.nn.lattice_fields import FIELDS, is_symmetric, on_pairs, same_field
from autoperi.processes.lattice import lattice_step

torch.set_num_threads(1)
F64 = torch.float64
SMALL = {"channels": 8, "cutoff": 4.0, "pair_width": 8, "max_strain": 0.8}
NAMES = [*FIELDS, *(f"{f}_symmetric" for f in FIELDS if f not in ("triplet", "triplet_symmetric"))]


def network(dtype: torch.dtype = F64, **options: object) -> Empnn:
    torch.manual_seed(0)
    model = Empnn(**{**SMALL, "layers": 1, **options}).to(dtype)
    with torch.no_grad():  # a fresh field is nearly zero; make it large enough that a broken law shows
        if model.field.edge_fields:
            model.field.weight[-1].weight.mul_(10)
            model.field.weight[-1].bias.fill_(0.2)
        if model.field.pair_fields:
            model.field.pair_weight.net[-1].weight.mul_(4)
    return model.eval()


def crystals(seed: int, dtype: torch.dtype = F64, sizes: tuple[int, ...] = (1, 2, 4)) -> CrystalBatch:
    """Random skewed cells."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        while True:
            lattice = torch.randn(3, 3, generator=g, dtype=F64) * 2 + 3 * torch.eye(3, dtype=F64)
            if (
                8 * n < float(torch.linalg.det(lattice).abs()) < 40 * n
                and float(torch.linalg.vector_norm(lattice, dim=1).min()) > 2
            ):
                break
        made.append((lattice, torch.rand(n, 3, generator=g, dtype=F64), torch.randint(1, 90, (n,), generator=g)))
    return CrystalBatch.from_list(made, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("field", NAMES)
def test_every_field(field: str, dtype: torch.dtype) -> None:
    model, batch = network(dtype, fields=(field,), pair_layers=int(on_pairs(field))), crystals(2, dtype)
    with torch.no_grad():
        assert float(model(batch).abs().max()) > 1e-3
        check_lattice_field(model, batch)
        check_lattice_field(model.deformation, batch, symmetric=is_symmetric(field))
        turn = model.deformation(batch)
        assert is_symmetric(field) == bool(torch.allclose(turn, turn.mT, rtol=0, atol=1e-6))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    fields=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique_by=same_field),
    update=st.sampled_from(UPDATES),
    layers=st.integers(1, 3),
    pair_layers=st.integers(0, 2),
)
def test_every_union_update_order_and_depth(
    seed: int, fields: list[str], update: str, layers: int, pair_layers: int
) -> None:
    model = network(fields=fields, update=update, layers=layers, pair_layers=pair_layers)
    with torch.no_grad():
        check_lattice_field(model, crystals(seed), seed=seed)
        check_lattice_field(model.deformation, crystals(seed, sizes=(3,)), seed=seed, symmetric=False)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    passes=st.integers(2, 4),
    fields=st.sampled_from([("edge",), ("triplet",), ("angle", "distance")]),
)
def test_passes_in_a_row_commute_with_the_group(seed: int, passes: int, fields: tuple[str, ...]) -> None:
    """φ(g·M) = g·φ(M) for the deformed crystal itself, a product of elements of O(3), translations, S_n and SL3(Z)."""
    model, batch = network(fields=fields, max_strain=0.3), crystals(seed, sizes=(2, 3))
    g = torch.Generator().manual_seed(seed)

    def deformed(crystal: CrystalBatch) -> torch.Tensor:
        for _ in range(passes):
            crystal = crystal.replace(lattice=crystal.lattice @ model.deformation(crystal).mT)
        return crystal.lattice

    rotation = random_orthogonal(g)
    moved = permuted(translated(rotated(batch, rotation), g), g)
    rebasing = rebased(moved, g)
    transform = torch.linalg.solve(moved.lattice.mT, rebasing.lattice.mT).mT.round()
    with torch.no_grad():
        expected = transform @ deformed(batch) @ rotation.T
        torch.testing.assert_close(deformed(rebasing), expected, rtol=0, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    "fields", [("edge",), ("triplet",), ("edge", "angle_as_printed"), ("triplet_symmetric", "area")]
)
def test_rotation_is_all_that_is_removed(fields: tuple[str, ...], update: str) -> None:
    model, batch = network(fields=fields, update=update), crystals(5)
    with torch.no_grad():
        a, h = model.exponent(batch), model.deformation(batch)
        torch.testing.assert_close(h, matrix_exp(a) if update == "exp" else torch.eye(3, dtype=F64) + a)
        kept, removed = batch.lattice @ h.mT, lattice_step(batch, model(batch)).lattice
    torch.testing.assert_close(metric(kept), metric(removed), rtol=1e-9, atol=1e-9)
    assert bool((torch.linalg.det(h) > 0).all())


def test_first_order_is_the_first_order() -> None:
    batch = crystals(6)
    with torch.no_grad():
        gaps = []
        for scale in (1e-2, 1e-3):
            exact, first = (
                network(fields=("edge", "triplet"), update="exp"),
                network(fields=("edge", "triplet"), update="first_order"),
            )
            for model in (exact, first):
                for head in (model.field.weight, model.field.pair_weight.net):
                    head[-1].weight.mul_(scale)
                    head[-1].bias.mul_(scale)
            gaps.append(float((exact(batch) - first(batch)).abs().max()))
    assert gaps[0] > 0
    assert gaps[1] < 0.02 * gaps[0]  # quadratic in A


def test_matrix_exponential_of_a_general_matrix() -> None:
    a = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(matrix_exp(a), torch.linalg.matrix_exp(a), rtol=1e-10, atol=1e-10)
    assert torch.equal(symmetric_exp(a[:1]), symmetric_exp(a)[:1])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "options", [{}, {"fields": ["triplet", "angle", "area"], "pair_layers": 1}, {"fields": ["edge"], "pair_layers": 2}]
)
def test_no_edges_one_edge_one_atom(options: dict[str, object], dtype: torch.dtype) -> None:
    model = network(dtype, **options)
    chain = torch.diag(torch.tensor([3.0, 50, 50]))  # two edges of one atom, exactly opposite
    cells = [torch.eye(3) * 50, torch.eye(3) * 3, chain]
    lonely = CrystalBatch.from_list([(cell, torch.zeros(1, 3), [26]) for cell in cells], dtype=dtype)
    with torch.no_grad():
        found = model(lonely)
        assert bool(torch.isfinite(found).all())
        assert float(found[0].abs().max()) < 1e-6  # nothing to read, nothing to do
        check_lattice_field(model, lonely)
    cubic = found[1]
    assert float((cubic - cubic[0, 0] * torch.eye(3, dtype=dtype)).abs().max()) < 1e-5  # a cube stays a cube


@pytest.mark.parametrize(
    "options", [{"fields": ["triplet", "edge"], "pair_layers": 1}, {"update": "first_order", "fields": ["angle"]}]
)
def test_training_reaches_every_parameter(options: dict[str, object]) -> None:
    model, batch = network(**options), crystals(8)
    (model(batch) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        if (
            name.startswith("backbone") and ".right.0." in name
        ):  # l = 0 has no inner product, so the backbone does not read it
            continue
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_exponent_is_continuous_where_an_atom_crosses_the_reach() -> None:
    model = network(fields=("triplet_symmetric", "edge"), pair_layers=1, pair_reach=1.3)
    reach = 1.3 * (1000 / 3) ** (1 / 3)  # 9.01 Å, over the cutoff of 4 Å: that is the limit

    def strain(distance: float) -> torch.Tensor:
        frac = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, distance / 10, 0]], dtype=F64)
        return model(CrystalBatch.from_list([(torch.eye(3, dtype=F64) * 10, frac, [8, 1, 1])]))

    with torch.no_grad():
        assert reach > 4
        assert float((strain(4 - 1e-6) - strain(4 + 1e-6)).abs().max()) < 1e-7
        assert float((strain(3.0) - strain(3.2)).abs().max()) > 1e-4


def test_refusals() -> None:
    with pytest.raises(RequestError, match="update='second_order' is not known"):
        Empnn(update="second_order")
    with pytest.raises(RequestError, match=r"at most 0\.9"):
        Empnn(update="first_order")
    with pytest.raises(RequestError, match="pair_reach=0"):
        Empnn(pair_reach=0)
    with pytest.raises(RequestError, match="field 'edges'"):
        Empnn(fields=("edges",))


def test_default_network_has_the_parameters_of_the_first_one() -> None:
    names = {name.rsplit(".", 1)[0] for name in Empnn(channels=8).state_dict() if name.startswith("field.")}
    assert names == {"field.centre", "field.neighbour", "field.radial", "field.weight.1", "field.weight.3"}
