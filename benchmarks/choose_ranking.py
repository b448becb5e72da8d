"""Choose how ``generate`` ranks, and whether the flow refines prototypes first, on a validation table.

usage: python benchmarks/choose_ranking.py VAL.parquet [--limit 500] [--model NAME_OR_DIR] [--near 0 5] [--out
choices.json]

For every composition 20 candidates are generated with each number of near steps and matched with the truth; match@1 and
match@5 are then computed for the potential and for the formation energy at each temperature from the same candidates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi import AutoPeri
from autoperi.data.convert import to_arrays
from autoperi.evaluation.common import load
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL
from autoperi.metrics.pairs import arrays_of, compare_pairs
from autoperi.pipelines.ranking import Ranker
from autoperi.pipelines.settings import Settings
from autoperi.progress import progress_bar

TEMPERATURES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
ENERGIES = {"potential": "potential_energy_per_atom_eV", "formation energy": "formation_energy_per_atom_eV"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--near", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    peri = AutoPeri.from_pretrained(args.model)
    table, rows = load(args.data, args.limit, args.seed)
    structures = table[rows].structures()
    result: dict[str, Any] = {
        "data": Path(args.data).name,
        "n": len(rows),
        "seed": args.seed,
        "model": peri.provenance(),
        "settings": peri.bundle.metadata.get("settings"),
        "near_steps": {},
    }
    for near in args.near:
        model = peri.with_settings(near_steps=near, known_weight=0.0)
        notes, made = [], []
        with progress_bar(len(structures), enabled=None, description=f"{near} near steps") as bar:
            for truth in structures:
                found = model.generate(
                    truth.composition,
                    n=20,
                    num_atoms=len(truth),
                    seed=args.seed,
                    rank="none",
                    strict=False,
                    progress=False,
                )
                notes.append([s.properties["autoperi"] for s in found])
                made.append([to_arrays(s) for s in found])
                bar.update()
        pairs = [(i, k) for i, k in enumerate(k for k, m in enumerate(made) for _ in m)]
        flat = [c for m in made for c in m]
        rms = compare_pairs(
            flat,
            arrays_of(structures),
            pairs,
            tolerances={"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL},
            processes=1,
        )
        first = np.cumsum([0, *map(len, made)])
        matched = [[r if isinstance(r, float) else None for r in rms[a:b]] for a, b in itertools.pairwise(first)]
        row = {"probability": _at(notes, matched, None, None)}
        row |= {name: {str(t): _at(notes, matched, key, t) for t in TEMPERATURES} for name, key in ENERGIES.items()}
        result["near_steps"][str(near)] = row
        sys.stderr.write(f"{near} near steps: " + json.dumps(row, indent=1) + "\n")
    text = json.dumps(result, indent=1)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


def _cost(note: dict[str, Any], key: str | None, temperature: float | None) -> float:
    """The ranking rule with one of the two energies, or none, at a temperature."""
    if key is None or temperature is None:
        return Ranker(Settings()).cost(None, None, note["log_likelihood"])
    rule = Ranker(Settings(potential_temperature=temperature, energy_temperature=temperature))
    return rule.cost(None, note[key], note["log_likelihood"])


def _at(notes: list, matched: list, key: str | None, temperature: float | None) -> dict[str, float | None]:
    first, five, best = [], 0, 0
    for own, rms in zip(notes, matched, strict=True):
        score = [_cost(n, key if all(key in n for n in own) else None, temperature) for n in own]
        ranked = [rms[k] for k in np.argsort(score, kind="stable")]
        first.append(ranked[0] if ranked else None)
        five += any(x is not None for x in ranked[:5])
        best += any(x is not None for x in ranked)
    hits = [x for x in first if x is not None]
    n = len(first)
    return {
        "match_at_1": round(len(hits) / n, 4),
        "match_at_5": round(five / n, 4),
        "match_at_20": round(best / n, 4),
        "rmse": round(float(np.mean(hits)), 4) if hits else None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
