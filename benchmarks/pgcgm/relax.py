"""Table 2 and Figure 4 of Zhao et al. (2023): do generated crystals stay what they are when they are relaxed?

`--n` ternary crystals that `generate` returns, as many of each of the paper's 20 space groups, are relaxed, positions
and cell, by the potential of a model, inside their space group as found (so ``group_kept`` says how often that is the
group still, and not a higher one); the paper relaxed 100 of each group with BOWSR, and some with DFT. Those that
converged are matched with what became of them (ltol 0.2, stol 0.2, 0.5°). The matcher does not see volumes: a cubic
crystal without a free coordinate always matches, so ``with_freedom`` says the same of the others. Lengths of
conventional cells are compared: relative errors, R², RMSE, and the share of outliers, beyond 1.5 times the
interquartile range.

    python benchmarks/pgcgm/relax.py --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure
from sample import group_at

from autoperi import AutoPeri
from autoperi.data.convert import to_arrays
from autoperi.metrics.counts import share
from autoperi.metrics.pgcgm import relax_and_match
from autoperi.symmetry.analysis import STRICT_SYMPREC
from autoperi.symmetry.orbits import read_orbits
from autoperi.symmetry.spacegroup import primitive_transform, space_group
from autoperi.training.base_site_data import PAPER_GROUPS

CUBIC = 195
"""The first cubic space group."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pgcgm")
    parser.add_argument("--relaxer", default="autoperi-base", help="model whose potential relaxes")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--max-atoms", type=int, default=32, help="of the primitive cell; the paper's limit")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peri, relaxer = AutoPeri.from_pretrained(args.model), AutoPeri.from_pretrained(args.relaxer)
    seen = {e for e in range(1, 119) if relaxer.judge.potential.seen[e]}  # type: ignore[union-attr]
    made: list[Structure] = []
    skipped = 0
    for group in PAPER_GROUPS:
        wanted = -(-args.n // len(PAPER_GROUPS)) + len(made)
        how: dict[str, Any] = {"num_elements": 3, "num_atoms": (1, args.max_atoms), "seed": args.seed}
        for crystal in peri.generate_stream(n=100 * args.n, space_group=group, **how):
            known = {e.Z for e in crystal.composition} <= seen
            made += [crystal] if known else []
            skipped += not known
            if len(made) == wanted:
                break
    started = time.perf_counter()
    relaxed = relaxer.relax_lattice(made, positions=True, fix_symmetry=True, steps=args.steps, progress=False)
    seconds = time.perf_counter() - started
    notes = [r.properties["autoperi"]["relaxation"] for r in relaxed]
    ends = [r if n["status"] == "converged" else None for n, r in zip(notes, relaxed, strict=True)]
    found = relax_and_match(made, ends, processes=1, progress=False)
    moving = [k for k, crystal in enumerate(made) if has_freedom(crystal)]
    freely = relax_and_match([made[k] for k in moving], [ends[k] for k in moving], processes=1, progress=False)
    whole = [(c, r) for c, r in zip(made, ends, strict=True) if r is not None]
    groups = [(c.properties["autoperi"]["space_group"], group_at(r, STRICT_SYMPREC)) for c, r in whole]
    before, after = (
        np.array([conventional_lengths(pair[k], g) for pair, (g, _) in zip(whole, groups, strict=True)]) for k in (0, 1)
    )
    cores = os.cpu_count()
    result: dict[str, Any] = {
        "model": peri.provenance(),
        "relaxer": relaxer.provenance(),
        "data": "crystals of its own",
        "crystals": len(made),
        "seed": args.seed,
        "threads": args.threads,
        "hardware": f"{'two' if cores == 2 else cores}-core CPU",
        "relaxed_per_second": round(len(made) / seconds, 2),
        "status": {s: sum(n["status"] == s for n in notes) for s in sorted({n["status"] for n in notes})},
        "of_unknown_elements": skipped,
        **{key: found[key] for key in ("optimised", "match_rate", "rms", "matcher")},
        "with_freedom": {key: freely[key] for key in ("optimised", "match_rate", "rms")},
        "group_kept": share([a == b for a, b in groups]),
        "lattice": {
            "all": length_errors(before, after),
            "cubic": length_errors(*(side[[g >= CUBIC for g, _ in groups]] for side in (before, after))),
            "lengths": {"generated": before.round(3).tolist(), "relaxed": after.round(3).tolist()},
        },
    }
    print(json.dumps({**result, "lattice": {k: result["lattice"][k] for k in ("all", "cubic")}}, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result) + "\n")


def has_freedom(crystal: Structure) -> bool:
    """Whether more than the volume is free in its space group: a ratio of its cell, or a coordinate."""
    read = read_orbits(*to_arrays(crystal))
    return read is None or read[0].number < CUBIC or any(orbit.position.dof for orbit in read[1])


def length_errors(made: np.ndarray, relaxed: np.ndarray) -> dict[str, Any]:
    """Of the lengths a, b and c ``[N, 3]``: the median relative error, R², RMSE in Å, and the share of outliers."""
    found: dict[str, Any] = {"crystals": len(made)}
    for k, name in enumerate("abc"):
        ours, truth = made[:, k], relaxed[:, k]
        if len(ours) < 3:
            continue
        off = (ours - truth) / truth
        low, median, high = np.percentile(off, (25, 50, 75))
        reach = 1.5 * (high - low)
        found[name] = {
            "median_relative_error": round(float(median), 4),
            "mean_absolute_relative_error": round(float(np.abs(off).mean()), 4),
            "r2": round(float(1 - ((ours - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()), 4),
            "rmse": round(float(np.sqrt(((ours - truth) ** 2).mean())), 4),
            "outliers": round(float(((off < low - reach) | (off > high + reach)).mean()), 4),
        }
    return found


def conventional_lengths(crystal: Structure, group: int) -> np.ndarray:
    """Å, of the conventional cell to which a standard primitive cell belongs, ``[3]``."""
    cell = np.linalg.inv(primitive_transform(space_group(group))) @ crystal.lattice.matrix
    return np.linalg.norm(cell, axis=1)


if __name__ == "__main__":
    main()
