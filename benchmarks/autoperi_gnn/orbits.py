"""Train the orbit network: crystals to sentences once, then their likelihood.

python benchmarks/autoperi_gnn/orbits.py prepare --data mp_train.parquet --out .train/gnn/sentences.safetensors
python benchmarks/autoperi_gnn/orbits.py prepare --data mp_val.parquet --out .train/gnn/sentences_val.safetensors
python benchmarks/autoperi_gnn/orbits.py train --data .train/gnn/sentences.safetensors
    --val .train/gnn/sentences_val.safetensors --out .train/gnn/orbits --resume
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from autoperi.models.orbit_network import OrbitNetwork, tables
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.orbit_network import OrbitSentences, sentence_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare", help="a table of crystals to sentences")
    one.add_argument("--data", required=True)
    one.add_argument("--max-atoms", type=int)
    two = commands.add_parser("train", help="maximum likelihood")
    two.add_argument("--data", required=True)
    two.add_argument("--val", required=True)
    two.add_argument("--epochs", type=int, default=40)
    two.add_argument("--batch-size", type=int, default=64)
    two.add_argument("--learning-rate", type=float, default=2e-3)
    two.add_argument("--channels", type=int, default=96)
    two.add_argument("--layers", type=int, default=3)
    two.add_argument("--dropout", type=float, default=0.1)
    two.add_argument("--weight-decay", type=float, default=0.05)
    two.add_argument("--optimizer", default="adamw")
    two.add_argument("--threads", type=int, default=1)
    two.add_argument("--device", default="auto")
    two.add_argument("--resume", action="store_true")
    for sub in (one, two):
        sub.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(getattr(args, "threads", 1))
    prepare(args) if args.command == "prepare" else run(args)


def prepare(args: argparse.Namespace) -> None:
    data, failed = sentence_table(args.data, max_atoms=args.max_atoms)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data.save(args.out)
    save_file(tables(), str(args.out.parent / "tables.safetensors"))
    print(
        json.dumps(
            {"crystals": len(data), "failed": failed, "mean_words": round(float(data.n_words.double().mean()), 2)}
        )
    )


def run(args: argparse.Namespace) -> None:
    data, val = OrbitSentences.load(args.data), OrbitSentences.load(args.val)
    config = TrainingConfig(
        "orbit_network",
        args.epochs,
        args.batch_size,
        args.learning_rate,
        weight_decay=args.weight_decay,
        optimizer=args.optimizer,
        ema=0.998,
        model_config={"channels": args.channels, "layers": args.layers, "dropout": args.dropout},
    )
    initial = load_file(str(Path(args.data).parent / "tables.safetensors"))
    model, summary = train(
        config,
        train_data=data,
        val_data=val,
        directory=args.out,
        resume=args.resume,
        device=args.device,
        initial=initial,
    )
    assert isinstance(model, OrbitNetwork)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(args.out / "orbit_network.safetensors"))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
