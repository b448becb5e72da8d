"""EMPNN's Table 3: cells from the 1 Å cube, by the relaxer of a model and by the paper's feed-forward baseline trained
beside it.

usage: python benchmarks/empnn/reconstruct.py DATA_DIR [--model autoperi-base] [--run .train/empnn/feed_forward] [--out
FILE] [--epochs 4]

Niggli cells (the preprocessing of CDVAE, whose splits the paper uses) and, for the relaxer, also cells as the tables
give them; the test splits of Carbon-24 and Perov-5, and mp20_test. The baseline sees the same training crystals as the
relaxer (benchmarks/empnn/relaxer.py), in cubes of the same volume, begins with the same encoder, and predicts (a, b,
c)/N^(1/3) and the angles; it is trained once and then read from --run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from relaxer import TRAIN, encoder, tables
from safetensors.torch import load_file, save_file
from sweep import FeedForward
from torch import Tensor

from autoperi import AutoPeri
from autoperi.data.convert import to_batch, to_structures
from autoperi.data.crystal import CrystalBatch
from autoperi.evaluation.common import facts
from autoperi.evaluation.reconstruct import UNIT_CUBE, evaluate_reconstruct
from autoperi.geometry.lattice import change_basis
from autoperi.geometry.reduction import niggli_reduce
from autoperi.hub.networks import network_of
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.training.data import Batches
from autoperi.training.optimizer import muon

RESULTS = Path(__file__).resolve().parents[1] / "results"
TESTS = ("mp20_test", "carbon24_test", "perov5_test")
PAPER = {
    "mp20_test": {"EMPNN": (0.174, 1.965), "feed forward": (0.534, 6.324)},
    "carbon24_test": {"EMPNN": (0.200, 3.199), "feed forward": (0.469, 13.693)},
}
"""Published errors of lengths (Å) and angles (degrees)."""


def cube(batch: CrystalBatch, relaxer: LatticeRelaxer) -> CrystalBatch:
    """The crystals in cubes, as the relaxer's backbone sees its first pass from the 1 Å cube."""
    edge = relaxer.natural_volume(batch).detach().pow(1 / 3)
    return relaxer.scaled(batch.replace(lattice=edge[:, None, None] * torch.eye(3).to(batch.lattice)))


def train(
    folder: Path, run: Path, relaxer: LatticeRelaxer, *, epochs: int, batch_size: int = 32, rate: float = 3e-3
) -> FeedForward:
    """The baseline, or what an earlier run left in ``run``."""
    torch.manual_seed(0)
    network = FeedForward(l_max=2)
    saved = run / "feed_forward.safetensors"
    if saved.exists():
        network.load_state_dict(load_file(saved))
        return network.eval()
    network.load_state_dict(encoder("autoperi-base", "formation_energy"), strict=False)
    data = tables(folder, dict(TRAIN), max_atoms=20, seed=0)
    reduced = change_basis(data.crystals, niggli_reduce(data.crystals.lattice)[1])
    data = type(data)(reduced, {})
    network.fit(reduced)
    batches = Batches(data, batch_size, seed=0)
    steps, started = epochs * len(batches), time.process_time()
    optimiser = muon(network, learning_rate=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.03, cycle_momentum=False
    )
    history = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        total = 0.0
        for crystals, _ in batches:
            loss = network.loss(cube(crystals, relaxer), crystals.lattice).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        history.append(round(total / len(batches), 5))
    run.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), saved)
    record = {
        "epochs": epochs,
        "crystals": len(data),
        "batch_size": batch_size,
        "loss_by_epoch": history,
        "seconds": round(time.process_time() - started, 1),
    }
    (run / "training.json").write_text(json.dumps(record))
    return network.eval()


class FeedForwardCells:
    """The baseline as a function of structures."""

    def __init__(self, network: FeedForward, relaxer: LatticeRelaxer) -> None:
        self.network, self.relaxer = network, relaxer

    def __call__(self, structures: list[Any]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(structures), 64):
            batch = to_batch(structures[start : start + 64], dtype=torch.float32)
            with torch.no_grad():
                lattices: list[Tensor | None] = self.network.lattices(cube(batch, self.relaxer))
            for k, lattice in enumerate(lattices):
                found.append(
                    None
                    if lattice is None
                    else to_structures(batch[k].to(dtype=torch.float64).replace(lattice=lattice[None]))[0]
                )
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--run", type=Path, default=Path(".train/empnn/feed_forward"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "empnn_reconstruct.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    peri = AutoPeri.from_pretrained(args.model, device="cpu")
    relaxer = network_of("empnn", peri.bundle.components["empnn"])
    assert isinstance(relaxer, LatticeRelaxer)
    baseline = FeedForwardCells(train(args.data, args.run, relaxer, epochs=args.epochs), relaxer)
    rows: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for name in TESTS:
        path = args.data / f"{name}.parquet"
        options: dict[str, Any] = {"protocols": [UNIT_CUBE], "limit": args.limit, "progress": False}
        ours = {cells: evaluate_reconstruct(peri, path, cells=cells, **options) for cells in ("niggli", "given")}
        other = evaluate_reconstruct(None, path, predict=baseline, cells="niggli", **options)
        hashes[name] = ours["niggli"]["data_sha256"]
        rows[name] = {
            "n": ours["niggli"]["n"],
            "relaxer": _short(ours["niggli"]),
            "relaxer, cells as given": _short(ours["given"]),
            "feed forward": _short(other),
            "cube of the mean volume per atom": _short_errors(_volume_cube(ours["niggli"])),
            "paper": PAPER.get(name),
        }
        print(name, json.dumps(rows[name]), flush=True)
    said = facts(path, peri.provenance(), 0, parameters={"limit": args.limit, "epochs of the baseline": args.epochs})
    training = json.loads((args.run / "training.json").read_text())
    for key in ("data", "data_sha256"):
        said.pop(key)
    args.out.write_text(
        json.dumps(
            {
                "task": "empnn_reconstruct",
                "rows": rows,
                "feed_forward_training": training,
                "data_sha256": hashes,
                **said,
            }
        )
        + "\n"
    )
    return 0


def _short(result: dict[str, Any]) -> dict[str, Any]:
    found = result["protocols"][UNIT_CUBE]
    return _short_errors(found) | {"status": found["status"], "crystals_per_second": found["crystals_per_second"]}


def _short_errors(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key]["value"] for key in ("length_mae_A", "angle_mae_deg", "length_r2", "volume_relative_error")}


def _volume_cube(result: dict[str, Any]) -> dict[str, Any]:
    return result["baselines"]["cube of the mean volume per atom"]


if __name__ == "__main__":
    raise SystemExit(main())
