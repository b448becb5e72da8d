"""A baseline without training for crystal structure prediction: nearest-template substitution.

usage: python benchmarks/lookup_baseline.py TRAIN.parquet TEST.parquet [--limit 1000] [-k 20] [--seed 0] [--out
lookup.json]

Templates are training crystals with the same counts of atoms; they are ordered by the summed distance of their elements
to those asked for (Mendeleev number, electronegativity, row, group, radii), elements are exchanged, the cell is scaled
to an additive volume, and the first k distinct candidates are matched with StructureMatcher(0.5, 0.3, 10), unfiltered.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from autoperi.data.io import read_table
from autoperi.evaluation.common import sample_rows
from autoperi.metrics.match import matcher

TEMPLATES = 400


def descriptors() -> np.ndarray:
    rows = np.zeros((119, 6))
    for z in range(1, 119):
        e = Element.from_Z(z)
        known = e.X == e.X
        values = [
            e.mendeleev_no or 0,
            e.X if known else 1.5,
            e.row,
            e.group,
            e.atomic_radius or 1.5,
            e.average_ionic_radius or 1.0,
        ]
        rows[z] = np.nan_to_num(np.array(values, float), nan=1.5)
    return rows / rows[1:100].std(0)


def assign(template: np.ndarray, query: np.ndarray, table: np.ndarray) -> tuple[float, dict[int, int]]:
    (old, old_counts), (new, new_counts) = np.unique(template, return_counts=True), np.unique(query, return_counts=True)
    best: tuple[float, dict[int, int]] = (np.inf, {})
    for order in itertools.permutations(range(len(new))):
        if all(new_counts[j] == old_counts[i] for i, j in enumerate(order)):
            d = sum(
                old_counts[i] * float(np.linalg.norm(table[old[i]] - table[new[j]])) for i, j in enumerate(order)
            ) / len(template)
            if d < best[0]:
                best = (d, {int(old[i]): int(new[j]) for i, j in enumerate(order)})
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test, table, judge = read_table(args.train), read_table(args.test), descriptors(), matcher()
    counts = np.stack([np.bincount(z, minlength=119) for z in train.atomic_numbers]).astype(float)
    volumes = np.abs(np.linalg.det(train.lattice))
    additive = np.clip(np.linalg.solve(counts.T @ counts + np.eye(119), counts.T @ volumes), 3, None)
    templates = defaultdict(list)
    for i, z in enumerate(train.atomic_numbers):
        templates[tuple(sorted(np.unique(z, return_counts=True)[1]))].append(i)
    rows = sample_rows(len(test), args.limit, args.seed)
    first, within, none, rms = 0, 0, 0, []
    started = time.perf_counter()
    for row, truth in zip(rows, test[rows].structures(), strict=True):
        query = test.atomic_numbers[row]
        near = templates[tuple(sorted(np.unique(query, return_counts=True)[1]))]
        ranked = sorted(((*assign(train.atomic_numbers[j], query, table), j) for j in near), key=lambda c: c[0])
        none += not ranked
        seen: list[Structure] = []
        for _, exchange, j in ranked[:TEMPLATES]:
            if len(seen) >= args.k:
                break
            old = train.atomic_numbers[j]
            new = np.array([exchange[int(z)] for z in old])
            scale = (additive[new].sum() / additive[old].sum()) ** (1 / 3)
            candidate = Structure(Lattice(train.lattice[j] * scale), new, train.frac_coords[j])
            if any(judge.fit(candidate, other) for other in seen):
                continue
            seen.append(candidate)
            fit = judge.get_rms_dist(candidate, truth)
            if fit is not None:
                within += 1
                if len(seen) == 1:
                    first += 1
                    rms.append(fit[0])
                break
    result = {
        "task": "lookup baseline",
        "n": len(rows),
        "k": args.k,
        "match_at_1": round(first / len(rows), 4),
        "match_at_k": round(within / len(rows), 4),
        "rmse": round(float(np.mean(rms)), 4) if rms else None,
        "no_candidate": none,
        "seconds": round(time.perf_counter() - started, 1),
        "seed": args.seed,
        "data": Path(args.test).name,
        "templates": Path(args.train).name,
    }
    text = json.dumps(result)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
