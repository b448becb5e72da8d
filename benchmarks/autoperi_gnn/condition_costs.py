"""What each condition of ``generate`` costs: crystals per second, and how many requests get all that they ask for,
condition by condition.

usage: python benchmarks/autoperi_gnn/condition_costs.py mp20_test.parquet [--limit 40] [-n 10] [--threads 1] --out FILE

Crystals of the table, drawn with the seed, are asked for with what the row says of them. Model already loaded, one
process. ``full`` counts requests that got all n crystals, ``none`` those that got nothing, ``refused`` those that were
refused beforehand.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Structure

from autoperi import AutoPeri
from autoperi.errors import RequestError
from autoperi.evaluation.common import facts, load

Ask = Callable[[Structure], dict[str, Any]]
TARGET = {"band_gap": 1.5}


def conditions() -> dict[str, Ask]:
    """Words to what is asked of ``generate`` for a crystal."""

    def formula(s: Structure) -> dict[str, Any]:
        return {"composition": s.composition.reduced_formula}

    def group(s: Structure) -> dict[str, Any]:
        return {"space_group": s.get_space_group_info(symprec=0.1)[1]}

    def size(s: Structure) -> dict[str, Any]:
        return {"num_atoms": len(s)}

    def system(s: Structure) -> str:
        return "-".join(sorted(e.symbol for e in s.composition.elements))

    return {
        "composition": formula,
        "composition, cell size": lambda s: formula(s) | size(s),
        "composition, space group": lambda s: formula(s) | group(s),
        "composition, space group, cell size": lambda s: formula(s) | group(s) | size(s),
        "composition, like the crystal": lambda s: formula(s) | {"like": s},
        "composition, band gap near 1.5 eV": lambda s: formula(s) | {"target": TARGET},
        "nothing": lambda _: {},
        "chemical system": lambda s: {"chemical_system": system(s)},
        "space group": group,
        "cell size": size,
        "three elements": lambda _: {"num_elements": 3},
        "without the crystal's elements": lambda s: {"exclude_elements": [e.symbol for e in s.composition.elements]},
        "band gap near 1.5 eV": lambda _: {"target": TARGET},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # too few crystals are counted instead
    torch.set_num_threads(args.threads)
    peri = AutoPeri.from_pretrained(args.model)
    table, rows = load(args.table, args.limit, args.seed)
    crystals = [s.get_primitive_structure() for s in table[rows].structures()]
    peri.generate("NaCl", n=1, seed=0)  # what is made once is not counted
    found = {}
    for name, ask in conditions().items():
        found[name] = cost(peri, [ask(s) for s in crystals], args.n, args.seed)
        print(name, found[name], flush=True)
    result = {
        "task": "condition_costs",
        "rows": found,
        **facts(
            args.table,
            peri.provenance(),
            args.seed,
            parameters={"limit": args.limit, "n": args.n, "threads": args.threads},
        ),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def cost(peri: AutoPeri, requests: list[dict[str, Any]], n: int, seed: int) -> dict[str, Any]:
    """Counts and time of all ``requests``, ``n`` crystals each."""
    counts, refused = [], 0
    started = time.perf_counter()
    for options in requests:
        try:
            counts.append(len(peri.generate(**options, n=n, seed=seed, strict=False, progress=False)))
        except RequestError:
            refused += 1
    seconds = time.perf_counter() - started
    return {
        "requests": len(requests),
        "refused": refused,
        "full": sum(count == n for count in counts),
        "none": sum(count == 0 for count in counts),
        "crystals": sum(counts),
        "seconds": round(seconds, 1),
        "crystals_per_second": round(sum(counts) / seconds, 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
