"""What each loss and each choice of descriptions is worth: small trainings of AutoPeri-GNN under one budget, measured
on mp_val.

    python benchmarks/autoperi_gnn/losses.py --data .train/gnn/train.safetensors --val .train/gnn/val.safetensors --runs
    .train/gnn/losses

Every row trains the same network from the same weights on the same crystals in the same order, for the same number of
steps. Measured are the error of the velocity from noise and near, the physical losses, and how many crystals are
matched from noise and near a moved start, space group and orbits given. Rows that --out holds already, under the same
budget, are not run again; those whose weights are in --runs are only measured again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sample import ROWS as SAMPLED
from sample import evaluate
from torch import Tensor

from autoperi.data.random import torch_generator
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.training.orbit_data import OrbitBatch, OrbitCrystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.autoperi_gnn import AutoPeriGnnTask

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS: dict[str, dict[str, Any]] = {
    "L_flow and L_KL, description as given": {"ends": "given"},
    "random description": {"ends": "random"},
    "nearest description": {},
    "nearest, no L_KL": {"kl_weight": 0.0},
    "nearest, L_energy": {"energy_weight": 1.0},
    "nearest, L_sym": {"symmetry_weight": 3.0},
    "nearest, L_recon": {"reconstruction_weight": 3.0},
    "nearest, L_adv": {"adversarial_weight": 0.1},
}
"""Name to options of the task; each of the last five differs from ``nearest description`` in one weight."""


@dataclass(frozen=True)
class Budget:
    """What all rows share; ``crystals`` of mp_val for errors and losses, ``matched`` of them for match rates."""

    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: int = 50
    ema: float = 0.98
    channels: int = 32
    layers: int = 2
    encoder_layers: int = 1
    seed: int = 0
    crystals: int = 500
    matched: int = 100
    flow_steps: int = 10

    @property
    def network(self) -> dict[str, int]:
        return {"channels": self.channels, "layers": self.layers, "encoder_layers": self.encoder_layers}


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some rows of data, as data."""

    data: OrbitCrystals
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_atoms(self) -> Tensor:
        return self.data.n_atoms[self.rows]

    def take(self, rows: Tensor) -> tuple[OrbitBatch, dict[str, Tensor]]:
        return self.data.take(self.rows[rows])


def chosen(data: OrbitCrystals, count: int, seed: int) -> Chosen:
    """``count`` crystals drawn without replacement, again from the beginning where there are fewer."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return Chosen(data, order.repeat(-(-count // len(data)))[:count])


def trained(
    options: dict[str, Any], budget: Budget, data: OrbitCrystals, val: OrbitCrystals, directory: Path
) -> tuple[AutoPeriGnn, float]:
    """The network of a row, and the seconds of processor time that its training took."""
    weights, model, record = (
        directory / "autoperi_gnn.safetensors",
        AutoPeriGnn(**budget.network),
        directory / "budget.json",
    )
    made_with = {"options": options, "budget": asdict(budget)}
    if weights.exists() and json.loads(record.read_text())["made_with"] == made_with:
        model.load_state_dict(load_file(weights))
        return model, json.loads(record.read_text())["seconds"]
    config = TrainingConfig(
        "autoperi_gnn",
        1,
        budget.batch_size,
        budget.learning_rate,
        ema=budget.ema,
        warmup=budget.warmup,
        optimizer="muon",
        seed=budget.seed,
        model_config=budget.network,
        task_config=options,
    )
    initial = {"element_volume": data.element_volume.float()}
    every, few = (
        chosen(data, budget.steps * budget.batch_size, budget.seed),
        chosen(val, budget.batch_size, budget.seed),
    )
    started = time.process_time()
    found, _ = train(config, train_data=every, val_data=few, directory=directory, device="cpu", initial=initial)
    seconds = round(time.process_time() - started, 1)
    save_file({k: v.contiguous() for k, v in found.state_dict().items()}, weights)
    record.write_text(json.dumps({"made_with": made_with, "seconds": seconds}))
    assert isinstance(found, AutoPeriGnn)
    return found, seconds


def errors(model: AutoPeriGnn, val: Chosen, potential: str) -> dict[str, float]:
    """Means over crystals of the velocity's error from noise and near, to the nearest description, and of the physical
    losses.
    """
    task = AutoPeriGnnTask(
        model, total_steps=1, energy_weight=1.0, symmetry_weight=1.0, reconstruction_weight=1.0, potential=potential
    )
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for k, rows in enumerate(torch.arange(len(val)).split(64)):
            for name, values in task.losses(model, val.take(rows)[0], torch_generator(0, k)).items():
                parts.setdefault(name, []).append(values)
    found = {name: torch.cat(values) for name, values in parts.items()}
    near = found.pop("near")
    error = found.pop("error")
    means = {
        "noise": error[~near].mean(),
        "near": error[near].mean(),
        **{name: values.mean() for name, values in found.items()},
    }
    return {name: round(float(value), 6) for name, value in means.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--runs", type=Path, default=Path(".train/gnn/losses"))
    parser.add_argument("--out", type=Path, default=RESULTS / "autoperi_gnn_losses_mp_val.json")
    parser.add_argument("--potential", default="autoperi-base", help="model whose potential L_energy takes")
    parser.add_argument("--steps", type=int, default=Budget.steps)
    parser.add_argument("--crystals", type=int, default=Budget.crystals)
    parser.add_argument("--matched", type=int, default=Budget.matched)
    parser.add_argument("--only", nargs="+", help="beginnings of the names of rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    budget = Budget(steps=args.steps, crystals=args.crystals, matched=args.matched)
    head = {
        "task": "autoperi_gnn_losses",
        "budget": asdict(budget),
        "potential": Path(args.potential).name,
        "threads": 1,
    }
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    found = old["rows"] if all(old.get(key) == value for key, value in head.items()) else {}
    data, val = OrbitCrystals.load(args.data), OrbitCrystals.load(args.val)
    measured = chosen(val, min(budget.crystals, len(val)), budget.seed)
    for name, options in ROWS.items():
        if found.get(name, {}).get("options") == options or (args.only and not name.startswith(tuple(args.only))):
            continue
        started = time.perf_counter()
        told = options | ({"potential": args.potential} if options.get("energy_weight") else {})
        model, seconds = trained(told, budget, data, val, args.runs / "".join(c if c.isalnum() else "_" for c in name))
        rows = measured.rows[: budget.matched].sort().values
        made = evaluate(
            model.eval(), val, rows, names=SAMPLED, seed=budget.seed, steps=budget.flow_steps, method="midpoint"
        )
        found[name] = {
            "options": options,
            "seconds": seconds,
            "errors": errors(model, measured, args.potential),
            **{key: made[key] for key in SAMPLED},
        }
        ordered = {key: found[key] for key in ROWS if key in found}  # in their order, whatever was run first
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(head | {"rows": ordered}, indent=1) + "\n")
        print(name, found[name], f"{time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
