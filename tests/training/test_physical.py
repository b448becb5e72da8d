"""Losses on the estimated end of a path, and descriptions as augmentation: switches, gradients, symmetry by
construction, repetition.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from autoperi.data.convert import to_arrays, to_structures
from autoperi.data.random import numpy_generator
from autoperi.errors import RequestError
from autoperi.hub.bundle import save_bundle
from autoperi.hub.networks import network_component
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.potential import Potential
from autoperi.testing import tiny_crystals
from autoperi.training import physical
from autoperi.training.adversarial import Discriminator, hinge_losses
from autoperi.training.coupling import random_ends
from autoperi.training.orbit_data import OrbitBatch, OrbitCrystals, orbit_crystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask

F64 = torch.float64
LOSSES = ("energy", "symmetry", "reconstruction", "adversarial")
SIZE = {"channels": 8, "layers": 1, "encoder_layers": 1, "latent": 2, "hidden": 8}
PBNM = Structure.from_spacegroup(
    62, Lattice.orthorhombic(10, 6, 4.7), ["Fe", "O", "O"], [[0.1, 0.25, 0.2], [0.3, 0.05, 0.3], [0.4, 0.6, 0.1]]
)
TRICLINIC = Structure(
    Lattice.from_parameters(4.1, 5.2, 6.3, 81, 95, 102),
    ["O", "O", "O", "Ti"],
    [[0.1, 0.2, 0.3], [0.6, 0.5, 0.8], [0.35, 0.9, 0.55], [0.8, 0.05, 0.15]],
)


def data_of(crystals: list[Structure]) -> OrbitCrystals:
    data, failed = orbit_crystals([to_arrays(c) for c in crystals])
    assert failed == []
    return data


@pytest.fixture(scope="module")
def data() -> OrbitCrystals:
    return data_of(
        [*(c for c in tiny_crystals() if c.reduced_formula in ("NaCl", "SrTiO3", "TiO2", "ZnO", "Cu")), TRICLINIC, PBNM]
    )


@pytest.fixture(scope="module")
def chosen(data) -> OrbitBatch:
    return data.take(torch.arange(len(data)))[0]


def network(dtype: torch.dtype = F64) -> AutoPeriGnn:
    torch.manual_seed(0)
    return AutoPeriGnn(**SIZE).to(dtype)


def potential() -> Potential:
    torch.manual_seed(1)
    found = Potential(channels=8, layers=1, hidden=8).double()
    for p in found.head.parameters():  # energies of some eV/atom, so that the loss is no constant
        p.data *= 4
    return found


def task_of(model: AutoPeriGnn, *names: str, **options) -> AutoPeriGnnTask:
    if "energy" in names:
        options["potential"] = potential()
    task = AutoPeriGnnTask(model, total_steps=1, **{f"{name}_weight": 0.3 for name in names}, **options)
    return task.to(next(model.parameters()).dtype)


def losses(task: AutoPeriGnnTask, chosen: OrbitBatch, seed: int = 0) -> dict[str, torch.Tensor]:
    return task.losses(task.model, chosen, torch.Generator().manual_seed(seed))


def test_weight_zero_is_off(chosen, monkeypatch):
    plain = losses(task_of(network()), chosen)
    every = losses(task_of(network(), *LOSSES), chosen)
    assert set(plain) == {"error", "near", "kl"}
    assert set(every) == {*plain, *LOSSES, "discriminator"}
    for name, value in plain.items():  # the other losses change nothing of these
        assert torch.equal(every[name], value)
    task = task_of(network())
    assert torch.equal(task.total(plain), plain["error"].mean() + 1e-3 * plain["kl"].mean())
    assert task.physical.potential is None
    assert task.discriminator is None
    for name in ("symmetry_deviation", "reconstruction_error", "hinge_losses", "radius_graph", "operations_of"):
        monkeypatch.setattr(physical, name, lambda *_, name=name, **__: pytest.fail(name))
    losses(task, chosen)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_through_the_decoder_are_those_of_finite_differences(chosen, name):
    model = network()
    task = task_of(model, name, near_share=0.8)
    weights = [
        p for key, p in model.named_parameters() if key.startswith(("field_head", "condition", "backbone.interactions"))
    ]
    g = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=g, dtype=F64) for p in weights]

    def value() -> torch.Tensor:
        return losses(task, chosen)[name].sum()

    found = value()
    assert float(found.detach().abs()) > 1e-4
    slopes = torch.autograd.grad(found, weights, allow_unused=True)
    expected = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True) if s is not None)
    assert abs(expected) > 1e-5
    step, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(weights, direction, strict=True):
                p += sign * step * d
            values.append(float(value()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_an_equivariant_network_cannot_break_the_symmetry(chosen):
    """L_sym without a rattle is zero to rounding, whatever the weights are; with one it is not, and weights decide."""
    exact = task_of(network(), "symmetry", symmetry_rattle=0.0)
    assert float(losses(exact, chosen)["symmetry"].detach().max()) < 1e-20
    single = task_of(network(torch.float32), "symmetry", symmetry_rattle=0.0)
    assert float(losses(single, chosen)["symmetry"].detach().max()) < 1e-8
    rattled = task_of(network(), "symmetry", symmetry_rattle=0.1)
    found = losses(rattled, chosen)["symmetry"].detach()
    assert bool((found[chosen.group != 1] > 1e-6).all())
    assert float(found[chosen.group == 1].max()) < 1e-20


def test_the_network_learns_to_restore_symmetry(data):
    model = network(torch.float32)
    task = task_of(model, "symmetry", symmetry_rattle=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    rows = ((data.group != 1) & (data.n_atoms < 10)).nonzero().squeeze(1)
    batch = data.take(rows)[0]
    found = []
    for step in range(30):
        value = losses(task, batch, seed=step)["symmetry"].mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    assert sum(found[-5:]) < 0.7 * sum(found[:5])


def test_what_does_not_count(chosen):
    model = network()
    task = task_of(model, "energy", "reconstruction", given_share=1.0)
    crystals = chosen.freedom.crystals(chosen.y)
    g = torch.Generator().manual_seed(0)
    moves = 0.02 * torch.randn(crystals.frac_coords.shape, generator=g, dtype=F64)
    moved = crystals.replace(lattice=0.98 * crystals.lattice, frac_coords=crystals.frac_coords + moves)
    every = torch.ones(len(chosen), dtype=torch.bool)
    count = torch.full((len(chosen),), 0.5, dtype=F64)
    found = task.physical(moved, crystals, count, every, model.unit(crystals))
    assert bool((found["reconstruction"] > 0).all())
    half = task.physical(moved, crystals, 0.5 * count, every, model.unit(crystals))
    torch.testing.assert_close(half["reconstruction"], 0.5 * found["reconstruction"])
    torch.testing.assert_close(half["energy"], 0.5 * found["energy"])
    # too early, no z, nonsense
    for changed in (
        task.physical(moved, crystals, 0.01 * count, every, model.unit(crystals)),
        task.physical(moved, crystals, count, ~every, model.unit(crystals)),
        task.physical(moved.replace(lattice=2 * moved.lattice), crystals, count, every, model.unit(crystals)),
    ):
        assert float(changed["reconstruction"].max()) == 0
    assert torch.equal(task.physical(moved, crystals, count, ~every, model.unit(crystals))["energy"], found["energy"])
    # an element that the potential has not seen
    assert task.physical.potential is not None
    task.physical.potential.set_seen(crystals.atomic_numbers[crystals.atomic_numbers != 22])
    known = task.physical(moved, crystals, count, every, model.unit(crystals))["energy"]
    titanium = torch.zeros(len(chosen), dtype=torch.bool)
    titanium[crystals.batch[crystals.atomic_numbers == 22]] = True
    assert torch.equal(known, torch.where(titanium, torch.zeros_like(count), found["energy"]))
    assert bool((found["energy"][titanium] > 0).any())
    assert bool((known > 0).any())


def test_each_side_of_the_adversary_moves_its_own_weights(chosen):
    crystals = chosen.freedom.crystals(chosen.y)
    torch.manual_seed(0)
    judge = Discriminator(channels=8, layers=1, hidden=8).double()
    lattice = (1.02 * crystals.lattice).requires_grad_()
    fooled, told = hinge_losses(judge, crystals.replace(lattice=lattice), crystals)
    assert fooled.shape == told.shape == (len(chosen),)
    parameters = list(judge.parameters())
    slopes = torch.autograd.grad(fooled.sum(), [lattice, *parameters], allow_unused=True, retain_graph=True)
    assert bool((slopes[0] != 0).any())
    assert all(s is None for s in slopes[1:])
    slopes = torch.autograd.grad(told.sum(), [lattice, *parameters], allow_unused=True)
    assert slopes[0] is None
    assert any(s is not None and bool((s != 0).any()) for s in slopes[1:])
    torch.testing.assert_close(told, torch.relu(1 - judge(crystals)) + torch.relu(1 - fooled))


def test_same_seed_same_losses(chosen):
    for ends in ("nearest", "random"):
        first, again, other = (losses(task_of(network(), *LOSSES, ends=ends), chosen, seed) for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["error"], other["error"])


def test_random_descriptions_are_the_same_crystal(chosen):
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1)
    crystals = to_structures(chosen.freedom.crystals(chosen.y))
    seen = set()
    mean = network().encode(chosen.freedom.crystals(chosen.y))[0]
    for seed in range(3):
        end = random_ends(chosen.choices, chosen.freedom, chosen.y, numpy_generator(seed))
        assert torch.equal(end[:, :6], chosen.y[:, :6])
        assert bool((end[~chosen.freedom.space.present] == 0).all())
        described = chosen.freedom.crystals(end)
        for a, b in zip(crystals, to_structures(described), strict=True):
            assert matcher.fit(a, b), a.composition
        torch.testing.assert_close(network().encode(described)[0], mean, atol=1e-5, rtol=0)
        seen.add(tuple(end[-1].tolist()))
    assert len(seen) == 3


def test_another_basis_of_the_same_crystal_has_the_same_losses():
    """Augmentation by lattice bases is without effect: whatever cell a crystal comes in, it is read in its standard
    one, up to its description.
    """
    found = []
    for basis in (
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [0, 1, 0], [0, -1, 1]],
        [[1, 0, 2], [1, 1, 2], [0, 1, 1]],
    ):
        crystals = []
        for crystal in (TRICLINIC, PBNM, tiny_crystals()[0]):
            skewed = crystal.copy()
            skewed.make_supercell(basis)
            crystals.append(skewed)
        batch = data_of(crystals).take(torch.arange(3))[0]
        found.append(losses(task_of(network(), *LOSSES, near_share=0.0), batch))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name].double(), value.double(), rtol=1e-4, atol=1e-6)


def test_options_that_make_no_run():
    for options, words in (
        ({"ends": "beginnings"}, "beginnings"),
        ({"near_share": 1.5}, "near_share=1.5"),
        ({"energy_weight": -1.0}, "energy_weight=-1.0"),
    ):
        with pytest.raises(RequestError, match=words):
            AutoPeriGnnTask(network(), total_steps=1, **options)


def test_a_run_with_every_loss_goes_on_where_it_was_interrupted(data, tiny_bundle, tmp_path):
    """The potential comes from a model directory; the discriminator is in the checkpoint, and nothing of either in the
    result.
    """
    found = potential().float()
    components = {**tiny_bundle.components, "potential": network_component(found)}
    save_bundle(dataclasses.replace(tiny_bundle, components=components), tmp_path / "base")

    def run(directory, resume=False):
        config = TrainingConfig(
            "autoperi_gnn",
            2,
            3,
            3e-3,
            warmup=2,
            model_config=SIZE,
            task_config={f"{name}_weight": 0.1 for name in LOSSES}
            | {"potential": str(tmp_path / "base"), "ends": "random"},
        )
        initial = {"element_volume": data.element_volume.float()}
        return train(
            config, train_data=data, val_data=data, directory=directory, resume=resume, device="cpu", initial=initial
        )

    whole, summary = run(tmp_path / "whole")
    assert all(f"{stage}_{name}" in summary["final"] for stage in ("train", "val") for name in LOSSES)
    assert whole.state_dict().keys() == AutoPeriGnn(**SIZE).state_dict().keys()
    broken = tmp_path / "broken"
    with pytest.MonkeyPatch.context() as patch:
        steps: list[int] = []

        def stop(self, batch, batch_idx, original=AutoPeriGnnTask.training_step):
            steps.append(batch_idx)
            if len(steps) > 4:  # in the second epoch, which has three batches too
                raise KeyboardInterrupt
            return original(self, batch, batch_idx)

        patch.setattr(AutoPeriGnnTask, "training_step", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(broken)
    resumed, _ = run(broken, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0, msg=name)
