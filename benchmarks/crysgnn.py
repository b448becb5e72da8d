"""Does CrysGNN's recipe help our encoder? Pre-training without labels, then fine-tuning or distillation, beside
training from scratch.

usage: python benchmarks/crysgnn.py DATA_DIR --out RUN [--seeds 0 1]

The teacher (crysgnn_pretraining.CrysGnn) learns from the structures of mp_train, wbm_sample, perov5_train and
carbon24_train, without those that fold 0 or 1 of mp_elastic holds. Then, in equal steps each, from all training rows
and from a tenth of them:

* formation energy: mp_train rows whose label is of no other release, measured on mp_val;
* log10 of the shear modulus: train part of mp_elastic (autoperi.data.splits), measured on its validation part.

All networks are of one small size and all crystals of at most 20 atoms. Writes benchmarks/results/crysgnn_val.json.
What is finished in RUN is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crysgnn_pretraining import CrysGnn, CrysGnnTask, DistilledTask, with_teacher

from autoperi.data.io import CrystalTable, read_table
from autoperi.data.random import torch_generator
from autoperi.data.splits import splits_of
from autoperi.evaluation.common import facts
from autoperi.metrics.distribution import space_groups
from autoperi.models.formation_energy import FormationEnergy
from autoperi.training.data import TensorCrystals
from autoperi.training.prepare import LABEL, ORIGIN
from autoperi.training.run import TrainingConfig, train

RESULTS = Path(__file__).resolve().parent / "results"
MAX_ATOMS = 20
SHAPE = {"channels": 48, "layers": 2}
SETTINGS: dict[str, Any] = {"batch_size": 32, "learning_rate": 2e-3, "ema": 0.99, "model_config": SHAPE}
UNLABELLED = {"mp_train": 10_000, "wbm_sample": 4_000, "perov5_train": 1_000, "carbon24_train": 1_000}
"""Crystals of each table, drawn with seed 0."""
PRETRAINING_STEPS = 1500
STEPS = {
    ("formation_energy", 1.0): 900,
    ("formation_energy", 0.1): 450,
    ("shear_modulus", 1.0): 600,
    ("shear_modulus", 0.1): 300,
}
MODES = ("from scratch", "fine-tuned", "distilled")
WARMUP = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    teacher, told = pretrained(args.data, args.out)
    print(json.dumps(told), flush=True)
    rows: list[dict[str, Any]] = []
    for target, load in (("formation_energy", energies), ("shear_modulus", moduli)):
        data, val = load(args.data)
        for share in (1.0, 0.1):
            for seed in args.seeds:
                for mode in MODES:
                    path = args.out / f"{target}_{share}_{mode.replace(' ', '_')}_{seed}.json"
                    rows.append(
                        finished(
                            path, partial(one, args.out, teacher, target, data, val, share=share, mode=mode, seed=seed)
                        )
                    )
    result = {
        "task": "crysgnn",
        "question": "does pre-training help our encoder?",
        "units": {"formation_energy": "eV/atom", "shear_modulus": "log10 GPa"},
        "max_atoms": MAX_ATOMS,
        "model_config": SHAPE,
        "settings": {k: v for k, v in SETTINGS.items() if k != "model_config"}
        | {"warmup": WARMUP, "distillation_delta": 0.1},
        "pretraining": told,
        "rows": rows,
        "table": table(rows),
        "cpu_seconds_this_run": round(time.process_time() - started, 1),
        **facts(
            args.data / "mp_val.parquet",
            None,
            0,
            others={"train": args.data / "mp_train.parquet", "elastic": args.data / "mp_elastic.parquet"},
        ),
    }
    (RESULTS / "crysgnn_val.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["table"], indent=1))
    return 0


def finished(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``path`` holds, or what ``run`` gives, which is then kept there."""
    if not path.exists():
        path.write_text(json.dumps(run()))
        print(path.read_text(), flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def pretrained(data: Path, out: Path) -> tuple[CrysGnn, dict[str, Any]]:
    """The teacher, and how it was trained."""
    held_out = {i for i, part in with_parts(read_table(data / "mp_elastic.parquet")) if part != "train"}
    tables, counts = [], {}
    for name, number in UNLABELLED.items():
        table = small(read_table(data / f"{name}.parquet"))
        table = table[np.array([i not in held_out for i in map(str, table.ids)])]
        rows = torch.randperm(len(table), generator=torch_generator(0))[:number].tolist()
        tables.append(unlabelled(table[rows]))
        counts[name] = len(rows)
    val = unlabelled(small(read_table(data / "mp_val.parquet")))
    joined = TensorCrystals(
        type(val.crystals).cat([t.crystals for t in tables]),
        {"space_group": torch.cat([t.labels["space_group"] for t in tables])},
    )
    epochs = round(PRETRAINING_STEPS / -(-len(joined) // SETTINGS["batch_size"]))
    config = TrainingConfig("crysgnn", epochs, warmup=WARMUP, **SETTINGS)
    network, summary = train(
        config,
        kind=(CrysGnn, CrysGnnTask),
        train_data=joined,
        val_data=val,
        directory=out / "teacher",
        resume=True,
        device="cpu",
    )
    assert isinstance(network, CrysGnn)
    kept = {k: round(v, 4) for k, v in summary["final"].items() if k.startswith("val_")}
    return network.eval(), {"crystals": counts, "epochs": epochs, "steps": summary["steps"], **kept}


def one(
    out: Path,
    teacher: CrysGnn,
    target: str,
    data: TensorCrystals,
    val: TensorCrystals,
    *,
    share: float,
    mode: str,
    seed: int,
) -> dict[str, Any]:
    """One training and its error."""
    if share < 1:
        data = chosen(data, torch.randperm(len(data), generator=torch_generator(seed, 1))[: round(share * len(data))])
    epochs = -(-STEPS[target, share] // -(-len(data) // SETTINGS["batch_size"]))
    config = TrainingConfig(
        "distilled" if mode == "distilled" else "formation_energy", epochs, warmup=WARMUP, seed=seed, **SETTINGS
    )
    backbone = {k: v for k, v in teacher.state_dict().items() if k.startswith("backbone.")}
    network, summary = train(
        config,
        kind=(FormationEnergy, DistilledTask) if mode == "distilled" else None,
        train_data=with_teacher(teacher, data) if mode == "distilled" else data,
        val_data=val,
        directory=out / f"{target}_{share}_{mode.replace(' ', '_')}_{seed}",
        device="cpu",
        initial=backbone if mode == "fine-tuned" else None,
    )
    assert isinstance(network, FormationEnergy)
    return {
        "target": target,
        "share": share,
        "mode": mode,
        "seed": seed,
        "rows": len(data),
        "epochs": epochs,
        "steps": summary["steps"],
        "seconds": summary["seconds_last_run"],
        "mae": mae(network, val),
        "n": len(val),
    }


@torch.no_grad()
def mae(network: torch.nn.Module, val: TensorCrystals) -> float:
    """Mean absolute error on ``val``."""
    network.eval()
    found = torch.cat([network(val.crystals[rows]) for rows in torch.arange(len(val)).split(64)])
    return round(float((found - val.labels[LABEL]).abs().mean()), 5)


def energies(data: Path) -> tuple[TensorCrystals, TensorCrystals]:
    """Formation energies of mp_train that are of no other release, and of mp_val."""
    train_table, val = (small(read_table(data / f"{name}.parquet")) for name in ("mp_train", "mp_val"))
    own = train_table.labels[LABEL].notna().to_numpy() & train_table.labels[ORIGIN].isna().to_numpy()
    return tuple(labelled(t, t.labels[LABEL].to_numpy(dtype=float)) for t in (train_table[own], val))  # type: ignore[return-value]


def moduli(data: Path) -> tuple[TensorCrystals, TensorCrystals]:
    """log10 of the shear moduli of the train and the validation part of mp_elastic."""
    table = small(read_table(data / "mp_elastic.parquet"))
    parts = np.array(splits_of(table.ids))
    values = np.log10(table.labels["g_vrh"].to_numpy(dtype=float))
    return tuple(labelled(table[parts == part], values[parts == part]) for part in ("train", "val"))  # type: ignore[return-value]


def labelled(table: CrystalTable, values: Any) -> TensorCrystals:
    """The values under the name that the tasks read."""
    return TensorCrystals(
        table.batch(dtype=torch.float32),
        {LABEL: torch.tensor(values, dtype=torch.float32), "label_weight": torch.ones(len(values))},
    )


def unlabelled(table: CrystalTable) -> TensorCrystals:
    """Crystals with the space group that spglib finds, 0 where none."""
    groups = [group or 0 for group in space_groups(table.structures(), processes=1, progress=False)]
    return TensorCrystals(table.batch(dtype=torch.float32), {"space_group": torch.tensor(groups, dtype=torch.float32)})


def chosen(data: TensorCrystals, rows: torch.Tensor) -> TensorCrystals:
    """Some rows of data without labels of atoms."""
    return TensorCrystals(data.crystals[rows.tolist()], {k: v[rows] for k, v in data.labels.items()})


def small(table: CrystalTable) -> CrystalTable:
    """Crystals of at most MAX_ATOMS atoms."""
    return table[np.array([len(numbers) <= MAX_ATOMS for numbers in table.atomic_numbers])]


def with_parts(table: CrystalTable) -> list[tuple[str, str]]:
    """(id, part of the split) of each row."""
    return list(zip(map(str, table.ids), splits_of(table.ids), strict=True))


def table(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean error over the seeds by target, share and mode."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(f"{row['target']}, {row['rows']} rows", {}).setdefault(row["mode"], []).append(row["mae"])
    return {name: {mode: round(float(np.mean(v)), 4) for mode, v in modes.items()} for name, modes in found.items()}


if __name__ == "__main__":
    raise SystemExit(main())
