"""Are requests honoured exactly? Random compositions, space groups and cell sizes, asked of ``generate``.

usage: python benchmarks/autoperi_gnn/conditions.py mp20_test.parquet [--requests 200] [--seed 0] --out FILE

Compositions are those of the table; space groups are drawn among all 230, cell sizes up to 20 atoms. Counted: requests
refused because no orbits fit (with the reason), requests for which nothing passed, candidates tried and accepted, and
whether every returned crystal has the composition, the number of atoms and, by spglib at symprec 0.01, the group.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from autoperi import AutoPeri
from autoperi.errors import RequestError, StructureError
from autoperi.evaluation.common import facts, load
from autoperi.pipelines import accept as generation
from autoperi.pipelines.request import make_request
from autoperi.symmetry.analysis import analyse

EACH = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    peri = AutoPeri.from_pretrained(args.model)
    table, rows = load(args.table, args.requests, args.seed)
    generator = np.random.default_rng(args.seed)
    tally: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    started = time.perf_counter()
    for structure in table[rows].structures():
        group = int(generator.integers(1, 231))
        formula = structure.composition.reduced_composition
        size = int(formula.num_atoms) * int(generator.integers(1, max(2, 20 // int(formula.num_atoms) + 1)))
        tally["requests"] += 1
        try:
            request = make_request(formula, n=EACH, space_group=group, num_atoms=size, seed=args.seed)
        except RequestError as error:
            tally["refused beforehand"] += 1
            refusals["no whole orbits" if "orbit" in str(error) or "Wyckoff" in str(error) else str(error)[:60]] += 1
            continue
        counts = generation.Tally()
        made = generation.run(request, peri.pipeline, peri.judge, tally=counts)
        tally["candidates tried"] += counts.tried
        tally["candidates accepted"] += counts.accepted
        tally["answered with three" if len(made) == EACH else "answered with fewer" if made else "nothing passed"] += 1
        wanted = {element.Z: round(amount * size / formula.num_atoms) for element, amount in formula.items()}
        for f in made:
            tally["returned"] += 1
            try:
                found = analyse(f.candidate.lattice, f.candidate.frac_coords, f.candidate.numbers, symprec=0.01)
            except StructureError:
                continue
            content = dict(Counter(found.primitive_numbers.tolist()))
            tally["honoured exactly"] += (
                found.number == group and content == wanted and len(f.candidate.numbers) == size
            )
    result = {
        "task": "conditions",
        "counts": dict(tally),
        "refusals": dict(refusals),
        "honoured": tally["honoured exactly"] / max(1, tally["returned"]),
        "acceptance": round(tally["candidates accepted"] / max(1, tally["candidates tried"]), 4),
        "seconds": round(time.perf_counter() - started, 1),
        **facts(args.table, peri.provenance(), args.seed, parameters={"requests": args.requests}),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
