"""What the distribution metrics say of real crystals: the floors and ceilings that a generator's figures stand between.

* A set against itself must be covered wholly and at no distance: the test splits of Perov-5 and Carbon-24, with their
  own cutoffs.
* Two disjoint draws of 1,000 of one test set: what a perfect generator would get.
* 1,000 crystals of the training set against 1,000 of the test set (Sultanov et al. 2023, last row of Table 1: COV-P
  0.998, COV-R 0.968, FD 0.012 with CrystalNN and 0.044 with their CGCNN, for MP-20 without monoclinic and triclinic
  crystals; our training set is not MP-20's, and our CGCNN is not theirs).

    python benchmarks/metric_floors.py DATA_FOLDER --out benchmarks/results/metric_floors.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

from autoperi.data.io import read_table
from autoperi.data.random import numpy_generator
from autoperi.evaluation.common import facts
from autoperi.evaluation.extractors import extractor
from autoperi.metrics.coverage import coverage
from autoperi.metrics.distribution import crystal_properties, mmd, property_distances
from autoperi.metrics.fingerprints import composition_fingerprints, structure_fingerprints
from autoperi.metrics.frechet import frechet_report

DRAW = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA_FOLDER",
        help="holds perov5_test, carbon24_test, mp20_test and mp_train as .parquet",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tables = {
        name: read_table(args.data / f"{name}.parquet")
        for name in ("perov5_test", "carbon24_test", "mp20_test", "mp_train")
    }
    order = numpy_generator(args.seed, 1).permutation(len(tables["mp20_test"]))
    draws = {
        "test a": tables["mp20_test"][order[:DRAW]].structures(),
        "test b": tables["mp20_test"][order[DRAW : 2 * DRAW]].structures(),
        "train": tables["mp_train"][
            numpy_generator(args.seed, 2).permutation(len(tables["mp_train"]))[:DRAW]
        ].structures(),
    }
    results = {}
    for name, cutoffs in (("perov5_test", "perovskite"), ("carbon24_test", "carbon")):
        crystals = tables[name].structures()
        results[f"{name} against itself"] = compare(crystals, crystals, cutoffs, args.processes)
    results["1,000 of mp20_test against 1,000 others"] = compare(
        draws["test a"], draws["test b"], "mp20", args.processes
    )
    results["1,000 of mp_train against 1,000 of mp20_test"] = compare(
        draws["train"], draws["test b"], "mp20", args.processes
    )
    found = {"task": "metric_floors", "results": results, "draw": DRAW} | facts(
        args.data / "mp20_test.parquet", None, args.seed, packages=("matminer", "scipy")
    )
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def compare(left: list[Any], right: list[Any], cutoffs: str, processes: int | None) -> dict[str, Any]:
    started = time.perf_counter()
    structure = [structure_fingerprints(c, processes=processes, progress=False) for c in (left, right)]
    composition = [composition_fingerprints(c, progress=False) for c in (left, right)]
    properties = [crystal_properties(c, processes=processes, progress=False) for c in (left, right)]
    return {
        "n": [len(left), len(right)],
        "coverage": coverage(structure[0], composition[0], structure[1], composition[1], cutoffs=cutoffs),
        "wasserstein": property_distances(*properties),
        "mmd": {"structure": mmd(*structure), "composition": mmd(*composition)},
        "frechet": frechet_report(
            left,
            right,
            features=[extractor("cgcnn"), extractor("autoperi")],
            given={"crystalnn": tuple(structure)},
            progress=False,
        ),
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
