"""Speed and memory of the main job, as one JSON object.

usage: python benchmarks/speed.py [--threads 2] [--model NAME_OR_DIR] [--out speed.json]

``generate``: candidates per second over common compositions, model already loaded; peak memory of this process;
seconds of ``import autoperi`` and of ``autoperi generate NaCl -n 1`` from the shell (second of two runs).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

FORMULAS = ("NaCl", "LiFePO4", "SrTiO3", "Fe2O3", "MgAl2O4", "CaCO3", "GaAs", "Li2MnO3", "BaSO4", "Cu2ZnSnS4")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--out")
    args = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    imports = _seconds([sys.executable, "-c", "import autoperi"], environment)
    shell = _seconds([sys.executable, "-m", "autoperi", "generate", "NaCl", "-n", "1", "--model", args.model], environment)
    import torch

    from autoperi import AutoPeri

    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    peri.generate("NaCl", n=2, seed=0)
    started, made, atoms = time.perf_counter(), 0, 0
    for formula in FORMULAS:
        found = peri.generate(formula, n=20, seed=0)
        made += len(found)
        atoms += sum(len(s) for s in found)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    fresh = peri.generate(None, n=100, seed=0)
    de_novo = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    result = {
        "task": "speed",
        "threads": args.threads,
        "load_average": round(os.getloadavg()[0], 1),
        "candidates": made,
        "mean_atoms": round(atoms / made, 1),
        "candidates_per_second": round(made / seconds, 1),
        "de_novo_per_second": round(len(fresh) / de_novo, 1),
        "peak_memory_GiB": round(peak, 2),
        "import_seconds": round(imports, 3),
        "shell_generate_NaCl_seconds": round(shell, 2),
        "model": peri.provenance(),
    }
    text = json.dumps(result)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    subprocess.run(command, check=True, capture_output=True, env=environment)  # warms the disk
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
