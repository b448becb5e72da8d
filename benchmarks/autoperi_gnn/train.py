"""Train AutoPeri-GNN's encoder and flow: crystals to orbits once, then flow matching.

    python benchmarks/autoperi_gnn/train.py prepare --data mp_train.parquet --out .train/gnn/train.safetensors
    python benchmarks/autoperi_gnn/train.py prepare --data mp_val.parquet --like .train/gnn/train.safetensors
        --out .train/gnn/val.safetensors
    python benchmarks/autoperi_gnn/train.py train --data .train/gnn/train.safetensors
        --val .train/gnn/val.safetensors --out .train/gnn/run --resume

``train`` needs torch, e3nn, numpy, safetensors and lightning alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from autoperi.registry import kind_named
from autoperi.training.orbit_data import OrbitCrystals
from autoperi.training.request import options_of
from autoperi.training.run import TrainingConfig, first_process, train
from autoperi.training.tasks.autoperi_gnn import ENDS

DEFAULTS = options_of(kind_named("autoperi_gnn"))[1]
OPTIONS = [name for name, value in DEFAULTS.items() if isinstance(value, float)]
"""Weights and shares of the task, each an option of ``train``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare", help="a table of crystals to tensors")
    one.add_argument("--data", required=True)
    one.add_argument("--like", type=Path, help="tensors whose element volumes are taken; without it they are fitted")
    one.add_argument("--max-atoms", type=int, default=24)
    two = commands.add_parser("train", help="flow matching")
    two.add_argument("--data", required=True)
    two.add_argument("--val", required=True)
    two.add_argument("--epochs", type=int, default=30)
    two.add_argument("--batch-size", type=int, default=32)
    two.add_argument("--learning-rate", type=float, default=3e-3)
    two.add_argument("--layers", type=int, default=4)
    two.add_argument("--channels", type=int, default=64)
    two.add_argument("--initial", type=Path, help="weights to go on from, such as the bundled flow.safetensors")
    for name in OPTIONS:
        two.add_argument(f"--{name.replace('_', '-')}", type=float, default=DEFAULTS[name])
    two.add_argument(
        "--ends", choices=ENDS, default=DEFAULTS["ends"], help="description of the crystal that a path ends at"
    )
    two.add_argument("--potential", default=DEFAULTS["potential"], help="model whose potential --energy-weight takes")
    two.add_argument("--devices", type=int, default=1)
    two.add_argument("--threads", type=int, default=1)
    two.add_argument("--device", default="auto")
    two.add_argument("--resume", action="store_true")
    for sub in (one, two):
        sub.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(getattr(args, "threads", 1))
    prepare(args) if args.command == "prepare" else run(args)


def prepare(args: argparse.Namespace) -> None:
    from autoperi.training.orbit_data import orbit_table

    volume = OrbitCrystals.load(args.like).element_volume if args.like else None
    data, failed = orbit_table(args.data, max_atoms=args.max_atoms, element_volume=volume)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data.save(args.out)
    free = data.freedom.space.dimensions.double()
    print(
        json.dumps({"crystals": len(data), "failed": len(failed), "mean_free_parameters": round(float(free.mean()), 2)})
    )


def run(args: argparse.Namespace) -> None:
    data, val = OrbitCrystals.load(args.data), OrbitCrystals.load(args.val)
    config = TrainingConfig(
        "autoperi_gnn",
        args.epochs,
        args.batch_size,
        args.learning_rate,
        optimizer="muon",
        model_config={"layers": args.layers, "channels": args.channels},
        task_config={name: getattr(args, name) for name in (*OPTIONS, "ends", "potential")},
    )
    initial = (load_file(args.initial) if args.initial else {}) | {"element_volume": data.element_volume.float()}
    model, summary = train(
        config,
        train_data=data,
        val_data=val,
        directory=args.out,
        resume=args.resume,
        device=args.device,
        devices=args.devices,
        initial=initial,
    )
    if not first_process():
        return
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(args.out / "autoperi_gnn.safetensors"))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
