"""Assemble the bundled CGCNN from its training run and measure it.

usage: python tools/build_cgcnn.py RUN TRAIN VAL TEST

RUN is a directory with ``last.ckpt``, ``training.json`` and ``history.jsonl`` (``OUT/checkpoints`` of ``autoperi train
cgcnn``). What the history cannot say of the run stands in ``benchmarks/training/cgcnn.json`` under ``summary``; its
``history`` is renewed. The statistics of batch normalisation are those of TRAIN, as at the end of ``autoperi train
cgcnn``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card_facts import RESULTS, TRAINING, WEIGHTS, renew_record, told
from update_pretrained import update_registry

from autoperi.data.io import read_table
from autoperi.evaluation.common import facts
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.card import model_card
from autoperi.hub.networks import network_component
from autoperi.models.cgcnn import BUNDLED, COMPONENT, Cgcnn, load_cgcnn
from autoperi.training.checkpoint import SafetensorsCheckpointIO
from autoperi.training.data import Batches
from autoperi.training.prepare import training_crystals
from autoperi.training.tasks.cgcnn import fit_statistics

MAX_ATOMS = 40
RECORD = TRAINING / "cgcnn.json"
TARGET = WEIGHTS / BUNDLED
COMMAND = "python tools/build_cgcnn.py RUN mp_train.parquet mp_val.parquet mp20_test.parquet"
USAGE = """from autoperi.models.cgcnn import load_cgcnn
from autoperi.data.convert import to_batch

model = load_cgcnn()  # float64, evaluation mode
energy = model(to_batch(structures, dtype=torch.float64))  # eV/atom, [B]
vectors = model.features(to_batch(structures, dtype=torch.float64))  # penultimate activations, [B, 128]"""

FACTS: dict[str, Any] = {
    "description": "CGCNN (Xie & Grossman 2018) for the formation energy: a baseline, and the feature extractor of a "
    "Fréchet distance.",
    "licence": "CC-BY-4.0",
    "licence_text": "Weights: CC-BY-4.0, learned from Materials Project data (CC-BY-4.0). Code: MIT.",
    "datasets": ["Materials Project"],
    "usage": "import torch\n" + USAGE,
    "intended_use": [
        "A published baseline beside which the models of AutoPeri are measured (`autoperi evaluate properties`).",
        "Features of crystals for Fréchet distances between sets of them (`autoperi.metrics.frechet`).",
        "It neither generates nor relaxes; `AutoPeri.from_pretrained` refuses it.",
    ],
    "data": (
        "26,462 Materials Project crystals of up to 40 atoms: part of MP-20 training and validation, MPTS-52 "
        "validation and test, and smaller sets, the same that trained the formation energy of autoperi-base. "
        "Formation energies joined from another Materials Project release (19 %) weigh 0.3."
    ),
    "split": (
        "Validated on mp_val (1,000 crystals of the MP-20 validation split), which decided one thing, that batch "
        "statistics are taken anew after the last epoch; figures on mp20_test (4,702 of the 9,046 official MP-20 test "
        "crystals, nearly all with at most three elements). No test crystal is in the training set by its id; mp_train "
        "before its last filter (28,645 crystals) had up to 97 crystals that match one by "
        "StructureMatcher(0.5, 0.3, 10), most of them loosely."
    ),
    "citation": [
        "Xie & Grossman, Crystal Graph Convolutional Neural Networks, PRL 120, 145301 (2018).",
        "Jain et al., The Materials Project, APL Materials 1, 011002 (2013) (data).",
    ],
    "limits": [
        "Not the published weights, nor the published input: element vectors are learned, and ties among the twelve "
        "nearest neighbours share the last places (see autoperi/models/cgcnn.py). Errors and distances of other "
        "CGCNNs are not comparable digit by digit.",
        "One short run, nothing tuned; trained on relaxed crystals only, so energies of strained or wrong crystals "
        "are not to be trusted.",
        "Distances alone, no angles: crystals with equal sets of neighbour distances cannot be told apart.",
        "Formation energies are of PBE(+U) as Materials Project corrects it. No magnetism, no disorder.",
    ],
}


def main() -> int:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "train", "val", "test"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    args = parser.parse_args()
    state = SafetensorsCheckpointIO().load_checkpoint(args.run / "last.ckpt")["state_dict"]
    network = Cgcnn(**json.loads((args.run / "training.json").read_text())["model_config"])
    network.load_state_dict(
        {k.removeprefix("average.module."): v for k, v in state.items() if k.startswith("average.module.")}
    )
    settings = json.loads((args.run / "training.json").read_text())
    batches = Batches(
        training_crystals(args.train, max_atoms=MAX_ATOMS),
        settings["batch_size"],
        seed=settings["seed"],
        epoch=settings["epochs"] - 1,
    )
    fit_statistics(network, batches)
    training = told(renew_record(RECORD, args.run))
    bundle = Bundle(
        BUNDLED,
        {COMPONENT: network_component(network.eval())},
        {"licence": FACTS["licence"], "description": FACTS["description"]},
    )
    digest = save_bundle(bundle, TARGET)["config.json"]
    results = {path.stem: measure(path, load_cgcnn(TARGET), "cgcnn", BUNDLED, digest) for path in (args.val, args.test)}
    for stem, result in results.items():
        (RESULTS / f"cgcnn_{stem}.json").write_text(json.dumps(result) + "\n")
        print(json.dumps(result))
    metrics = [
        {
            "name": key,
            "value": result[key],
            "unit": "eV/atom",
            "data": f"{result['data']}, n = {result['n']}",
            "command": COMMAND,
        }
        for result in results.values()
        for key in ("mae_eV_per_atom", "median_error_eV_per_atom")
    ]
    # Figures go into the card alone: the sha256 of config.json names the model, and measuring it must not change its
    # name.
    bundle.card = model_card(FACTS | {"name": BUNDLED, "training": training, "metrics": metrics})
    save_bundle(bundle, TARGET)
    update_registry()
    return 0


def measure(path: Path, model: torch.nn.Module, task: str, name: str, digest: str) -> dict[str, Any]:
    """Errors of a saved network for the formation energy, in float64, on a table."""
    table = read_table(path)
    batch, label = table.batch(), table.labels["formation_energy_per_atom"].to_numpy(dtype=float)
    with torch.no_grad():
        parts = [
            model(batch[range(k, min(k + 64, len(batch)))].to(dtype=torch.float64)) for k in range(0, len(batch), 64)
        ]
    error = np.abs(torch.cat(parts).numpy() - label)
    error = error[np.isfinite(error)]
    return {
        "task": task,
        "n": len(error),
        "mae_eV_per_atom": round(float(error.mean()), 4),
        "median_error_eV_per_atom": round(float(np.median(error)), 4),
        **facts(path, {"model": name, "sha256": digest}, 0),
    }


if __name__ == "__main__":
    raise SystemExit(main())
