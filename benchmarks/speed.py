"""Speed and memory of the main job, as one JSON object.

usage: python benchmarks/speed.py [--threads 2] [--model NAME_OR_DIR] [--out speed.json]

``generate``: candidates per second over common compositions and over compositions with primitive cells of ten atoms,
model already loaded; peak memory of this process; seconds of ``import autoperi`` and of ``autoperi generate NaCl -n 1``
from the shell (second of two runs). ``flow``: crystals of ten atoms that the flow's field is evaluated on in a second,
in batches of 64, its floating-point operations as PyTorch counts them (matrix products alone), and the share of this
machine's own rate of multiplying large matrices, measured in the same run with the same threads and precision.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMULAS = ("NaCl", "LiFePO4", "SrTiO3", "Fe2O3", "MgAl2O4", "CaCO3", "GaAs", "Li2MnO3", "BaSO4", "Cu2ZnSnS4")
TEN_ATOMS = (
    *("Al2O3", "Fe2O3", "Ti2O3", "V2O3", "Cr2O3", "Bi2Te3", "Sb2Se3", "Ga2O3", "In2S3", "Y2O3"),
    *("CaCO3", "MgCO3", "LiNbO3", "LiTaO3", "BiFeO3", "NaNO3", "KClO3", "FeTiO3", "MnTiO3", "BaTiO3"),
)
"""Compositions of five atoms, asked for in cells of ten: corundum, ilmenite, calcite and their like."""
BATCH, MATRIX = 64, 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--out")
    args = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    imports = _seconds([sys.executable, "-c", "import autoperi"], environment)
    shell = _seconds(
        [sys.executable, "-m", "autoperi", "generate", "NaCl", "-n", "1", "--model", args.model], environment
    )
    import torch

    from autoperi import AutoPeri

    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    peri.generate("NaCl", n=2, seed=0)
    common = _generated(peri, FORMULAS, None)
    ten = _generated(peri, TEN_ATOMS, 10)
    started = time.perf_counter()
    fresh = peri.generate(None, n=100, seed=0)
    de_novo = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    result = {
        "task": "speed",
        "threads": args.threads,
        "load_average": round(os.getloadavg()[0], 1),
        **common,
        "ten_atoms": ten,
        "flow": {name: flow_speed(peri, getattr(torch, name)) for name in ("float64", "float32")},
        "de_novo_per_second": round(len(fresh) / de_novo, 1),
        "peak_memory_GiB": round(peak, 2),
        "import_seconds": round(imports, 3),
        "shell_generate_NaCl_seconds": round(shell, 2),
        "model": peri.provenance(),
        "settings": peri.bundle.metadata.get("settings"),
    }
    text = json.dumps(result)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


def _generated(peri: Any, formulas: tuple[str, ...], atoms: int | None) -> dict[str, Any]:
    """Candidates per second, 20 of each composition, finished and ranked."""
    started, made, total = time.perf_counter(), 0, 0
    for formula in formulas:
        found = peri.generate(formula, n=20, num_atoms=atoms, seed=0, strict=False)
        made += len(found)
        total += sum(len(s) for s in found)
    seconds = time.perf_counter() - started
    return {
        "candidates": made,
        "compositions": len(formulas),
        "mean_atoms": round(total / made, 1),
        "candidates_per_second": round(made / seconds, 1),
    }


def flow_speed(peri: Any, dtype: Any) -> dict[str, Any]:
    """The flow's field on 64 crystals of ten atoms: time, operations, and the share of the machine's rate."""
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from autoperi.data.random import torch_generator
    from autoperi.pipelines.flow import sample as drawn
    from autoperi.processes.flow import crystal_noise
    from autoperi.symmetry.freedom import Orbit, freedom_at_volume
    from autoperi.symmetry.wyckoff import GENERIC, wyckoff_position

    network = copy.deepcopy(peri._model.find("autoperi_gnn")).to(dtype)
    # corundum: four metal atoms on 12c, six of oxygen on 18e of R-3c
    metals = (5, 13, 21, 22, 23, 24, 26, 31, 39, 49)
    orbits = [
        [
            Orbit(metals[k % len(metals)], wyckoff_position(167, "c"), GENERIC),
            Orbit(8, wyckoff_position(167, "e"), GENERIC),
        ]
        for k in range(BATCH)
    ]
    freedom, _ = freedom_at_volume([167] * BATCH, orbits, network.element_volume.double().numpy())
    noise = crystal_noise(freedom, [torch_generator(0, k) for k in range(BATCH)]).to(dtype)
    freedom = freedom.to(dtype=dtype)
    steps = int(peri.bundle.metadata.get("settings", {}).get("near_steps") or 5)

    def sample() -> None:
        with torch.no_grad():
            drawn(network, freedom, noise, steps=steps, method="euler")

    with FlopCounterMode(display=False) as counter:
        sample()
    seconds = best_seconds(sample)
    left, right = torch.randn(2, MATRIX, MATRIX, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    peak = 2 * MATRIX**3 / best_seconds(lambda: torch.mm(left, right))
    reached = counter.get_total_flops() / seconds
    return {
        "crystals": BATCH,
        "atoms": int(freedom.n_atoms[0]),
        "steps": steps,
        "crystals_per_second": round(BATCH / seconds, 1),
        "gflop_per_crystal_and_step": round(counter.get_total_flops() / BATCH / steps / 1e9, 4),
        "gflop_per_second": round(reached / 1e9, 2),
        "matrix_gflop_per_second": round(peak / 1e9, 2),
        "fraction_of_peak": round(reached / peak, 4),
    }


def best_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Shortest time of several calls, the first of which is not timed."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    subprocess.run(command, check=True, capture_output=True, env=environment)  # warms the disk
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
