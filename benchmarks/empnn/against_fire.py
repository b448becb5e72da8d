"""How many force calls the lattice relaxer saves: relax_lattice and then FIRE, against FIRE alone from the same
deformed crystals.

usage: python benchmarks/empnn/against_fire.py TABLE [--model autoperi-base] [--limit 200] [--sigma 0.1] --out
RESULT.json

Every crystal is deformed as `autoperi evaluate denoise` deforms it. One force call is one evaluation of energy, forces
and stress of one crystal; FIRE moves positions and cell, in batches, until forces and scaled stress are below 0.05
eV/Å. The potential is the model's in both ways.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi import AutoPeri
from autoperi.evaluation.common import facts, load
from autoperi.evaluation.denoise import deformed
from autoperi.hub.networks import potential_of
from autoperi.models.potential import Potential
from autoperi.relax.positions import relax

STEPS = (0, 1, 2, 5, 10, 20, 40, 80, 160)
"""FIRE steps after which energies are compared."""
SHORT = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=160, help="most FIRE steps of a full relaxation (default: 160)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    peri = AutoPeri.from_pretrained(args.model, device="cpu")
    potential = potential_of(peri.bundle)
    table, rows = load(args.table, args.limit, args.seed)
    clean = table[rows]
    noisy = deformed(clean, rows, args.seed, args.sigma)
    started = time.perf_counter()
    relaxed = peri.relax_lattice(noisy, progress=False)
    seconds = time.perf_counter() - started
    grid = [s for s in STEPS if s <= args.steps]
    # the end of the undeformed crystals' own relaxation is the zero of energies
    zero, undeformed = _energies(potential, clean.structures(), grid[-1])
    energies: dict[str, np.ndarray] = {}
    full: dict[str, Any] = {"undeformed": undeformed}
    for way, starts in (("fire", noisy), ("relax_lattice and fire", relaxed)):
        runs = {steps: _energies(potential, starts, steps) for steps in grid}
        energies[way] = np.stack([runs[s][0] for s in grid])  # [steps, crystals], eV/atom
        full[way] = runs[grid[-1]][1] | {
            "seconds_fire_after_steps": {str(s): runs[s][1]["seconds_fire"] for s in grid},
            "energy_above_undeformed_eV_per_atom": {
                str(s): _summary(energies[way][k] - zero) for k, s in enumerate(grid)
            },
        }
    reached = energies["relax_lattice and fire"][grid.index(SHORT)]
    result = {
        "task": "against_fire",
        "n": len(rows),
        "sigma": args.sigma,
        "ways": full,
        "seconds_relax_lattice": round(seconds, 2),
        "calls_saved": _saved(energies["fire"], reached, grid),
        "lower_after_relax_lattice": _share(
            energies["relax_lattice and fire"][0] < energies["fire"][0], energies["fire"][0]
        ),
        "calculator": "the potential of the model",
        **facts(
            args.table,
            peri.provenance(),
            args.seed,
            parameters={k: str(v) for k, v in vars(args).items() if k not in ("out", "table", "model")},
        ),
    }
    args.out.write_text(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))
    return 0


def _energies(potential: Potential, starts: list[Any], steps: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Energies in eV/atom after so many steps (NaN where the relaxation failed), and how the runs went."""
    started = time.perf_counter()
    with torch.no_grad():
        found = relax(potential, starts, steps=steps, progress=False)
    seconds = time.perf_counter() - started
    calls = [r.steps + 1 for r in found]
    ends = [r.status.split(":")[0] for r in found]
    energy = np.array([np.nan if r.energy is None else r.energy / len(s) for r, s in zip(found, starts, strict=True)])
    return energy, {
        "force_calls_mean": round(float(np.mean(calls)), 2),
        "force_calls_median": float(np.median(calls)),
        "status": {word: ends.count(word) for word in sorted(set(ends))},
        "seconds_fire": round(seconds, 2),
    }


def _saved(alone: np.ndarray, reached: np.ndarray, grid: list[int]) -> dict[str, Any]:
    """Force calls that FIRE alone needs to come as low as relax_lattice and :data:`SHORT` steps, between the steps of
    the grid linearly.
    """
    calls: list[float] = []
    never = 0
    for k, goal in enumerate(reached):
        path = np.minimum.accumulate(np.where(np.isfinite(alone[:, k]), alone[:, k], np.inf))
        if not np.isfinite(goal):
            continue
        below = np.nonzero(path <= goal)[0]
        if not len(below):
            never += 1
            continue
        j = int(below[0])
        if j == 0:
            calls.append(1.0)
            continue
        part = (path[j - 1] - goal) / (path[j - 1] - path[j]) if np.isfinite(path[j - 1]) else 1.0
        calls.append(1 + grid[j - 1] + part * (grid[j] - grid[j - 1]))
    return {
        "crystals": len(calls) + never,
        "never_reached": never,
        "median_calls_of_fire_alone": round(float(np.median(calls + [np.inf] * never)), 1) if calls else None,
        "mean_calls_of_fire_alone_where_reached": round(float(np.mean(calls)), 1) if calls else None,
        "calls_with_relax_lattice": SHORT + 1,
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    good = values[np.isfinite(values)]
    return {"mean": round(float(good.mean()), 4), "median": round(float(np.median(good)), 4), "of": len(good)}


def _share(yes: np.ndarray, known: np.ndarray) -> float:
    return round(float(yes[np.isfinite(known)].mean()), 4)


if __name__ == "__main__":
    raise SystemExit(main())
