"""What the training set shares with the sets that models are measured on: by id, by composition and by match.

* `mp_train` and `mp20_test`: ids, compositions, and test crystals that match a training crystal by the matcher that
  scores hits (`StructureMatcher(0.5, 0.3, 10)`, `get_rms_dist`), in either direction.
* The test tenth of `mp_elastic` and the crystals that the formation energy learned from: the encoder of the property
  heads has seen those structures (with another label), which baselines trained on `mp_elastic` alone have not.
* Crystals of other benchmarks' test splits in `mp_train` (its column `origin`): AutoPeri must not be measured there.

    python benchmarks/overlaps.py DATA_DIR --out benchmarks/results/overlaps.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from autoperi.data.io import CrystalTable, read_table
from autoperi.data.splits import splits_of
from autoperi.evaluation.common import facts
from autoperi.metrics.match import ANGLE_TOL, LTOL, STOL
from autoperi.metrics.pairs import by_composition, compare_pairs

ENCODER_ATOMS = 40
"""Most atoms of a crystal that the formation energy of `autoperi-base` learned from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="holds mp_train, mp20_test and mp_elastic")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    train, test, elastic = (
        read_table(args.data / f"{name}.parquet") for name in ("mp_train", "mp20_test", "mp_elastic")
    )
    energy = train.labels["formation_energy_per_atom"].to_numpy(float)
    small = np.array([len(z) <= ENCODER_ATOMS for z in train.atomic_numbers])
    encoded = {name for name, ok in zip(train.ids, np.isfinite(energy) & small, strict=True) if ok}
    held = [name for name, part in zip(elastic.ids, splits_of(elastic.ids), strict=True) if part == "test"]
    fitted = [name for name, part in zip(elastic.ids, splits_of(elastic.ids), strict=True) if part == "train"]
    result = {
        "task": "overlaps",
        "mp_train and mp20_test": shared(train, test, args.processes),
        "mp_elastic": {
            "test": len(held),
            "train": len(fitted),
            "energies": len(encoded),
            "test_with_energy_in_mp_train": sum(name in encoded for name in held),
        },
        "origins": {str(k): int(n) for k, n in train.labels["origin"].value_counts().items()},
        "train_crystals": len(train),
    } | facts(
        args.data / "mp20_test.parquet",
        None,
        0,
        others={"train": args.data / "mp_train.parquet", "elastic": args.data / "mp_elastic.parquet"},
    )
    result["seconds"] = round(time.perf_counter() - started, 1)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def shared(train: CrystalTable, test: CrystalTable, processes: int) -> dict[str, Any]:
    """Ids, compositions and matches that two tables share."""
    sides = [list(zip(t.lattice, t.frac_coords, t.atomic_numbers, strict=True)) for t in (train, test)]
    known, asked = (by_composition(side) for side in sides)
    pairs = [(i, j) for key, rows in asked.items() for j in rows for i in known.get(key, ())]
    limits = {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL}
    how: dict[str, Any] = {"tolerances": limits, "processes": processes, "progress": False}
    there = compare_pairs(sides[0], sides[1], pairs, **how)
    back = compare_pairs(sides[1], sides[0], [(j, i) for i, j in pairs], **how)
    matched = {
        j for (_, j), a, b in zip(pairs, there, back, strict=True) if isinstance(a, float) or isinstance(b, float)
    }
    return {
        "test_crystals": len(test),
        "same_id": len(set(train.ids) & set(test.ids)),
        "composition_in_train": sum(len(rows) for key, rows in asked.items() if key in known),
        "pairs_compared": len(pairs),
        "test_crystals_that_match": len(matched),
        "matcher": limits,
    }


if __name__ == "__main__":
    main()
