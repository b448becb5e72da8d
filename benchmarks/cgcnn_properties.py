"""CGCNN or the crystal transformer on the rows on which the property heads are trained and measured: baselines, whose
weights are not kept.

usage: python benchmarks/cgcnn_properties.py DATA_DIR --property band_gap|k_vrh|g_vrh --epochs N --out RUN
    [--model crystal_transformer]

The band gap is learned from mp_train and measured on mp20_test; moduli, as decimal logarithms, from the train part of
mp_elastic (by autoperi.data.splits) and measured on its test part. Writes benchmarks/results/MODEL_PROPERTY.json;
mp_val or the validation part is shown in the history only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoperi.data.io import CrystalTable, read_table
from autoperi.data.splits import splits_of
from autoperi.evaluation.common import facts
from autoperi.metrics.regression import regression
from autoperi.training.data import TensorCrystals
from autoperi.training.run import TrainingConfig, train

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS: dict[str, dict[str, Any]] = {
    "cgcnn": {"batch_size": 64, "learning_rate": 3e-3},
    "crystal_transformer": {"batch_size": 64, "learning_rate": 2e-3, "ema": 0.995, "warmup": 100},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--property", required=True, choices=["band_gap", "k_vrh", "g_vrh"])
    parser.add_argument("--model", default="cgcnn", choices=list(SETTINGS))
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gap = args.property == "band_gap"
    files = {
        part: args.data / f"{name}.parquet"
        for part, name in (("train", "mp_train"), ("val", "mp_val"), ("test", "mp20_test"))
    }
    if not gap:
        files = dict.fromkeys(files, args.data / "mp_elastic.parquet")
    tables = {part: rows_of(path, args.property, None if gap else part) for part, path in files.items()}
    data = {part: tensors(table, args.property) for part, table in tables.items()}
    config = TrainingConfig(args.model, args.epochs, **SETTINGS[args.model])
    network, summary = train(config, train_data=data["train"], val_data=data["val"], directory=args.out)
    network.eval()
    crystals = data["test"].crystals
    with torch.no_grad():
        found = torch.cat([network(crystals[k : k + 64]) for k in range(0, len(crystals), 64)]).double().numpy()
    label = data["test"].labels["formation_energy_per_atom"].double().numpy()
    result: dict[str, Any] = {
        "task": args.model,
        "property": args.property,
        "unit": "eV" if gap else "log10 GPa",
        "errors": regression(np.maximum(found, 0) if gap else found, label),
        "settings": SETTINGS[args.model],
        "summary": summary,
        **facts(files["test"], None, 0, others={"train": files["train"]}),
    }
    (RESULTS / f"{args.model}_{args.property}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result["errors"]["mae"], summary["seconds_last_run"])
    return 0


def rows_of(path: Path, label: str, part: str | None) -> CrystalTable:
    """Rows with a label, of one part of the split where one is named."""
    table = read_table(path)
    keep = table.labels[label].notna().to_numpy()
    if part is not None:
        keep &= np.array(splits_of(table.ids)) == part
    return table[np.nonzero(keep)[0].tolist()]


def tensors(table: CrystalTable, label: str) -> TensorCrystals:
    """The label under the name that the tasks read."""
    values = table.labels[label].to_numpy(dtype=float)
    values = values if label == "band_gap" else np.log10(values)
    return TensorCrystals(
        table.batch(dtype=torch.float32),
        {
            "formation_energy_per_atom": torch.tensor(values, dtype=torch.float32),
            "label_weight": torch.ones(len(values)),
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
