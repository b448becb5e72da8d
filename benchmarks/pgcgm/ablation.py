"""What each loss of PGCGM is worth (Zhao et al. 2023, Table 1: PGCGM, + dist, + dist + coor), over three seeds, and
what our own switches are worth beside them.

Every arm is trained on the same ternary crystals of the paper's 20 space groups for the same number of batches, and
then draws `--n` ternaries, judged as by sample.py against the validation table. Data are read once and kept in RUNS.

    python benchmarks/pgcgm/ablation.py TRAIN.parquet mp_val.parquet RUNS --epochs 2 --out FILE
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sample import of_base_sites, run

from autoperi import AutoPeri
from autoperi.chemistry.descriptors import pgcgm_properties
from autoperi.data.io import read_table
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import network_component
from autoperi.pipelines.one_shot import OneShotPipeline
from autoperi.pipelines.request import make_request
from autoperi.training.base_site_data import (
    PAPER_GROUPS,
    BaseSiteCrystals,
    base_site_crystals,
    element_volumes,
    occurrences_of,
)
from autoperi.training.run import TrainingConfig, train

NO_LOSSES = {"weights": [0.0, 0.0, 0.0, 0.0]}
DISTANCES = {"weights": [1.0, 1.0, 0.0, 0.0]}
NEAREST: dict[str, Any] = {"nearest": True, "inter": [0.85, 2.2], "intra": [0.0, 0.0]}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, NO_LOSSES),
    "distances": ({}, DISTANCES),
    "distances and coordinates": ({}, {}),
    "the same, equation 6 as printed": ({}, {"printed": True}),
    "joined, none": ({"joined": True}, NO_LOSSES),
    "joined, distances": ({"joined": True}, DISTANCES),
    "joined, nearest images": ({"joined": True}, {**DISTANCES, **NEAREST}),
    "joined, nearest images, natural volumes": ({"joined": True, "natural": True}, {**DISTANCES, **NEAREST}),
}
"""Options of the network and of the training of each arm."""
MERGE = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("runs", metavar="RUNS", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--critic-steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--judged", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    args.runs.mkdir(parents=True, exist_ok=True)
    sides = {
        name: crystals(path, args.runs / f"{name}.safetensors", repeats)
        for name, path, repeats in (("train", args.train, args.repeats), ("val", args.val, 1))
    }
    counts, together = occurrences_of(sides["train"])
    volumes = element_volumes(sides["train"], merge=MERGE)
    properties = torch.as_tensor(pgcgm_properties()).float()
    initial = {"element_volume": volumes, "properties": properties, "occurrences": counts, "together": together}
    result: dict[str, Any] = {
        "data": [args.train.name, args.val.name],
        "crystals": len(sides["train"].groups),
        "n": args.n,
        "epochs": args.epochs,
        "critic_steps": args.critic_steps,
        "repeats": args.repeats,
        "merge": MERGE,
        "runs": [],
    }
    reference = None
    for seed in args.seeds:
        for arm in args.arms:
            network, task = ARMS[arm]
            folder = args.runs / f"{'-'.join(arm.replace(',', '').split())}-{seed}"
            config = TrainingConfig(
                model="pgcgm",
                epochs=args.epochs,
                batch_size=128,
                learning_rate=5e-4,
                seed=seed,
                model_config={**network, "merge": MERGE},
                task_config={**task, "critic_steps": args.critic_steps},
            )
            started = time.perf_counter()
            made, _ = train(
                config,
                train_data=sides["train"],
                val_data=sides["val"],
                directory=folder,
                device="cpu",
                initial=initial,
                resume=True,
            )
            minutes = (time.perf_counter() - started) / 60
            save_bundle(Bundle("pgcgm", {"pgcgm": network_component(made)}, {"pipeline": "one_shot"}), folder / "model")
            peri = AutoPeri.from_pretrained(folder / "model")
            request = make_request(n=args.n, seed=seed)
            if reference is None:
                pipeline = peri.pipeline
                assert isinstance(pipeline, OneShotPipeline)
                weight = pipeline.elements(request).weight
                reference = [s for s, _ in of_base_sites(read_table(args.val), weight)]
            figures = run(peri, request, reference, args.judged)
            result["runs"].append({"arm": arm, "seed": seed, "minutes": round(minutes, 1), **figures})
            print(json.dumps(result["runs"][-1]), flush=True)
            result["table"] = {name: over_seeds(result["runs"], name) for name in args.arms}
            if args.out:
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["table"], indent=1))


def crystals(path: Path, kept: Path, repeats: int) -> BaseSiteCrystals:
    """The ternaries of the paper's groups in a table, from the file where they were kept."""
    if not kept.exists():
        base_site_crystals(path, slots=3, fewest=3, groups=PAPER_GROUPS, max_atoms=40, repeats=repeats).save(kept)
    return BaseSiteCrystals.load(kept)


def over_seeds(runs: list[dict[str, Any]], arm: str) -> dict[str, list[float]]:
    """Mean and standard deviation of the figures of an arm, and of how many seeds."""
    own = [r for r in runs if r["arm"] == arm]
    found: dict[str, list[float]] = {}
    for name, read in FIGURES.items():
        values = [v for v in (read(r) for r in own) if v is not None]
        if values:
            found[name] = [round(float(np.mean(values)), 4), round(float(np.std(values)), 4), len(values)]
    return found


FIGURES = {
    "readable": lambda r: r["readable"],
    "returned": lambda r: r["returned"]["value"],
    "group_kept": lambda r: r["group_kept"]["value"],
    **{
        name: lambda r, name=name: r["table_1"][name]["value"] for name in ("distance", "neutral", "radii", "diversity")
    },
    **{
        name: lambda r, name=name: r["table_1"]["wasserstein"][name]["value"]
        for name in ("min_distance", "max_distance", "density")
    },
}


if __name__ == "__main__":
    main()
