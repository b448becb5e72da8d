"""What the switches of GemsDiff are worth: the same few epochs with each of them, and both ways of moving atoms.

Every folder of RUNS is ``OUT`` of one ``autoperi train gemsdiff``; its name is that of the row. One seed each.

    python benchmarks/gemsdiff/ablation.py mp_val.parquet RUNS --limit 400 --steps 30 --out FILE

Rows that FILE holds already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from sample import drawn, energies_of, hardware, judged, sampler_of, truths_of

from autoperi import AutoPeri
from autoperi.processes.diffusion import POSITIONS

ROWS = ("paper", "ours_unweighted", "ours", "nearest", "none", "none_nearest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("--rows", nargs="+", default=ROWS, help="folders of RUNS")
    parser.add_argument("--judge", default="autoperi-base")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    judge = AutoPeri.from_pretrained(args.judge)
    truths, _ = truths_of(args.table, args.limit, args.seed)
    energies = energies_of(judge, truths)
    about = {
        "task": "gemsdiff_ablation",
        "data": args.table.name,
        "crystals": len(truths),
        "steps": args.steps,
        "seed": args.seed,
        "judge": judge.provenance(),
    }
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if {key: result.get(key) for key in about} != about:
        result = {**about, "threads": args.threads, "hardware": hardware(), "rows": {}}
    for name in args.rows:
        peri = AutoPeri.from_pretrained(str(args.runs / name / "model"))
        row = result["rows"].setdefault(name, trained(args.runs / name) | {"model_sha256": peri.provenance()["sha256"]})
        for positions in POSITIONS:
            if positions in row:
                continue
            started = time.perf_counter()
            pipeline = sampler_of(peri, positions)
            draws = drawn(pipeline, truths, 1, args.steps, args.seed, args.batch_size)
            speed = {"crystals_per_second": round(len(truths) / (time.perf_counter() - started), 2)}
            row[positions] = speed | judged(draws, truths, judge, energies, frechet=False)
            print(name, positions, json.dumps(row[positions]), flush=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


def trained(run: Path) -> dict[str, Any]:
    """How a run was trained, and where it ended."""
    settings = json.loads((run / "checkpoints" / "training.json").read_text())
    last = json.loads((run / "checkpoints" / "history.jsonl").read_text().splitlines()[-1])
    kept = ("epochs", "batch_size", "learning_rate", "optimizer", "seed", "model_config", "task_config")
    return {key: settings[key] for key in kept} | {"last_epoch": last}


if __name__ == "__main__":
    main()
