"""What the flow of AutoPeri-GNN does with space group and orbits given: match rate and RMSE of held-out crystals.

Four rows: from noise alone; from noise through the latent vector of the crystal itself (reconstruction); near a start that is the crystal with its lattice
strained and its free coordinates moved; and that start itself.

    python benchmarks/autoperi_gnn/sample.py --weights .train/gnn/run/autoperi_gnn.safetensors --data .train/gnn/val.safetensors --limit 300 --steps 5 10 20
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from autoperi.convert import to_structures
from autoperi.models.autoperi_gnn import NEAR, AutoPeriGnn, crystal_noise
from autoperi.random import torch_generator
from autoperi.training.orbits import OrbitCrystals

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = json.loads((args.weights.parent / "training.json").read_text())["model_config"]
    model = AutoPeriGnn(**config)
    model.load_state_dict(load_file(args.weights))
    data = OrbitCrystals.load(args.data)
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(args.seed))[: args.limit].sort().values
    result = {
        "crystals": len(rows),
        "seed": args.seed,
        "steps": {str(steps): evaluate(model.eval(), data, rows, steps, args.seed) for steps in args.steps},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text)


def evaluate(model: AutoPeriGnn, data: OrbitCrystals, rows: torch.Tensor, steps: int, seed: int) -> dict[str, dict[str, float]]:
    found: dict[str, list] = {"noise": [], "latent": [], "near": [], "start": []}
    truth, seconds = [], 0.0
    for part in rows.split(BATCH):
        batch, _ = data.take(part)
        freedom, y = batch.freedom.to(dtype=torch.float32), batch.y.float()
        noise, moved = (crystal_noise(freedom, [torch_generator(seed, kind, int(row)) for row in part]).float() for kind in (0, 1))
        with torch.no_grad():
            z, _ = model.encode(freedom.crystals(y))
            begin = model.base(freedom, y, NEAR).draw(moved)
            started = time.perf_counter()
            drawn = {"noise": model.sample(freedom, noise, steps=steps)}
            seconds += time.perf_counter() - started
            drawn["latent"] = model.sample(freedom, noise, z=z, steps=steps)
            # the start is the density's own draw: with no noise added the flow begins there
            drawn["near"] = model.sample(freedom, 0 * noise, centre=begin, steps=steps)
            drawn["start"] = begin
        for name, at in drawn.items():
            found[name] += to_structures(freedom.crystals(at))
        truth += to_structures(freedom.crystals(y))
    return {name: matched(truth, made) for name, made in found.items()} | {"speed": {"crystals_per_second": round(len(rows) / seconds, 2)}}


def matched(truth: list, made: list) -> dict[str, float]:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    rms = [matcher.get_rms_dist(a, b) for a, b in zip(truth, made, strict=True)]
    hits = [r[0] for r in rms if r is not None]
    return {"match_rate": round(len(hits) / len(rms), 4), "rmse": round(float(np.mean(hits)), 4) if hits else float("nan")}


if __name__ == "__main__":
    main()
