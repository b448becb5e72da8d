"""What the relaxer is asked for: exact exponents, starts of every kind, and a loss that learns."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning")

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import exponent_to, metric, symmetric_exp, symmetric_matrix
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.symmetry.analysis import analyse
from autoperi.testing import tiny_crystals
from autoperi.training.data import TensorCrystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks import lattice_relaxer as empnn
from autoperi.training.tasks.lattice_relaxer import LatticeRelaxerTask, split_norms

torch.set_num_threads(1)
SMALL = {"channels": 8, "layers": 1, "hidden": 16}


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    return to_batch(tiny_crystals(), dtype=torch.float32)


def task(**options: object) -> LatticeRelaxerTask:
    torch.manual_seed(0)
    return LatticeRelaxerTask(LatticeRelaxer(**SMALL), total_steps=10, **options)


def test_exponent_undoes_a_strain_exactly() -> None:
    g = torch.Generator().manual_seed(0)
    lattice = torch.randn(5, 3, 3, generator=g, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
    strain = symmetric_matrix(0.3 * torch.randn(5, 6, generator=g, dtype=torch.float64))
    assert torch.allclose(exponent_to(lattice @ symmetric_exp(strain), lattice), -strain, atol=1e-10)
    # and from a cube it leads to any metric
    target = torch.randn(5, 3, 3, generator=g, dtype=torch.float64) + 2 * torch.eye(3, dtype=torch.float64)
    cube = 2.5 * torch.eye(3, dtype=torch.float64).expand(5, 3, 3)
    assert torch.allclose(metric(cube @ symmetric_exp(exponent_to(cube, target))), metric(target), atol=1e-9)


def test_norms_split_volume_from_shape() -> None:
    strain = symmetric_matrix(torch.tensor([[0.1, 0.1, 0.1, 0, 0, 0], [0.1, -0.1, 0, 0, 0, 0.2]]))
    parts = split_norms(strain)
    assert torch.allclose(parts[0], torch.tensor([0.3 / 3**0.5, 0.0]), atol=1e-5)
    assert torch.allclose(parts[1], torch.tensor([0.0, (0.02 + 0.08) ** 0.5]), atol=1e-5)


def _starts(batch: CrystalBatch, monkeypatch: pytest.MonkeyPatch, kind: str) -> tuple[CrystalBatch, torch.Tensor]:
    monkeypatch.setattr(empnn, "START_SHARES", {k: float(k == kind) for k in empnn.START_SHARES})
    return task(rattled=0.0).starts(batch, torch.arange(len(batch)), torch.Generator().manual_seed(1))


def test_starts_of_each_kind(batch: CrystalBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, truth = _starts(batch, monkeypatch, "clean")
    assert torch.allclose(clean.lattice, batch.lattice, atol=1e-6)
    assert torch.equal(truth, batch.lattice)
    strained, truth = _starts(batch, monkeypatch, "strained")
    sizes = torch.linalg.matrix_norm(exponent_to(strained.lattice, truth))
    assert float(sizes.min()) > 1e-4
    assert float(sizes.max() / sizes.min()) > 10, "small and large strains are drawn alike"
    cube, truth = _starts(batch, monkeypatch, "cube")
    edges = torch.linalg.vector_norm(cube.lattice, dim=-1)
    assert torch.allclose(cube.lattice, edges[:, :1, None] * torch.eye(3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(truth).abs(), batch.volume, rtol=1e-4)


def test_symmetric_starts_keep_the_space_group(batch: CrystalBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = _starts(batch, monkeypatch, "symmetric")
    changed = 0
    for k, (lattice, frac, numbers) in enumerate(found.unbatch()):
        before = analyse(batch.lattice[k], frac, numbers, symprec=0.01).number
        assert analyse(lattice, frac, numbers, symprec=0.01).number == before
        ratio = torch.linalg.inv(truth[k].double()) @ lattice.double()
        changed += bool((ratio - ratio.diagonal().mean() * torch.eye(3)).abs().max() > 1e-3)
    assert changed >= 1, "c/a of the tetragonal and hexagonal crystals may change"


def test_training_learns_and_resumes(batch: CrystalBatch, tmp_path) -> None:
    data = TensorCrystals(batch, {})
    config = TrainingConfig("lattice_relaxer", 4, 4, 1e-2, ema=0.8, warmup=2, optimizer="muon", model_config=SMALL)
    network, summary = train(config, train_data=data, val_data=data, directory=tmp_path, device="cpu")
    assert isinstance(network, LatticeRelaxer)
    assert summary["epochs"] == 4
    more, summary = train(
        replace(config, epochs=5), train_data=data, val_data=data, directory=tmp_path, device="cpu", resume=True
    )
    assert summary["epochs"] == 5
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["val_cube_lengths"] < rows[0]["val_cube_lengths"]
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), more.parameters(), strict=True))
