"""What the flow of AutoPeri-GNN does with space group and orbits given: match rate and RMSE of held-out crystals.

Four rows: from noise alone; from noise through the latent vector of the crystal itself (reconstruction); near a start
that is the crystal with its lattice strained and its free coordinates moved; and that start itself. ``--anneal``
repeats them with faster coordinates towards the end.

    python benchmarks/autoperi_gnn/sample.py --data .train/gnn/val.safetensors --limit 300 --steps 5 10 20
    python benchmarks/autoperi_gnn/sample.py --data .train/gnn/val.safetensors --rows noise --anneal 0 2 5 10 --method
    euler
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flow_weights import add_options, tried_on
from pymatgen.analysis.structure_matcher import StructureMatcher
from torch import Tensor

from autoperi.data.convert import to_structures
from autoperi.data.random import torch_generator
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL
from autoperi.models.autoperi_gnn import NEAR, AutoPeriGnn
from autoperi.pipelines.flow import sample
from autoperi.processes.flow import METHODS, crystal_noise
from autoperi.training.orbit_data import OrbitCrystals

BATCH = 64
ROWS = ("noise", "latent", "near", "start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--method", choices=METHODS, default="midpoint")
    parser.add_argument(
        "--anneal", type=float, nargs="+", default=[0.0], help="slopes of velocity annealing; 0 follows the flow"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, sha256, data, rows = tried_on(args)
    result: dict[str, Any] = {
        "crystals": len(rows),
        "mean_atoms": round(float(data.n_atoms[rows].double().mean()), 1),
        "seed": args.seed,
        "method": args.method,
        "flow_sha256": sha256,
        "threads": torch.get_num_threads(),
    }
    for slope in args.anneal:
        how = {"method": args.method, "anneal": slope}
        found = {
            str(s): evaluate(model, data, rows, names=args.rows, seed=args.seed, steps=s, **how) for s in args.steps
        }
        if slope:
            result.setdefault("annealed", {})[f"{slope:g}"] = found
        else:
            result["steps"] = found
        if args.out:  # what is there survives an interruption
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def evaluate(
    model: AutoPeriGnn, data: OrbitCrystals, rows: Tensor, *, names: Sequence[str], seed: int, **how: Any
) -> dict[str, dict[str, float]]:
    """Match rate and RMSE by name of :data:`ROWS`, sampled as ``how`` says, and the speed of the first that is
    named.
    """
    found: dict[str, list] = {name: [] for name in names}
    truth: list = []
    seconds = 0.0
    for part in rows.split(BATCH):
        batch, _ = data.take(part)
        freedom, y = batch.freedom.to(dtype=torch.float32), batch.y.float()
        noise, moved = (
            crystal_noise(freedom, [torch_generator(seed, kind, int(row)) for row in part]).float() for kind in (0, 1)
        )
        with torch.no_grad():
            begin = model.base(freedom, y, NEAR).draw(moved)
            # near: the start is the density's own draw, with no noise added the flow begins there
            options = {"noise": {}, "latent": {"z": model.encode(freedom.crystals(y))[0]}, "near": {"centre": begin}}
            for name in names:
                started = time.perf_counter()
                still = 0 * noise if name == "near" else noise
                at = begin if name == "start" else sample(model, freedom, still, **options[name], **how)
                seconds += time.perf_counter() - started if name == names[0] else 0.0
                found[name] += to_structures(freedom.crystals(at))
        truth += to_structures(freedom.crystals(y))
    return {name: matched(truth, made) for name, made in found.items()} | {
        "speed": {"crystals_per_second": round(len(rows) / seconds, 2)}
    }


def matched(truth: list, made: list) -> dict[str, float]:
    """Share of crystals that match, its standard error, and the mean RMSE of those."""
    return rates(rms_distances(truth, made))


def rms_distances(truth: list, made: list) -> list[float | None]:
    """RMSE of each pair over (V/N)^(1/3), None where it does not match."""
    matcher = StructureMatcher(ltol=LTOL, stol=STOL, angle_tol=ANGLE_TOL)
    found = [matcher.get_rms_dist(a, b) for a, b in zip(truth, made, strict=True)]
    return [None if pair is None else float(pair[0]) for pair in found]


def rates(rms: list[float | None]) -> dict[str, float]:
    """Share of pairs that match, its standard error, and the mean RMSE of those."""
    hits = [r for r in rms if r is not None]
    rate = len(hits) / len(rms)
    return {
        "match_rate": round(rate, 4),
        "standard_error": round((rate * (1 - rate) / len(rms)) ** 0.5, 4),
        "rmse": round(float(np.mean(hits)), 4) if hits else float("nan"),
    }


if __name__ == "__main__":
    main()
