"""Draws without a composition: temperature, known crystals, and the reference distribution, on mp_val.

    python benchmarks/prior/denovo.py DATA_FOLDER --out benchmarks/results/denovo_mp_val.json

Each variant is a setting of the bundled model; it generates the same number of crystals of up to three elements (mp_val
has 1.7 % with more), which `autoperi evaluate generation` judges against mp_val: hull of mp_train, energies of the
model's own formation energy. The density and the number of elements are also told of 2,000 draws without the flow,
because a few hundred crystals scatter by 0.2 g/cm³ in that distance. A variant that the file holds already is kept;
``--only NAME`` measures one anew.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses
from scipy.stats import wasserstein_distance

from autoperi import AutoPeri
from autoperi.data.io import CrystalTable, read_table
from autoperi.evaluation.generation import evaluate_generation
from autoperi.hub.bundle import load_bundle
from autoperi.hub.store import resolve
from autoperi.prior.denovo import Constraints, DeNovo

DRAWS = 2000
ELEMENTS = (1, 3)
AMU_PER_A3 = 1.66053907
VARIANTS: dict[str, dict[str, Any]] = {
    "all members alike, known crystals allowed": {"reference": False, "denovo_temperature": 0.12, "denovo_known": 1.0},
    "all members alike": {"reference": False, "denovo_temperature": 0.2},
    "known crystals allowed": {"denovo_temperature": 0.12, "denovo_known": 1.0},
    **{f"temperature {t}": {"denovo_temperature": t} for t in (0.16, 0.2, 0.25, 0.3, 0.4)},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="holds mp_train.parquet and mp_val.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--only", choices=VARIANTS)
    parser.add_argument("--processes", type=int)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {"task": "denovo", "variants": {}}
    found |= {
        "data": "mp_val.parquet",
        "n": args.n,
        "num_elements": ELEMENTS,
        "seed": 0,
        "command": "python benchmarks/prior/denovo.py DATA_FOLDER --out …",
    }
    validation = read_table(args.data / "mp_val.parquet")
    for name, settings in VARIANTS.items():
        if args.only not in (None, name) or (args.only is None and name in found["variants"]):
            continue
        peri = model(settings)
        row = {"settings": settings, "draws": drawn(peri, validation)} | judged(peri, args.data, args.n, args.processes)
        found["variants"][name] = row
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)
    return 0


def model(settings: dict[str, Any]) -> AutoPeri:
    """The bundled model with other settings; without ``reference`` every member of its prior weighs the same."""
    folder = resolve("autoperi-base").path
    assert folder is not None
    bundle = load_bundle(folder)
    bundle.metadata["settings"] = bundle.metadata["settings"] | {k: v for k, v in settings.items() if k != "reference"}
    if not settings.get("reference", True):
        weight = bundle.components["prior"].tensors["member_weight"]
        bundle.components["prior"].tensors["member_weight"] = torch.ones_like(weight)
    return AutoPeri(bundle)


def drawn(peri: AutoPeri, validation: CrystalTable) -> dict[str, float]:
    """Distances of draws, at the volumes that the prior expects, from the validation crystals."""
    proposer, started = peri._model.find("prior"), time.perf_counter()
    draws = DeNovo(proposer, Constraints(1, 60, min_elements=ELEMENTS[0], max_elements=ELEMENTS[1]), 0)
    candidates = [c for c in map(draws.draw, range(DRAWS)) if c is not None]
    seconds = time.perf_counter() - started
    cells = [proposer.crystal(c) for c in candidates]
    known = [any(draws.is_known(*s) for s in draws.same(c.prototype, c.elements)) for c in candidates]

    def density(lattice: np.ndarray, numbers: np.ndarray) -> float:
        return float(atomic_masses[numbers].sum() / abs(np.linalg.det(lattice)) * AMU_PER_A3)

    real = [density(np.asarray(cell), z) for cell, z in zip(validation.lattice, validation.atomic_numbers, strict=True)]
    return {
        "n": len(candidates),
        "density": round(float(wasserstein_distance([density(c[0], c[2]) for c in cells], real)), 4),
        "n_elements": round(
            float(
                wasserstein_distance(
                    [len(set(c.elements)) for c in candidates], [len(set(z)) for z in validation.atomic_numbers]
                )
            ),
            4,
        ),
        "known": round(float(np.mean(known)), 4),
        "distinct_elements": len({z for c in candidates for z in c.elements}),
        "ms_per_draw": round(1000 * seconds / DRAWS, 2),
    }


def judged(peri: AutoPeri, data: Path, n: int, processes: int | None) -> dict[str, Any]:
    """The figures of ``evaluate generation``."""
    train = data / "mp_train.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = evaluate_generation(
            peri,
            data / "mp_val.parquet",
            n=n,
            num_elements=ELEMENTS,
            train=train,
            entries=train,
            features=(),
            processes=processes,
            progress=False,
        )
    distance = result["distribution"]["wasserstein"]
    shares = {
        "structural": result["validity"]["structural"],
        "smact": result["validity"]["compositional"],
        "radii": result["validity"]["radii"],
        "cov_recall": result["coverage"]["cov_recall"],
        "cov_precision": result["coverage"]["cov_precision"],
        "density": distance["density"],
        "n_elements": distance["n_elements"],
        "energy": distance["energy"],
        **{name: result["novelty"][name] for name in ("unique", "novel", "new_composition")},
        **{
            name: result["stability"][name]
            for name in ("stable_of_all", "metastable_of_all", "sun", "metastable_sun", "mean_energy_above_hull")
        },
    }
    return {name: value["value"] for name, value in shares.items()} | {
        "made": result["n"],
        "seconds_generating": result["seconds"]["generating"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
