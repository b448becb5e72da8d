"""Calibrate the Fréchet distances as GemsDiff does for its FAD (figures 3 and 4): noise ladder, sample size, floor.

usage: python benchmarks/frechet_calibration.py TRAIN VAL TEST --out benchmarks/results/frechet_calibration.json

* ladder: crystals of VAL against the same crystals with noise, which is 0 without noise and should rise with it: atoms
  moved by N(0, σ) Å, or the cell strained by exp(A) with a symmetric A of entries N(0, σ).
* size: the distance between two draws of real crystals as the draws grow: TEST against TEST (disjoint, one
  distribution) and TRAIN against TEST (two).
* floor: 1,000 of TRAIN against 1,000 of TEST. It holds whatever the two differ in by themselves: nearly all of
  mp20_test has at most three elements, so that the same-set draws of TEST are the lower of the two floors. Sultanov's
  Table 1 gives for "1,000 real structures" 0.012 (CrystalNN) and 0.044 (their CGCNN): theirs are MP-20 without
  monoclinic and triclinic crystals, and another CGCNN, whose distances have another unit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi.data.convert import to_structures
from autoperi.data.crystal import CrystalBatch
from autoperi.data.io import CrystalTable, read_table
from autoperi.data.random import numpy_generator, torch_generator
from autoperi.evaluation.common import facts
from autoperi.evaluation.extractors import extractor
from autoperi.hub.download import load_pretrained
from autoperi.metrics.features import features_of
from autoperi.metrics.fingerprints import structure_fingerprints
from autoperi.metrics.frechet import frechet_quantity
from autoperi.models.cgcnn import BUNDLED
from autoperi.training.tasks.base import deform

POSITION = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STRAIN = (0.01, 0.02, 0.05, 0.1, 0.2)
SIZES = (100, 200, 500, 1000, 2000, 4000)
FEATURES = ("cgcnn", "autoperi", "crystalnn", "chgnet")
DRAWS = 3


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN")
    parser.add_argument("val", metavar="VAL")
    parser.add_argument("test", metavar="TEST")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES[:3]))
    parser.add_argument(
        "--ladder", type=int, default=500, metavar="N", help="crystals in the ladder of the networks (default: 500)"
    )
    parser.add_argument(
        "--slow-ladder", type=int, default=200, metavar="N", help="the same for crystalnn and chgnet (default: 200)"
    )
    parser.add_argument(
        "--slow-sizes",
        type=int,
        default=1000,
        metavar="N",
        help="largest draw for crystalnn and chgnet (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tables = {name: read_table(getattr(args, name)) for name in ("train", "val", "test")}
    out: dict[str, Any] = {
        "task": "frechet_calibration",
        "seed": args.seed,
        "data": {
            name: {"file": Path(getattr(args, name)).name, "crystals": len(table)} for name, table in tables.items()
        },
        "facts": facts(
            args.test, {"model": BUNDLED, "sha256": load_pretrained(BUNDLED).sha256["config.json"]}, args.seed
        ),
        "features": {},
    }
    for name in args.features:
        start = time.perf_counter()
        slow = name in ("crystalnn", "chgnet")
        result = {
            "definition": "mean CrystalNN fingerprint of the sites"
            if name == "crystalnn"
            else extractor(name).description,
            "ladder": ladder(name, tables["val"], args.slow_ladder if slow else args.ladder, args.seed),
            **sizes(name, tables["train"], tables["test"], args.slow_sizes if slow else max(SIZES), args.seed),
        }
        result["seconds"] = round(time.perf_counter() - start, 1)
        out["features"][name] = result
        print(f"{name}: {json.dumps(summary(result))}", flush=True)
    args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


def vectors(name: str, crystals: list[Any]) -> list[Any]:
    """Features of crystals, with failures."""
    return structure_fingerprints(crystals) if name == "crystalnn" else features_of(crystals, extractor(name))


def ladder(name: str, table: CrystalTable, n: int, seed: int) -> dict[str, Any]:
    """FD to the clean crystals at each noise level."""
    rows = np.sort(numpy_generator(seed, 0).choice(len(table), size=min(n, len(table)), replace=False))
    clean = table[rows].batch().to(dtype=torch.float64)
    reference = vectors(name, to_structures(clean))
    found: dict[str, Any] = {"crystals": len(rows)}
    for kind, levels in (("position_A", POSITION), ("strain", STRAIN)):
        steps = []
        for sigma in levels:
            noisy = disturbed(clean, sigma, kind, seed)
            steps.append({"sigma": sigma, **frechet_quantity(vectors(name, to_structures(noisy)), reference)})
        values = [step["value"] for step in steps]
        found[kind] = steps
        found[f"{kind}_monotone"] = all(
            a is not None and b is not None and a < b for a, b in itertools.pairwise(values)
        )
    return found


def disturbed(clean: CrystalBatch, sigma: float, kind: str, seed: int) -> CrystalBatch:
    """The same random directions at every level, longer ones at higher levels."""
    level, none = (torch.full((len(clean),), value, dtype=torch.float64) for value in (sigma, 0.0))
    strain, rattle = (level, none) if kind == "strain" else (none, level)
    return deform(clean, strain, rattle, torch_generator(seed, 1))[0]


def sizes(name: str, train: CrystalTable, test: CrystalTable, largest: int, seed: int) -> dict[str, Any]:
    """FD between draws of real crystals, and the floor at 1,000."""
    generator = numpy_generator(seed, 2)
    drawn = {key: generator.permutation(len(t)) for key, t in (("train", train), ("test", test))}
    # draws of the slow features share a pool of twice their size
    rows = {key: order[: 2 * largest] for key, order in drawn.items()}
    found = {key: vectors(name, t[rows[key]].structures()) for key, t in (("train", train), ("test", test))}
    curve: dict[str, list[dict[str, Any]]] = {"test_against_test": [], "train_against_test": []}
    for size in (s for s in SIZES if s <= largest):
        for pair, draws in curve.items():
            left = "test" if pair == "test_against_test" else "train"
            if (2 if left == "test" else 1) * size > len(found["test"]):
                continue
            values = []
            for draw in range(DRAWS):
                order = numpy_generator(seed, 3, size, draw).permutation(len(found["test"]))
                first = (
                    order[size : 2 * size]
                    if left == "test"
                    else numpy_generator(seed, 4, size, draw).permutation(len(found["train"]))[:size]
                )
                values.append(
                    frechet_quantity([found[left][k] for k in first], [found["test"][k] for k in order[:size]])
                )
            numbers = [v["value"] for v in values]
            known = [v for v in numbers if v is not None]
            draws.append(
                {
                    "n": size,
                    "mean": round(float(np.mean(known)), 6) if known else None,
                    "draws": numbers,
                    "missing": max(v["missing"] for v in values),
                    "rank_deficient": any(v["rank_deficient"] for v in values),
                }
            )
    floor = frechet_quantity(found["train"][:1000], found["test"][:1000])
    everything = frechet_quantity(found["train"], found["test"])
    return {"size": curve, "floor_1000": floor, "largest": everything}


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers that one looks at first."""
    steps = result["ladder"]
    return {
        "floor_1000": result["floor_1000"]["value"],
        **{kind: {step["sigma"]: step["value"] for step in steps[kind]} for kind in ("position_A", "strain")},
        "size": {pair: {step["n"]: step["mean"] for step in curve} for pair, curve in result["size"].items()},
        "seconds": result["seconds"],
    }


if __name__ == "__main__":
    main()
