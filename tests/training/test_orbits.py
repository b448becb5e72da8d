"""Crystals as orbits, and the flow-matching losses on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher

from autoperi.data.convert import to_arrays, to_structures
from autoperi.errors import DataError
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.symmetry.freedom import equal_edges
from autoperi.testing import tiny_crystals
from autoperi.training.data import Batches
from autoperi.training.orbit_data import OrbitCrystals, orbit_crystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask


@pytest.fixture(scope="module")
def data() -> OrbitCrystals:
    found, failed = orbit_crystals(
        [to_arrays(c) for c in tiny_crystals()], {"energy": torch.arange(len(tiny_crystals()))}
    )
    assert failed == []
    return found


def test_orbits_give_the_crystals_back(data):
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1)
    chosen, _ = data.take(torch.arange(len(data)))
    for given, back in zip(tiny_crystals(), to_structures(chosen.freedom.crystals(chosen.y)), strict=True):
        assert matcher.fit(given, back), given.composition


def test_file_and_rows(data, tmp_path):
    data.save(tmp_path / "orbits.safetensors")
    loaded = OrbitCrystals.load(tmp_path / "orbits.safetensors")
    assert torch.equal(loaded.parameters, data.parameters)
    assert torch.equal(loaded.labels["energy"], data.labels["energy"])
    chosen, labels = loaded.take(torch.tensor([3, 1]))
    assert chosen.freedom.n_atoms.tolist() == data.n_atoms[[3, 1]].tolist()
    assert labels["energy"].tolist() == [3, 1]
    (tmp_path / "bad").write_text("nothing")
    with pytest.raises(DataError, match="make it anew"):
        OrbitCrystals.load(tmp_path / "bad")


def test_reference_cells_have_additive_volumes():
    crystals = [to_arrays(c) for c in tiny_crystals()[:8]]
    volume = torch.arange(119, dtype=torch.float64) + 5
    data, _ = orbit_crystals(crystals, element_volume=volume)
    chosen, _ = data.take(torch.tensor([4, 0, 7]))
    free = chosen.freedom
    expected = torch.zeros(3, dtype=torch.float64).index_add(0, free.crystal[free.orbit], volume[free.atomic_numbers])
    torch.testing.assert_close(torch.linalg.det(free.reference).abs(), expected)
    shape = free.reference[0] @ free.reference[0].T / expected[0] ** (2 / 3)
    equal = equal_edges(int(data.group[4]))
    torch.testing.assert_close(shape, torch.as_tensor(equal @ equal.T))
    fitted, _ = orbit_crystals(crystals)
    found = torch.linalg.det(fitted.freedom.reference).abs() / torch.linalg.det(fitted.lattice).abs()
    assert float(found.log().abs().mean()) < 0.2


def test_any_rows_in_any_order(data):
    rows = torch.tensor([5, 2, 2, 9])
    joint, _ = data.take(rows)
    whole = joint.freedom.crystals(joint.y)
    for k, row in enumerate(rows.tolist()):
        one, _ = data.take(torch.tensor([row]))
        alone = one.freedom.crystals(one.y)
        torch.testing.assert_close(whole[[k]].lattice, alone.lattice)
        torch.testing.assert_close(whole[[k]].frac_coords, alone.frac_coords)
        assert torch.equal(whole[[k]].atomic_numbers, alone.atomic_numbers)


def test_nothing_to_read():
    overlapping = (np.eye(3), np.zeros((2, 3)), np.array([1, 1]))
    with pytest.raises(DataError, match="no crystal could be read"):
        orbit_crystals([overlapping])


def test_flow_matching_learns_and_repeats(data):
    def losses() -> list[float]:
        torch.manual_seed(0)
        model = AutoPeriGnn(channels=16, layers=1, encoder_layers=1, latent=4, hidden=16)
        task = AutoPeriGnnTask(model, total_steps=10)
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        found = []
        for epoch in range(12):
            batches = Batches(data, 8, width=data.n_atoms)
            batches.set_epoch(epoch)
            total = 0.0
            for k, (chosen, _) in enumerate(batches):
                parts = task.losses(model, chosen, torch.Generator().manual_seed(k))
                loss = parts["error"].sum() + 1e-3 * parts["kl"].sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
            found.append(total)
        return found

    first = losses()
    assert first[-1] < 0.8 * first[0]
    assert losses() == first


def test_an_interrupted_run_ends_where_the_whole_one_does(data, tmp_path):
    def run(directory, epochs, resume=False):
        config = TrainingConfig(
            "autoperi_gnn",
            epochs,
            8,
            3e-3,
            warmup=2,
            optimizer="muon",
            model_config={"channels": 8, "layers": 1, "encoder_layers": 1, "latent": 2, "hidden": 8},
        )
        initial = {"element_volume": data.element_volume.float()}
        return train(
            config, train_data=data, val_data=data, directory=directory, resume=resume, device="cpu", initial=initial
        )

    whole, summary = run(tmp_path / "whole", 3)
    assert summary["final"]["train_noise"] > 0
    assert torch.equal(whole.element_volume, data.element_volume.float())
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
            run(broken, 3)
    resumed, _ = run(broken, 3, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0, msg=name)
