"""Proposition 4 of EMPNN and the invariances of DESIGN, for every model, in both precisions, on hostile crystals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.crystal import CrystalBatch
from autoperi.laws import check_batch_independent, check_invariant, check_lattice_field
from autoperi.models.composition_network import CompositionNetwork
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.processes.lattice import lattice_step

torch.set_num_threads(1)


def network(kind: type, dtype: torch.dtype, **options: int | float) -> torch.nn.Module:
    torch.manual_seed(0)
    model = kind(**options).to(dtype)
    if kind is Empnn:
        with torch.no_grad():  # a fresh field is nearly zero; make it large enough that a broken law shows
            model.field.weight[-1].weight.mul_(20)
            model.field.weight[-1].bias.fill_(0.3)
    return model.eval()


def crystals(seed: int, dtype: torch.dtype, sizes: tuple[int, ...] = (1, 3, 6)) -> CrystalBatch:
    """Random skewed cells; atoms are kept 1 Å apart, as nothing closer is physical."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        while True:
            lattice = torch.randn(3, 3, generator=g, dtype=torch.float64) * 2 + 3 * torch.eye(3, dtype=torch.float64)
            if (
                8 * n < float(torch.linalg.det(lattice).abs()) < 60 * n
                and float(torch.linalg.vector_norm(lattice, dim=1).min()) > 2
            ):
                break
        frac = torch.rand(n, 3, generator=g, dtype=torch.float64)
        made.append((lattice, frac, torch.randint(1, 90, (n,), generator=g)))
    return CrystalBatch.from_list(made, dtype=dtype)


SMALL = {"channels": 16, "layers": 2, "cutoff": 4.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_energy_is_invariant(dtype: torch.dtype, l_max: int) -> None:
    model = network(FormationEnergy, dtype, **SMALL, l_max=l_max)
    with torch.no_grad():
        check_invariant(model, crystals(1, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [1, 3])
def test_lattice_field_is_equivariant(dtype: torch.dtype, layers: int) -> None:
    model = network(Empnn, dtype, **{**SMALL, "layers": layers})
    with torch.no_grad():
        batch = crystals(2, dtype)
        assert float(model(batch).abs().max()) > 1e-3
        check_lattice_field(model, batch)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_laws_hold_for_random_crystals(seed: int) -> None:
    batch = crystals(seed, torch.float64, (1, 2, 4))
    with torch.no_grad():
        check_invariant(network(FormationEnergy, torch.float64, **SMALL), batch, seed=seed)
        check_lattice_field(network(Empnn, torch.float64, **SMALL), batch, seed=seed)


def test_composition_network_sees_only_composition() -> None:
    model = CompositionNetwork().double()
    with torch.no_grad():
        batch = crystals(3, torch.float64)
        check_invariant(model, batch)
        squeezed = batch.replace(lattice=batch.lattice * 0.7)
        assert torch.equal(model(squeezed), model(batch))


def test_a_broken_law_is_caught() -> None:
    batch = crystals(4, torch.float64)
    with pytest.raises(AssertionError, match="rotation"):
        check_invariant(lambda b: b.lattice[:, 0, 0], batch)
    with pytest.raises(AssertionError, match="supercell"):
        check_invariant(lambda b: b.volume, batch)
    with pytest.raises(AssertionError, match="batchmates"):
        check_batch_independent(lambda b: b.volume / b.volume.sum(), batch)


@pytest.mark.parametrize("kind", [FormationEnergy, Empnn])
def test_no_edges_and_one_atom(kind: type) -> None:
    model = network(kind, torch.float64, **SMALL)
    lonely = CrystalBatch.from_list(
        [(torch.eye(3) * 50, torch.zeros(1, 3), [18]), (torch.eye(3) * 3, torch.zeros(1, 3), [26])]
    )
    with torch.no_grad():
        out = model(lonely)
    assert torch.isfinite(out).all()
    if kind is Empnn:
        assert float(out[0].abs().max()) < 1e-9  # nothing to read, nothing to do
    check_batch_independent(model, lonely)


def test_energy_gradients_equal_finite_differences() -> None:
    model = network(FormationEnergy, torch.float64, **SMALL)
    batch = crystals(5, torch.float64, (3, 2))
    lattice, frac = batch.lattice.clone().requires_grad_(), batch.frac_coords.clone().requires_grad_()

    def energy(new_lattice: torch.Tensor, new_frac: torch.Tensor) -> torch.Tensor:
        return model(CrystalBatch(new_lattice, new_frac, batch.atomic_numbers, batch.n_atoms)).sum()

    assert torch.autograd.gradcheck(energy, (lattice, frac), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_energy_is_smooth_where_an_atom_crosses_the_cutoff() -> None:
    model = network(FormationEnergy, torch.float64, **SMALL)

    def energy(distance: float) -> float:
        pair = CrystalBatch.from_list(
            [(torch.eye(3) * 30, torch.tensor([[0.0, 0, 0], [distance / 30, 0, 0]]), [11, 17])]
        )
        with torch.no_grad():
            return float(model(pair))

    inside, outside = energy(4.0 - 1e-4), energy(4.0 + 1e-4)
    assert abs(inside - outside) < 1e-9
    assert abs(energy(3.0) - outside) > 1e-6  # the pair does interact


def test_relaxation_of_no_edges_changes_nothing() -> None:
    model = network(Empnn, torch.float64, **SMALL)
    lonely = CrystalBatch.from_list([(torch.eye(3) * 50, torch.zeros(1, 3), [18])])
    with torch.no_grad():
        assert torch.allclose(lattice_step(lonely, model(lonely)).lattice, lonely.lattice)


def test_field_is_bounded() -> None:
    model = network(Empnn, torch.float64, **SMALL)
    with torch.no_grad():
        model.field.weight[-1].bias.fill_(1e6)
        strain = model(crystals(6, torch.float64))
    assert float(torch.linalg.eigvalsh(strain).abs().max()) <= model.max_strain + 1e-9
