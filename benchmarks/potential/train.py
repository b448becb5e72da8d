"""Train the potential on the frames of ``build_training_set.py``; the encoder starts from the formation-energy model of
``autoperi-base``.

    python benchmarks/potential/train.py --data .train/potential/train.safetensors --val
    .train/potential/val.safetensors \\
        --out .train/potential/run --epochs 20 [--resume]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from autoperi.hub import load_bundle, resolve, state_of
from autoperi.training.data import TensorCrystals
from autoperi.training.run import TrainingConfig, train
from autoperi.training.tasks.potential import element_constants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "muon"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--from-scratch", action="store_true", help="random encoder instead of that of autoperi-base")
    parser.add_argument("--start", help="safetensors of an earlier run to go on from (a new schedule)")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, val = TensorCrystals.load(args.data), TensorCrystals.load(args.val)
    if args.limit:
        crystals, labels = data.take(
            torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: args.limit]
        )
        data = TensorCrystals(crystals, {k: labels[k] for k in data.labels}, {k: labels[k] for k in data.atom_labels})
    initial = {"reference": element_constants(data.crystals, data.labels["energy"]).float()}
    if args.start:
        from safetensors.torch import load_file

        initial = load_file(args.start)
    elif not args.from_scratch:
        tensors = load_bundle(resolve("autoperi-base").path).components["formation_energy"].tensors
        initial |= {k: v for k, v in tensors.items() if k.startswith(("backbone.", "head."))}
    config = TrainingConfig("potential", args.epochs, args.batch_size, args.learning_rate, optimizer=args.optimizer)
    model, summary = train(
        config, train_data=data, val_data=val, directory=args.out, resume=args.resume, device="cpu", initial=initial
    )
    model.set_seen(data.crystals.atomic_numbers)
    save_file(state_of(model), str(args.out / "potential.safetensors"))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
