"""Speed of the calculator on this machine: energy, forces and stress of rattled cells.

    python benchmarks/potential/calculator.py --against chgnet --out benchmarks/results/bench_calculator.json
    python benchmarks/potential/calculator.py --sizes 8,64 --scaling none --against none
    python benchmarks/potential/calculator.py --untrained --crystal Si

Ours and another calculator are timed in turn in one process with the same threads, then ours on growing cells with the
peak memory of the process. Times are medians; atoms move 0.01 Å between calls, so that our neighbour list is mostly
reused, as in dynamics and relaxation; the columns "new list" search it at every call. Processor times tell more than
wall times on a machine that has other work.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoperi.cli import common

CRYSTALS = {
    "NaCl": ("rocksalt", 5.64),
    "MgO": ("rocksalt", 4.21),
    "Si": ("diamond", 5.43),
    "ZnS": ("zincblende", 5.41),
}
"""Conventional cells of eight atoms: structure of ``ase.build.bulk`` and lattice constant in Å."""
CELL_ATOMS = 8
PROPERTIES = ("energy", "forces", "stress")
COLUMNS = {
    "atoms": "atoms",
    "ms": "ms",
    "ms_searching": "ms, new list",
    "other_ms": "other ms",
    "ratio": "ratio",
    "ratio_searching": "ratio, new list",
    "cpu_ratio": "CPU ratio",
}
SCALING_COLUMNS = {
    "atoms": "atoms",
    "ms": "ms",
    "us_per_atom": "us/atom",
    "cpu_us_per_atom": "CPU us/atom",
    "peak_memory_GB": "peak GB",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=common.DEFAULT_MODEL, metavar="NAME_OR_DIR", help="a model with a potential")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--untrained", action="store_true", help="random weights, which cost the same")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"), help="of our network")
    parser.add_argument("--crystal", default="NaCl", choices=tuple(CRYSTALS), help="what to repeat")
    parser.add_argument("--sizes", type=sizes, default="8,64,512", metavar="N,N", help="atoms to compare at")
    parser.add_argument("--scaling", type=sizes, default="512,1728,4096,10648", metavar="N,N", help="atoms, or none")
    parser.add_argument("--against", default="auto", help="a name, module:callable, none, or auto: chgnet if installed")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed calls at each size")
    parser.add_argument("--out", type=Path, help="where to write the results as .json")
    parser.add_argument("--quiet", action="store_true")
    return parser


def sizes(text: str) -> list[int]:
    """Numbers of atoms, rounded to whole cubes of the cell: ``8,64,512``, or ``none``."""
    if text == "none":
        return []
    try:
        wanted = [int(part) for part in text.split(",")]
    except ValueError:
        wanted = [0]
    if min(wanted) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of atoms; write 8,64,512, or none")
    return sorted({CELL_ATOMS * max(1, round((n / CELL_ATOMS) ** (1 / 3))) ** 3 for n in wanted})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = make_parser().parse_args(argv)
    report = calculator_report(args)
    if args.out:
        args.out.write_text(common.dumps(report, indent=2) + "\n")
    if report["rows"]:
        print(common.format_table(report["rows"], COLUMNS))
    if report["scaling"]:
        print("\n" + common.format_table(report["scaling"], SCALING_COLUMNS))
    against = report["against"]["calculator"] if report["against"] else "nothing"
    print(
        f"\n{report['model']} ({report['dtype']}) against {against}; {report['crystal']}, {report['threads']} threads, "
        f"{report['device']}"
    )
    return report


def calculator_report(args: argparse.Namespace) -> dict[str, Any]:
    """All numbers.

    Raises:
        RequestError, WeightsError: a calculator that cannot be made; before any measurement.
    """
    import torch

    from autoperi.evaluation.calculators import describe_calculator, make_calculator
    from autoperi.progress import progress_bar

    spec = args.against
    if spec == "auto":
        spec = "chgnet" if importlib.util.find_spec("chgnet") else "none"
    ours, searching = _ours(args, skin=0.5), _ours(args, skin=0.0)
    options = {"use_device": str(ours.potential.reference.device)} if spec == "chgnet" else {}
    other = None if spec == "none" or not args.sizes else make_calculator(spec, options)
    scaling, rows = [], []
    total = len(args.scaling) + len(args.sizes)
    with progress_bar(total, enabled=common.progress_of(args), description="timing", unit="size") as bar:
        for atoms in args.scaling:  # first and growing: the peak of the process is then that of the last size
            ((seconds, cpu),) = _times([ours], args.crystal, atoms, args.repeats)
            row = {"atoms": atoms, "ms": 1e3 * seconds, "cpu_ms": 1e3 * cpu, "us_per_atom": 1e6 * seconds / atoms}
            scaling.append(row | {"cpu_us_per_atom": 1e6 * cpu / atoms, "peak_memory_GB": _peak_memory()})
            bar.update()
        for atoms in args.sizes:
            (seconds, cpu), (fresh, fresh_cpu), *rest = _times(
                [ours, searching, *([other] if other else [])], args.crystal, atoms, args.repeats
            )
            row = {
                "atoms": atoms,
                "ms": 1e3 * seconds,
                "cpu_ms": 1e3 * cpu,
                "ms_searching": 1e3 * fresh,
                "cpu_ms_searching": 1e3 * fresh_cpu,
            }
            if rest:
                row |= {"other_ms": 1e3 * rest[0][0], "other_cpu_ms": 1e3 * rest[0][1]}
                row |= {"ratio": rest[0][0] / seconds, "ratio_searching": rest[0][0] / fresh}
                row |= {"cpu_ratio": rest[0][1] / cpu, "cpu_ratio_searching": rest[0][1] / fresh_cpu}
            rows.append(row)
            bar.update()
    from autoperi._version import __version__

    return {
        "what": "calculator",
        "properties": list(PROPERTIES),
        "model": ours.parameters["model"],
        "untrained": args.untrained,
        "config": ours.potential.config,
        "dtype": args.dtype,
        "device": str(ours.potential.reference.device),
        "crystal": args.crystal,
        "repeats": args.repeats,
        "against": describe_calculator(spec, options) if other else None,
        "rows": rows,
        "scaling": scaling,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"autoperi": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _ours(args: argparse.Namespace, *, skin: float) -> Any:
    from autoperi.interfaces.ase import AutoPeriCalculator

    model: Any = args.model
    if args.untrained:
        import torch

        from autoperi.models.potential import Potential

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Potential()
    return AutoPeriCalculator(model, device=args.device, dtype=args.dtype, skin=skin)


def _times(calculators: Sequence[Any], crystal: str, atoms: int, repeats: int) -> list[tuple[float, float]]:
    """Median seconds and median processor seconds of each calculator; in turn, so that a busy moment of the machine
    meets all of them.
    """
    import numpy as np
    from ase.build import bulk
    from ase.calculators.calculator import all_changes

    structure, constant = CRYSTALS[crystal]
    cells = round((atoms / CELL_ATOMS) ** (1 / 3))
    cell = bulk(crystal, structure, a=constant, cubic=True) * (cells, cells, cells)
    generator = np.random.default_rng(0)
    cell.positions += 0.05 * generator.standard_normal(cell.positions.shape)
    taken: list[list[tuple[float, float]]] = [[] for _ in calculators]
    for repeat in range(repeats + 1):
        cell.positions += 0.01 * generator.standard_normal(cell.positions.shape) / 3**0.5
        for k, calculator in enumerate(calculators):
            calculator.results = {}
            start, cpu = time.perf_counter(), time.process_time()
            calculator.calculate(cell, list(PROPERTIES), all_changes)
            if repeat:  # the first call warms up
                taken[k].append((time.perf_counter() - start, time.process_time() - cpu))
    return [(statistics.median(s for s, _ in found), statistics.median(s for _, s in found)) for found in taken]


def _peak_memory() -> float | None:
    """Largest resident memory of this process so far in GB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    main()
