"""Formation energies joined from another Materials Project release: left out, weighed by 0.3 (kept), or taken in full?

usage: python benchmarks/label_origin.py DATA_DIR --out RUN [--seeds 0]

Equal steps of the same small network on mp_train, crystals of at most 20 atoms as mp_val has them, whose labels are all
of one release. Writes benchmarks/results/label_origin_mp_val.json. What is finished in RUN is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crysgnn import MAX_ATOMS, chosen, finished, mae

from autoperi.evaluation.common import facts
from autoperi.training.data import TensorCrystals
from autoperi.training.prepare import FOREIGN_WEIGHT, LABEL, training_crystals
from autoperi.training.run import TrainingConfig, train

RESULTS = Path(__file__).resolve().parent / "results"
STEPS = 1800
SHAPE = {"channels": 48, "layers": 2}
SETTINGS: dict[str, Any] = {"batch_size": 32, "learning_rate": 2e-3, "ema": 0.995, "warmup": 100, "model_config": SHAPE}
VARIANTS = {"left out": None, f"weight {FOREIGN_WEIGHT}": FOREIGN_WEIGHT, "in full": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    data, val = (
        training_crystals(args.data / f"{name}.parquet", max_atoms=MAX_ATOMS) for name in ("mp_train", "mp_val")
    )
    data = chosen(data, torch.isfinite(data.labels[LABEL]).nonzero().squeeze(-1))
    rows = []
    for seed in args.seeds:
        for name, weight in VARIANTS.items():
            path = args.out / f"{name.replace(' ', '_')}_{seed}.json"
            rows.append(finished(path, partial(one, args.out, data, val, name, weight, seed)))
    result = {
        "task": "formation energy, labels of another release",
        "unit": "eV/atom",
        "max_atoms": MAX_ATOMS,
        "settings": SETTINGS,
        "rows": rows,
        "table": {name: round(float(np.mean([r["mae"] for r in rows if r["labels"] == name])), 4) for name in VARIANTS},
        "cpu_seconds_this_run": round(time.process_time() - started, 1),
        **facts(args.data / "mp_val.parquet", None, 0, others={"train": args.data / "mp_train.parquet"}),
    }
    (RESULTS / "label_origin_mp_val.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["table"], indent=1))
    return 0


def one(
    out: Path, data: TensorCrystals, val: TensorCrystals, name: str, weight: float | None, seed: int
) -> dict[str, Any]:
    """One training and its error."""
    foreign = data.labels["label_weight"] < 1
    if weight is None:
        used = chosen(data, (~foreign).nonzero().squeeze(-1))
    else:
        used = TensorCrystals(data.crystals, data.labels | {"label_weight": torch.where(foreign, weight, 1.0)})
    epochs = round(STEPS / -(-len(used) // SETTINGS["batch_size"]))
    config = TrainingConfig("formation_energy", epochs, seed=seed, **SETTINGS)
    network, summary = train(
        config, train_data=used, val_data=val, directory=out / f"{name.replace(' ', '_')}_{seed}", device="cpu"
    )
    return {
        "labels": name,
        "seed": seed,
        "rows": len(used),
        "of_another_release": 0 if weight is None else int(foreign.sum()),
        "epochs": epochs,
        "steps": summary["steps"],
        "seconds": summary["seconds_last_run"],
        "mae": mae(network, val),
        "n": len(val),
    }


if __name__ == "__main__":
    raise SystemExit(main())
