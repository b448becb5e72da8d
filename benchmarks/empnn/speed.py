"""Crystals per second of relax_lattice, strained by σ = 0.1, cells of 8 to 12 atoms.

usage: python benchmarks/empnn/speed.py TABLE [--model autoperi-base] [--threads 2] [--limit 1000] --out RESULT.json

Everything counts: reading structures, the passes, and making structures again. The best of three runs in each
precision, after one that warms up.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from autoperi import AutoPeri
from autoperi.data.io import read_table
from autoperi.evaluation.common import facts
from autoperi.evaluation.denoise import deformed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = read_table(args.table)
    rows = [k for k, numbers in enumerate(table.atomic_numbers) if 8 <= len(numbers) <= 12][: args.limit]
    noisy = deformed(table[rows], rows, 0, 0.1)
    rates, processor = {}, {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        peri = AutoPeri.from_pretrained(args.model, device="cpu", dtype=dtype)
        peri.relax_lattice(noisy[:64], progress=False)
        walls, spent = [], []
        for _ in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            relaxed = peri.relax_lattice(noisy, progress=False)
            walls.append(time.perf_counter() - wall)
            spent.append(time.process_time() - cpu)
        rates[name] = round(len(rows) / min(walls), 1)
        processor[name] = round(1000 * min(spent) / len(rows), 3)
    result = {
        "task": "empnn_speed",
        "n": len(rows),
        "mean_atoms": round(float(np.mean([len(s) for s in noisy])), 2),
        "mean_passes": round(float(np.mean([s.properties["autoperi"]["relaxation"]["passes"] for s in relaxed])), 2),
        "threads": args.threads,
        "crystals_per_second": rates,
        "cpu_ms_per_crystal": processor,
        **facts(args.table, peri.provenance(), 0),
    }
    args.out.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
