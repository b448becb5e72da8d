"""Train the lattice relaxer of autoperi-base on Materials Project, Perov-5 and Carbon-24 together.

usage: python benchmarks/empnn/relaxer.py DATA_DIR --out RUN [--epochs 6] [--resume]

DATA_DIR holds mp_train, perov5_train, carbon24_train and the three *_val tables. RUN/last.ckpt is written after each
epoch (--resume goes on with it), RUN/history.jsonl holds the validation errors of each epoch, RUN/model the component
that tools/build_autoperi_base.py takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from autoperi.data.crystal import CrystalBatch
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.download import load_pretrained
from autoperi.hub.networks import network_component
from autoperi.training.data import TensorCrystals
from autoperi.training.prepare import training_crystals
from autoperi.training.run import TrainingConfig, train

TRAIN = {"mp_train": None, "perov5_train": 4000, "carbon24_train": None}
"""Tables to learn from, and how many of their crystals; the perovskites of Perov-5 are all alike."""
VALIDATION = {"mp_val": 400, "carbon24_val": 150, "perov5_val": 50}
"""Tables that choose, and how many of their crystals are looked at after each epoch."""


def tables(folder: Path, names: dict[str, int | None], *, max_atoms: int, seed: int) -> TensorCrystals:
    """Crystals of several tables one after the other, of each a seeded choice of at most so many."""
    parts = []
    for name, most in names.items():
        crystals = training_crystals(folder / f"{name}.parquet", required=False, max_atoms=max_atoms).crystals
        if most is not None and most < len(crystals):
            crystals = crystals[torch.randperm(len(crystals), generator=torch.Generator().manual_seed(seed))[:most]]
        parts.append(crystals)
    return TensorCrystals(CrystalBatch.cat(parts), {})


def encoder(model: str, part: str) -> dict[str, torch.Tensor]:
    """The backbone of another component of a model: it has seen the elements already."""
    tensors = load_pretrained(model).components[part].tensors
    return {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="crystals of each training table, for trials")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the network, such as channels=48")
    parser.add_argument("--encoder", metavar="MODEL", help="start from an encoder of this model, such as autoperi-base")
    parser.add_argument(
        "--encoder-of",
        default="formation_energy",
        help="the component whose encoder that is (default: formation_energy)",
    )
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: most if args.limit is None else min(args.limit, most or args.limit) for name, most in TRAIN.items()}
    data = tables(args.data, chosen, max_atoms=args.max_atoms, seed=args.seed)
    validation = tables(args.data, VALIDATION, max_atoms=args.max_atoms, seed=args.seed)
    shape = {key: json.loads(value) for key, value in (item.split("=") for item in args.set)}
    config = TrainingConfig(
        "lattice_relaxer",
        args.epochs,
        args.batch_size,
        args.learning_rate,
        weight_decay=1e-3,
        ema=0.998,
        warmup=200,
        optimizer=args.optimizer,
        seed=args.seed,
        model_config=shape,
    )
    initial = None if args.encoder is None else encoder(args.encoder, args.encoder_of)
    network, summary = train(
        config,
        initial=initial,
        train_data=data,
        val_data=validation,
        directory=args.out,
        resume=args.resume,
        device="cpu",
    )
    save_bundle(
        Bundle(name="relaxer", components={"empnn": network_component(network.eval())}, metadata={}), args.out / "model"
    )
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
