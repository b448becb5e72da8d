"""The potential: laws of energy, forces and stress, derivatives against finite differences, smoothness, size."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import StructureError
from autoperi.geometry.lattice import supercell
from autoperi.geometry.multigraph import radius_graph
from autoperi.laws import (
    TOLERANCE,
    check_batch_independent,
    check_invariant,
    permuted,
    random_orthogonal,
    rebased,
    rotated,
    translated,
)
from autoperi.models.potential import Potential
from autoperi.nn.heads import sum_per_crystal

torch.set_num_threads(1)


def potential(dtype: torch.dtype = torch.float64, **options: int) -> Potential:
    torch.manual_seed(0)
    return Potential(**{"channels": 16, "layers": 2, **options}).to(dtype).eval()


def crystals(seed: int = 0, dtype: torch.dtype = torch.float64) -> CrystalBatch:
    """Rattled and strained real crystals, one of them squeezed until the nuclear repulsion acts."""
    made = [
        bulk("NaCl", "rocksalt", 5.5),
        bulk("Ti", "hcp", a=2.9, c=4.6),
        bulk("Si", "diamond", 5.4, cubic=True),
        bulk("Cu", "fcc", 2.9),
    ]
    for k, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed + k)
        atoms.set_cell(
            atoms.cell
            @ (torch.eye(3) + 0.05 * torch.randn(3, 3, generator=torch.Generator().manual_seed(seed + k))).numpy(),
            True,
        )
    return to_batch(made, dtype=dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = max(1.0, float(expected.detach().abs().max()))
    return float((found - expected).detach().abs().max()) / scale <= TOLERANCE[expected.dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_per_atom_is_invariant(dtype: torch.dtype) -> None:
    model = potential(dtype)
    check_invariant(lambda b: model(b, derivatives=False).energy / b.n_atoms, crystals(1, dtype))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_forces_and_stress_turn_with_the_crystal_and_change_under_nothing_else(seed: int) -> None:
    model, batch = potential(), crystals(seed)
    generator = torch.Generator().manual_seed(seed)
    turn = random_orthogonal(generator)
    expected, found = model(batch), model(rotated(batch, turn))
    assert close(found.forces, expected.forces @ turn.T)
    assert close(found.stress, turn @ expected.stress @ turn.T)
    for changed in (translated(batch, generator), rebased(batch, generator)):
        again = model(changed)
        assert close(again.forces, expected.forces)
        assert close(again.stress, expected.stress)
    assert close(model(permuted(batch, generator)).stress, expected.stress)
    doubled = model(supercell(batch, (2, 1, 1)))
    assert close(doubled.stress, expected.stress)
    assert close(doubled.energy, 2 * expected.energy)


def test_forces_and_stress_equal_finite_differences() -> None:
    model, batch = potential(), crystals(2)
    found, step = model(batch), 1e-5
    inverse = torch.linalg.inv(batch.lattice)[batch.batch]

    def energy(**changed: torch.Tensor) -> torch.Tensor:
        return model(batch.replace(**changed), derivatives=False).energy.detach()

    for k in range(3):
        for atom in range(len(batch.atomic_numbers)):
            move = torch.zeros_like(batch.frac_coords)
            move[atom] = step * inverse[atom, k]
            slope = (
                energy(frac_coords=batch.frac_coords + move) - energy(frac_coords=batch.frac_coords - move)
            ).sum() / (2 * step)
            assert float(-slope) == pytest.approx(float(found.forces[atom, k]), rel=1e-4, abs=1e-7)
        for other in range(3):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[k, other] += step / 2
            strain[other, k] += step / 2
            up, down = (energy(lattice=batch.lattice + sign * batch.lattice @ strain) for sign in (1, -1))
            assert torch.allclose(
                (up - down) / (2 * step) / batch.volume, found.stress[:, k, other], rtol=1e-4, atol=1e-8
            )


def test_no_net_force_and_symmetric_stress() -> None:
    found, batch = potential()(crystals(3)), crystals(3)
    assert float(sum_per_crystal(found.forces, batch).abs().max()) < 1e-10
    assert torch.equal(found.stress, found.stress.transpose(1, 2))
    assert torch.allclose(sum_per_crystal(found.energies, batch), found.energy)


def test_each_crystal_alone_gives_what_it_gives_among_others() -> None:
    model = potential()
    check_batch_independent(lambda b: model(b).stress, crystals(4))


@pytest.mark.parametrize("pair", [(11, 17), (1, 1)])
def test_energy_and_force_are_smooth_at_the_cutoff_and_where_the_repulsion_ends(pair: tuple[int, int]) -> None:
    model = potential()
    ends = [model.cutoff, float(model.radii[pair[0]] + model.radii[pair[1]])]

    def at(distance: float) -> tuple[float, float]:
        batch = CrystalBatch.from_list(
            [(torch.eye(3) * 30, torch.tensor([[0.0, 0, 0], [distance / 30, 0, 0]], dtype=torch.float64), pair)]
        )
        found = model(batch)
        return float(found.energy.detach()), float(found.forces[0, 0].detach())

    for end in ends:
        (e0, f0), (e1, f1) = at(end - 1e-5), at(end + 1e-5)
        assert abs(e0 - e1) < 1e-3 * 2e-5 + 2e-5 * max(abs(f0), abs(f1))
        assert abs(f0 - f1) < 1e-3


def test_atoms_on_top_of_each_other_repel() -> None:
    model = potential()
    batch = CrystalBatch.from_list([(torch.eye(3) * 20, torch.tensor([[0.0, 0, 0], [0.02, 0, 0]]), (26, 26))])
    found = model(batch.to(dtype=torch.float64))
    assert float(found.energy.detach()) > 100
    assert float(found.forces[0, 0]) < -100 < 100 < float(found.forces[1, 0])


def test_isolated_atoms_one_atom_cells_molecules_and_slabs_have_finite_answers() -> None:
    water = molecule("H2O", vacuum=6.0)
    water.pbc = True
    slab = bulk("Cu", cubic=True)
    slab.center(vacuum=10.0, axis=2)
    found = potential()(to_batch([water, slab, bulk("Fe")], dtype=torch.float64))
    lonely = potential()(CrystalBatch.from_list([(torch.eye(3) * 50, torch.zeros(1, 3), [18])]).to(dtype=torch.float64))
    for result in (found, lonely):
        assert all(torch.isfinite(t).all() for t in (result.energy, result.forces, result.stress))
    assert float(lonely.forces.abs().max()) == 0.0
    assert float(lonely.stress.abs().max()) == 0.0


def test_derivatives_can_be_trained_on() -> None:
    model = potential()
    found = model(crystals(5), create_graph=True)
    (found.forces.square().sum() + found.stress.square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert float(model.backbone.interactions[0].radial.grad.abs().max()) > 0


def test_the_caller_s_tensors_are_left_alone() -> None:
    batch = crystals(6)
    with torch.no_grad():
        assert potential()(batch).forces is not None  # also where gradients are off
    assert not batch.frac_coords.requires_grad
    assert not batch.lattice.requires_grad


def test_edges_beyond_the_cutoff_change_nothing() -> None:
    model, batch = potential(), crystals(7)
    numbers = batch.atomic_numbers.clone()
    numbers[:2] = 87  # francium, whose covalent radii together exceed the cutoff
    batch = CrystalBatch(batch.lattice, batch.frac_coords, numbers, batch.n_atoms)
    wide = radius_graph(batch, model.cutoff + 1.0)
    expected, found = model(batch), model(batch, graph=wide)
    assert wide.n_edges > 1.3 * radius_graph(batch, model.cutoff).n_edges
    for name in ("energy", "energies", "forces", "stress"):
        assert close(getattr(found, name), getattr(expected, name)), name


def test_a_float32_network_takes_a_float64_batch() -> None:
    model, batch = potential(torch.float32), crystals(8)
    found, expected = model(batch), potential()(batch)
    for name in ("energy", "energies", "forces", "stress"):
        assert getattr(found, name).dtype == torch.float64
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4), name


def test_elements_never_seen_are_refused_by_name() -> None:
    model, batch = potential(), crystals(9)
    model.check_elements(batch.atomic_numbers)
    model.set_seen(torch.tensor([11, 17, 22]))
    with pytest.raises(StructureError, match=r"never trained on Si, Cu;"):
        model.check_elements(batch.atomic_numbers)
    again = Potential(channels=16, layers=2)
    again.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k != "seen"}
    )  # a checkpoint from before there was a record
    assert bool(again.seen.all())
    again.load_state_dict(model.state_dict())
    assert again.seen.nonzero().squeeze(-1).tolist() == [11, 17, 22]
