"""EMPNN's Table 2 under one small budget: every vector field, trained on 6,000 crystals of mp_train and measured on
mp_val.

usage: python benchmarks/empnn/fields.py DATA_DIR [--runs .train/empnn/sweeps] [--out
benchmarks/results/empnn_fields.json] [--finished-only]

Networks have l_max = 0 (messages see distances only, as eq. 8a has it); rows of 2-cells add one layer of message
passing on the 2-graph. All rows of ∇_sym but the last have the very field of the row of ∇ (see
autoperi.nn.lattice_fields): two of them are trained with a second seed, which shows the noise, two not at all. Both
rows with θ have equation 7 as it is printed; one more has the derivative of θ. What ``--runs`` holds is not trained
again; ``--finished-only`` trains nothing and writes the rows that are there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from sweep import Budget, Row, finished, line, run_row, sweep_data

from autoperi.evaluation.common import facts

RESULTS = Path(__file__).resolve().parents[1] / "results"


ONE: dict[str, object] = {"l_max": 0, "layers": 3}


def one_graph(*fields: str) -> dict[str, object]:
    return {**ONE, "fields": list(fields)}


def two_graph(*fields: str) -> dict[str, object]:
    return {**ONE, "fields": list(fields), "pair_layers": 1}


ROWS = [
    Row("ketbra_1", "{|•⟩⟨•| ⊂ Γ₁}", one_graph("edge")),
    Row("ketbra_2", "{|γ⟩⟨γ| ⊂ Γ₂}", two_graph("triplet_edge")),
    Row("ketbra_12", "{|•⟩⟨•| ⊂ Γ₁} ∪ {|γ⟩⟨γ| ⊂ Γ₂}", two_graph("edge", "triplet_edge")),
    Row(
        "ketbra_12_sym",
        "{|•⟩⟨•| ⊂ Γ₁} ∪ {|γ⟩⟨γ|, |γ⟩⟨γ'|sym ⊂ Γ₂}",
        two_graph("edge", "triplet_edge", "triplet_symmetric"),
    ),
    Row("ketbra_12_all", "{|•⟩⟨•| ⊂ Γ₁} ∪ {|•⟩⟨•| ⊂ Γ₂}", two_graph("edge", "triplet_edge", "triplet")),
    Row("grad_1", "∇ {r ⊂ Γ₁}", one_graph("distance")),
    Row("grad_2", "∇ {r, r' ⊂ Γ₂}", two_graph("triplet_distance")),
    Row("grad_12", "∇ {r ⊂ Γ₁} ∪ {r, r' ⊂ Γ₂}", two_graph("distance", "triplet_distance")),
    Row("grad_12_area", "∇ {r ⊂ Γ₁} ∪ {r, r', 𝒜 ⊂ Γ₂}", two_graph("distance", "triplet_distance", "area")),
    Row("grad_12_angle", "∇ {r ⊂ Γ₁} ∪ {r, r', θ ⊂ Γ₂}", two_graph("distance", "triplet_distance", "angle_as_printed")),
    Row("sym_1", "∇sym {r ⊂ Γ₁}", one_graph("distance_symmetric"), seed=1),
    Row("sym_2", "∇sym {r, r' ⊂ Γ₂}", two_graph("triplet_distance_symmetric"), seed=1),
    Row(
        "sym_12_angle",
        "∇sym {r ⊂ Γ₁} ∪ {r, r', θ ⊂ Γ₂}",
        two_graph("distance_symmetric", "triplet_distance_symmetric", "angle_as_printed_symmetric"),
    ),
    Row("feed_forward", "feed forward (FF)", None),
    Row(
        "grad_12_theta",
        "not in the paper: ∇ {r ⊂ Γ₁} ∪ {r, r', θ ⊂ Γ₂} with the derivative of θ",
        two_graph("distance", "triplet_distance", "angle"),
    ),
    Row("ketbra_1_l2", "not in the paper: {|•⟩⟨•| ⊂ Γ₁}, messages with l ≤ 2", {"layers": 3, "fields": ["edge"]}),
]
"""In the order of the paper's table."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path(".train/empnn/sweeps"))
    parser.add_argument("--out", type=Path, default=RESULTS / "empnn_fields.json")
    parser.add_argument("--finished-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget, val, train = Budget(), args.data / "mp_val.parquet", args.data / "mp_train.parquet"
    data = None if args.finished_only else sweep_data(train, budget)
    rows = []
    for row in ROWS:
        if data is None and not finished(row, budget, args.runs):
            continue
        rows.append(run_row(row, data, val, budget, args.runs))
        print(line(rows[-1]), flush=True)
    result = {
        "task": "empnn_fields",
        "budget": asdict(budget),
        "rows": rows,
        **facts(val, None, 0, others={"train": train}),
    }
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
