"""Assemble the bundled crystal transformer from its training run and measure it.

usage: python tools/build_crystal_transformer.py RUN TRAIN_RECORD VAL TEST

RUN is a directory with ``last.ckpt``, ``training.json`` and ``history.jsonl`` (``OUT/checkpoints`` of ``autoperi train
crystal_transformer``); TRAIN_RECORD is ``benchmarks/training/crystal_transformer.json``, whose ``summary`` says what
the history cannot, and whose ``history`` is renewed. Of the two sets of weights in the checkpoint, the last and their
running average, the better one on VAL is taken: after a short run the average still holds much of the beginning.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from build_cgcnn import measure
from card_facts import RESULTS, WEIGHTS, renew_record, told
from update_pretrained import update_registry

from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.card import model_card
from autoperi.hub.networks import network_component
from autoperi.models.crystal_transformer import BUNDLED, COMPONENT, CrystalTransformer, load_crystal_transformer
from autoperi.training.checkpoint import SafetensorsCheckpointIO
from autoperi.training.prepare import LABEL, training_crystals

TARGET = WEIGHTS / BUNDLED
COMMAND = (
    "python tools/build_crystal_transformer.py RUN benchmarks/training/crystal_transformer.json mp_val.parquet "
    "mp20_test.parquet"
)
WEIGHTS = {"last": "model.", "average": "average.module."}
USAGE = """import torch
from autoperi.models.crystal_transformer import load_crystal_transformer
from autoperi.data.convert import to_batch

model = load_crystal_transformer()  # float64, evaluation mode
energy = model(to_batch(structures, dtype=torch.float64))  # eV/atom, [B]"""

FACTS: dict[str, Any] = {
    "description": "A crystal transformer after CTGNN (Du et al. 2024) for the formation energy: a baseline.",
    "licence": "CC-BY-4.0",
    "licence_text": "Weights: CC-BY-4.0, learned from Materials Project data (CC-BY-4.0). Code: MIT.",
    "datasets": ["Materials Project"],
    "usage": USAGE,
    "intended_use": [
        "A baseline beside which the models of AutoPeri are measured (`autoperi evaluate properties`).",
        "It neither generates nor relaxes; `AutoPeri.from_pretrained` refuses it.",
    ],
    "data": (
        "26,462 Materials Project crystals of up to 40 atoms, the same that trained cgcnn-formation-energy and the "
        "formation energy of "
        "autoperi-base. Formation energies joined from another Materials Project release (19 %) weigh 0.3."
    ),
    "split": (
        "Validated on mp_val (1,000 crystals of the MP-20 validation split), which decided one thing, whether the "
        "last weights or their running average are kept; figures on mp20_test (4,702 of the 9,046 official MP-20 test "
        "crystals, nearly all with at most three elements). No test crystal is in the training set by its id; mp_train "
        "before its last filter (28,645 crystals) had up to 97 crystals that match one by "
        "StructureMatcher(0.5, 0.3, 10), most of them loosely."
    ),
    "citation": [
        "Du et al., CTGNN: Crystal Transformer Graph Neural Network for Crystal Material Property Prediction, "
        "arXiv:2405.11502 (2024).",
        "Jain et al., The Materials Project, APL Materials 1, 011002 (2013) (data).",
    ],
    "limits": [
        "Not CTGNN itself: its two transformers and its angles, with equations of our own (see "
        "autoperi/models/crystal_transformer.py), and small. Published errors of CTGNN are of other data.",
        "One short run, nothing tuned: fewer epochs than cgcnn-formation-energy had, so its error says what this "
        "network reaches in that time, not what it can.",
        "Trained on relaxed crystals only, so energies of strained or wrong crystals are not to be trusted.",
        "Formation energies are of PBE(+U) as Materials Project corrects it. No magnetism, no disorder.",
    ],
}


def main() -> int:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "record", "val", "test"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    args = parser.parse_args()
    torch.set_num_threads(1)
    state = SafetensorsCheckpointIO().load_checkpoint(args.run / "last.ckpt")["state_dict"]
    config = json.loads((args.run / "training.json").read_text())["model_config"]
    networks, errors = {}, {}
    for name, prefix in WEIGHTS.items():
        networks[name] = CrystalTransformer(**config).eval()
        networks[name].load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        errors[name] = error_on(networks[name], args.val)
    kept = min(errors, key=lambda name: errors[name])
    said = f"{kept} (mp_val: {', '.join(f'{name} {value:.4f}' for name, value in errors.items())} eV/atom)"
    training = told(renew_record(args.record, args.run, weights=said))
    bundle = Bundle(
        BUNDLED,
        {COMPONENT: network_component(networks[kept])},
        {"licence": FACTS["licence"], "description": FACTS["description"]},
    )
    digest = save_bundle(bundle, TARGET)["config.json"]
    results = {
        path.stem: measure(path, load_crystal_transformer(TARGET), COMPONENT, BUNDLED, digest)
        for path in (args.val, args.test)
    }
    for stem, result in results.items():
        (RESULTS / f"{COMPONENT}_{stem}.json").write_text(json.dumps(result) + "\n")
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


@torch.no_grad()
def error_on(network: CrystalTransformer, path: Path) -> float:
    """Mean absolute error on a table, float32."""
    data = training_crystals(path)
    found = torch.cat([network(data.crystals[rows]) for rows in torch.arange(len(data)).split(64)])
    return float((found - data.labels[LABEL]).abs().nanmean())


if __name__ == "__main__":
    raise SystemExit(main())
