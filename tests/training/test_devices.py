"""Several processes that train together: batches shared out, one step on all of them, one record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoperi.data.convert import to_arrays
from autoperi.errors import RequestError
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.testing import tiny_crystals
from autoperi.training.checkpoint import SafetensorsCheckpointIO
from autoperi.training.data import Batches
from autoperi.training.orbit_data import OrbitCrystals, orbit_crystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask

SIZE = {"channels": 8, "layers": 1, "encoder_layers": 1, "latent": 2, "hidden": 8}
SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from autoperi.training.orbit_data import OrbitCrystals
from autoperi.training.run import TrainingConfig, first_process, train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    data = OrbitCrystals.load(folder / "data.safetensors")
    size = {"channels": 8, "layers": 1, "encoder_layers": 1, "latent": 2, "hidden": 8}
    config = TrainingConfig("autoperi_gnn", 1, 4, 3e-3, warmup=1, model_config=size, task_config={"near_share": 1.0})
    options = {"directory": folder / "run", "device": "cpu", "devices": 2}
    model, summary = train(config, train_data=data, val_data=data, **options)
    first = first_process()  # a file each: lines of two processes may run together in one pipe
    (folder / f"done_{first}").write_text(f"{summary['devices']} {summary['steps']}")
    if first_process():
        save_file(model.state_dict(), folder / "model.safetensors")
"""


@pytest.fixture(scope="module")
def data() -> OrbitCrystals:
    found, failed = orbit_crystals([to_arrays(c) for c in tiny_crystals()[:8]])
    assert failed == []
    return found


def started(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as of a shell of its own, which finds itself by its loopback interface."""
    known = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    }
    environment = {**known, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def test_batches_are_shared_out(data):
    for size, processes in ((2, 2), (3, 2), (1, 3), (8, 2)):
        whole = Batches(data, size, seed=3)
        whole.set_epoch(1)
        rows = [labels["row"].tolist() for _, labels in whole]
        parts = []
        for rank in range(processes):
            own = Batches(data, size, seed=3)
            own.share(rank, processes)
            own.set_epoch(1)
            parts.append([labels["row"].tolist() for _, labels in own])
            assert len(parts[-1]) == len(own) == -(-len(rows) // processes)
        joined = [parts[k % processes][k // processes] for k in range(processes * len(parts[0]))]
        assert joined[: len(rows)] == rows
        assert joined[len(rows) :] == rows[: len(joined) - len(rows)]


def test_a_step_of_two_processes_is_one_on_both_batches(data, tmp_path):
    data.save(tmp_path / "data.safetensors")
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = started(["script.py", str(tmp_path)], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [(tmp_path / f"done_{first}").read_text() for first in (True, False)] == ["2 1", "2 1"]
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert (row["epoch"], row["step"]) == (0, 1)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["history.jsonl", "last.ckpt", "training.json"]
    assert load_file(tmp_path / "model.safetensors").keys() == AutoPeriGnn(**SIZE).state_dict().keys()

    torch.manual_seed(0)
    task = AutoPeriGnnTask(AutoPeriGnn(**SIZE), total_steps=1, warmup=1, learning_rate=3e-3, near_share=1.0)
    found = [
        task.losses(task.model, batch, task.generator(k, 0))
        for k, (batch, _) in enumerate(Batches(data, 4, width=data.n_atoms))
    ]
    optimizer = task.configure_optimizers()["optimizer"]
    (sum(task.total(f) for f in found) / 2).backward()
    torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
    optimizer.step()
    stored = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "run" / "last.ckpt")
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(stored["state_dict"][f"model.{name}"], value, atol=2e-6, rtol=2e-4, msg=name)
    # metrics are means over all crystals, and none starts from noise
    assert "train_noise" not in row
    assert row["train_near"] == pytest.approx(float(torch.cat([f["error"] for f in found]).detach().mean()), rel=1e-5)
    assert row["train_kl"] == pytest.approx(float(torch.cat([f["kl"] for f in found]).detach().mean()), rel=1e-5)


def test_no_devices(data, tmp_path):
    for devices in (0, True, 1.5):
        with pytest.raises(RequestError, match="devices="):
            train(
                TrainingConfig("autoperi_gnn", 1, model_config=SIZE),
                train_data=data,
                val_data=data,
                directory=tmp_path / "run",
                devices=devices,  # type: ignore[arg-type]
            )
    assert not (tmp_path / "run").exists()
