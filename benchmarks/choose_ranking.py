"""Choose the ranking temperature and the number of relaxation passes of ``generate`` on a validation table.

usage: python benchmarks/choose_ranking.py VAL.parquet [--limit 400] [--model NAME_OR_DIR] [--out choices.json]

For every composition the first 20 candidates are generated with 0, 1 and 2 lattice passes and matched with the truth;
match@1 is then recomputed for each temperature from the same candidates. Rows whose crystal is in the training set in
all but name (the same composition in the matching prototype) are reported apart: a test crystal never is.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from autoperi import AutoPeri
from autoperi.evaluation.common import load
from autoperi.metrics.match import match_rms, matcher
from autoperi.progress import progress_bar

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    peri, judge = AutoPeri.from_pretrained(args.model), matcher()
    table, rows = load(args.data, args.limit, args.seed)
    structures = table[rows].structures()
    result = {"data": Path(args.data).name, "n": len(rows), "seed": args.seed, "model": peri.provenance(), "passes": {}}
    for steps in args.steps:
        log_p, energy, rms = [], [], []
        with progress_bar(len(structures), enabled=None, description=f"{steps} passes") as bar:
            for truth in structures:
                found = peri.generate(
                    truth.composition, n=20, num_atoms=len(truth), seed=args.seed, steps=steps, rank="none", strict=False, progress=False
                )
                notes = [s.properties["autoperi"] for s in found]
                log_p.append([-12.0 if n["log_likelihood"] is None else n["log_likelihood"] for n in notes])
                energy.append([n["formation_energy_per_atom_eV"] for n in notes])
                rms.append(match_rms(found, truth, judge=judge))
                bar.update()
        row = {"probability": _at(log_p, energy, rms, None)}
        row |= {str(t): _at(log_p, energy, rms, t) for t in TEMPERATURES}
        result["passes"][str(steps)] = row
        sys.stderr.write(f"{steps} passes: " + json.dumps(row) + "\n")
    text = json.dumps(result, indent=1)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


def _at(log_p: list, energy: list, rms: list, temperature: float | None) -> dict[str, float | None]:
    first, five, best = [], 0, 0
    for p, e, r in zip(log_p, energy, rms, strict=True):
        score = -np.array(p) if temperature is None else np.array(e) / temperature - np.array(p)
        order = np.argsort(score, kind="stable")
        ranked = [r[k] for k in order]
        first.append(ranked[0] if ranked else None)
        five += any(x is not None for x in ranked[:5])
        best += any(x is not None for x in ranked)
    matched = [x for x in first if x is not None]
    n = len(first)
    return {
        "match_at_1": round(len(matched) / n, 4),
        "match_at_5": round(five / n, 4),
        "match_at_20": round(best / n, 4),
        "rmse": round(float(np.mean(matched)), 4) if matched else None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
