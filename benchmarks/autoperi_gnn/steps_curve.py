"""How match rate and RMSE of the flow from noise grow with the number of network calls: the measurement and its figure.

    python benchmarks/autoperi_gnn/steps_curve.py --data .train/gnn/val.safetensors --limit 300

Space group and orbits are given, as in sample.py. Each point is kept as soon as it is there; the same command goes on
with what is missing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from figures import draw_steps_curve
from flow_weights import add_options, tried_on
from sample import evaluate

ROOT = Path(__file__).resolve().parents[2]
RESULTS, FIGURE = (
    ROOT / "benchmarks" / "results" / "steps_curve_mp_val.json",
    ROOT / "docs" / "images" / "steps_curve.png",
)
CALLS = (2, 4, 8, 20, 40)
"""Evaluations of the network for one crystal."""
SERIES: dict[str, dict[str, Any]] = {
    "midpoint": {"method": "midpoint", "slope": 0.0, "calls": 2},
    "euler": {"method": "euler", "slope": 0.0, "calls": 1},
    "annealed_5": {"method": "euler", "slope": 5.0, "calls": 1},
    "annealed_20": {"method": "euler", "slope": 20.0, "calls": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args()
    model, sha256, data, rows = tried_on(args)
    about = {"task": "steps_curve", "crystals": len(rows), "seed": args.seed, "flow_sha256": sha256}
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    if {k: result.get(k) for k in about} != about:
        result = {**about, "series": {name: {} for name in SERIES}}
    for calls in CALLS:
        for name, how in SERIES.items():
            if str(calls) not in result["series"][name]:
                solver = {"method": how["method"], "anneal": how["slope"], "steps": calls // how["calls"]}
                found = evaluate(model, data, rows, names=("noise",), seed=args.seed, **solver)
                result["series"][name][str(calls)] = found["noise"] | found["speed"]
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    draw_steps_curve(result, args.figure)
    print(json.dumps(result["series"], indent=1))


if __name__ == "__main__":
    main()
