"""EMPNN's Table 1 under one small budget: every loss, trained on 6,000 crystals of mp_train and measured on mp_val.

usage: python benchmarks/empnn/losses.py DATA_DIR [--model autoperi-base] [--runs .train/empnn/sweeps] [--out …]
[--energies-only]

The network is that of a row of Table 2, NETWORK, which is not trained again where fields.py left it in ``--runs``.
Energies are those of the potential of ``--model`` instead of VASP, before and after, of every crystal whose elements it
knows. ``--energies-only`` trains
nothing: it takes the rows that ``--runs`` holds and measures their energies, with another potential for one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from fields import ROWS as FIELD_ROWS
from lattice_losses import LOSSES
from sweep import Budget, Denoiser, finished, line, run_row, sweep_data, trained

from autoperi.data.convert import to_batch
from autoperi.data.io import read_table
from autoperi.evaluation.common import facts
from autoperi.evaluation.denoise import evaluate_denoise
from autoperi.hub.download import load_pretrained
from autoperi.hub.networks import potential_of
from autoperi.metrics.lattice import energy_improvement, lattice_improvement
from autoperi.models.evaluate import evaluate
from autoperi.models.potential import Potential

RESULTS = Path(__file__).resolve().parents[1] / "results"
NETWORK = next(row for row in FIELD_ROWS if row.name == "ketbra_12_sym")
ROWS = [
    NETWORK if name == NETWORK.loss else replace(NETWORK, name=f"{NETWORK.name}_{name}", loss=name) for name in LOSSES
]


def energies(potential: Potential, crystals: list[Any]) -> list[float | None]:
    """eV/atom; None where there is no crystal or an element that the potential never saw."""
    found: list[float | None] = [None] * len(crystals)
    known = [
        k
        for k, crystal in enumerate(crystals)
        if crystal is not None and bool(potential.seen[torch.tensor([site.specie.Z for site in crystal])].all())
    ]
    batch = to_batch([crystals[k] for k in known], dtype=torch.float64)
    values = evaluate(potential, batch, derivatives=False).energy / batch.n_atoms
    for k, value in zip(known, values.tolist(), strict=True):
        found[k] = value
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="autoperi-base")
    parser.add_argument("--runs", type=Path, default=Path(".train/empnn/sweeps"))
    parser.add_argument("--out", type=Path, default=RESULTS / "empnn_losses.json")
    parser.add_argument("--energies-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget, val, train = Budget(), args.data / "mp_val.parquet", args.data / "mp_train.parquet"
    bundle = load_pretrained(args.model)
    potential = potential_of(bundle)
    data = None if args.energies_only else sweep_data(train, budget)
    truth = read_table(val).structures()
    noisy: list[Any] = []
    rows, before = [], []
    for row in ROWS:
        if data is None and not finished(row, budget, args.runs):
            continue
        result = run_row(row, data, val, budget, args.runs)
        denoiser = Denoiser(trained(row, args.runs))
        if not noisy:  # the deformed crystals are the same for every row
            evaluate_denoise(None, val, sigma=budget.sigma, relax=denoiser)
            noisy = denoiser.noisy
            before = energies(potential, noisy)
        denoised = denoiser(noisy)
        if lattice_improvement(noisy, denoised, truth) != result["improvement"]:
            raise SystemExit(
                f"{row.name}: the network in {args.runs} does not give the errors in its record; train it anew"
            )
        result["energy"] = energy_improvement(before, energies(potential, list(denoised)))
        rows.append(result)
        gain = result["energy"]
        print(
            line(result),
            gain["energy_eV_per_atom"]["value"],
            gain["energy_median_eV_per_atom"]["value"],
            gain["energy_lower"]["value"],
            flush=True,
        )
    result = {
        "task": "empnn_losses",
        "budget": asdict(budget),
        "energies": "potential of the model, instead of VASP",
        "rows": rows,
        "undeformed": energy_improvement(before, energies(potential, truth)),
        **facts(val, {"model": bundle.name, "sha256": bundle.sha256["config.json"]}, 0, others={"train": train}),
    }
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
