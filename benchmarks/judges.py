"""What the judges of generated crystals say of real crystals, and of hypothetical ones that DFT has judged.

Three figures belong beside those of `generate` without a composition:

* Validity of the test set itself (SMACT with the list that the report takes): a generator that refuses what SMACT
  refuses may be "more valid" than real crystals.
* The hull of a training set lacks what that set lacks, so real crystals of the test set lie below it. How many are
  within 0.1 eV/atom of it, by their own labels and by the model's formation energy?
* The model's formation energy learned from crystals near the hull. WBM (Wang et al. 2021) has crystals as
  substitution makes them, with DFT labels: the error and the bias of the model there, and what labels and model say of
  the same crystals above the same hull.

    python benchmarks/judges.py DATA_DIR --limit 1000 --out benchmarks/results/judges.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from autoperi import AutoPeri
from autoperi.evaluation.common import facts, load, numbers_of
from autoperi.metrics.counts import mean, share
from autoperi.metrics.hull import Hull, energy_above_hull
from autoperi.metrics.references import reference_entries
from autoperi.metrics.regression import mae
from autoperi.metrics.stability import METASTABLE
from autoperi.metrics.validity import validity_shares

LABEL, STATES = "formation_energy_per_atom", "smact-icsd24"
SETS = {"real crystals": "mp20_test.parquet", "hypothetical crystals": "wbm_sample.parquet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="holds mp_train, mp20_test and wbm_sample")
    parser.add_argument("--limit", type=int, default=1000, help="crystals above the hull, of each set, drawn with seed")
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    peri = AutoPeri.from_pretrained(args.model)
    test = args.data / SETS["real crystals"]
    hull = Hull(reference_entries(args.data / "mp_train.parquet"))
    result = {
        "task": "judges",
        "validity": {"mp20_test": validity_shares(load(test, None, 0)[0].structures(), oxidation_states=STATES)},
        "hull_of": "mp_train.parquet",
        "judge": f"{args.model} formation energy, not relaxed",
        "sets": {name: judged(peri, args.data / file, hull, args.limit, args.seed) for name, file in SETS.items()},
    } | facts(
        test,
        peri.provenance(),
        args.seed,
        parameters={"limit": args.limit},
        others={"train": args.data / "mp_train.parquet", "hypothetical": args.data / "wbm_sample.parquet"},
        packages=("smact",),
    )
    result["seconds"] = round(time.perf_counter() - started, 1)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("validity", "sets", "seconds")}, indent=1))


def judged(peri: AutoPeri, path: Path, hull: Hull, limit: int, seed: int) -> dict[str, Any]:
    """Errors of the model's energies on a set, and what labels and model say of the same crystals above one hull."""
    table, rows = load(path, limit, seed)
    label = numbers_of(table.labels, LABEL, f"{path}: the column {LABEL}", "give eV/atom")
    chosen = [row for row in rows if np.isfinite(label[row])]
    crystals = table[chosen].structures()
    scored = peri.score(crystals, properties=["formation_energy"], progress=False)
    energies = {"labels": label[chosen], "model": scored["formation_energy_per_atom_eV"].to_numpy(float)}
    found: dict[str, Any] = {
        "n": len(chosen),
        "mae_eV_per_atom": mae(energies["model"], energies["labels"]),
        "bias_eV_per_atom": mean((energies["model"] - energies["labels"]).tolist()),
    }
    for who, values in energies.items():
        above = [d.energy for d in energy_above_hull(crystals, values.tolist(), hull)]
        found[who] = {
            "metastable": share([None if e is None else e <= METASTABLE for e in above], missing="no hull"),
            "stable": share([None if e is None else e <= 0 for e in above], missing="no hull"),
            "mean_above_hull_eV_per_atom": mean(above, missing="no hull"),
        }
    return found


if __name__ == "__main__":
    main()
