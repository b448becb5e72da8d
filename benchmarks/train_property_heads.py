"""Train, calibrate and measure the property heads on one CPU core, and assemble a model that holds them.

usage: python benchmarks/train_property_heads.py DATA_DIR --out .train/properties [--base autoperi-base] [--ablation]

Needs mp_train, mp_val, mp_elastic and matbench_phonons (.parquet) in DATA_DIR. Gaps and the uncertainty of formation
energies are learned from mp_train and calibrated on mp_val; moduli and the last phonon peak from folds 2 to 9 of their
tables (autoperi.data.splits: by sha256 of the id), calibrated on fold 1, and fold 0 is not read. Writes

    OUT/component     the component alone, for tools/build_autoperi_base.py --properties OUT/component
    OUT/model         the base model with it, for --model OUT/model
    benchmarks/results/property_heads_val.json   errors and calibration on the crystals of choice
    benchmarks/results/property_heads_ablation_val.json   with --ablation: single members, other inputs
    benchmarks/results/property_heads_noise_val.json      with --ablation, after a run without: other losses of the
    noise
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import property_head_training as training
import torch
from property_head_training import (
    DESCRIPTORS,
    LOGARITHMS,
    METAL_EV,
    HeadTraining,
    calibrate,
    encode_all,
    fit_group,
    fit_scales,
    held_out_errors,
    predict_all,
    target_labels,
)
from torch import Tensor

from autoperi.data.io import read_table
from autoperi.data.splits import splits_of
from autoperi.hub.bundle import Bundle, Component, load_bundle, load_state, save_bundle
from autoperi.hub.download import load_pretrained
from autoperi.hub.networks import network_component, network_of
from autoperi.metrics.regression import calibration
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.property_heads import GROUPS, CrystalFeatures, PropertyHeads, encoder_fingerprint

RESULTS = Path(__file__).resolve().parent / "results"
HEADS: dict[str, dict[str, int]] = {
    "band_gap": {"members": 4, "width": 32, "hidden": 64, "embedding": 8},
    "elastic": {"members": 4, "width": 48, "hidden": 80, "embedding": 8},
    "phonon": {"members": 3, "width": 24, "hidden": 48, "embedding": 8},
    "formation_energy": {"members": 0},
}
TRAINING = {
    "band_gap": HeadTraining(epochs=40, batch_size=128, noise_epochs=15),
    "elastic": HeadTraining(epochs=50, batch_size=64, noise_epochs=30),
    "phonon": HeadTraining(epochs=60, batch_size=32, noise_epochs=40),
    "formation_energy": HeadTraining(batch_size=256, noise_epochs=15),
}
SOURCES = {"band_gap": "mp", "formation_energy": "mp", "elastic": "mp_elastic", "phonon": "matbench_phonons"}
Rows = tuple[CrystalFeatures, Tensor]
"""Crystals and their targets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(".train/properties"))
    parser.add_argument("--base", default="autoperi-base")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_pretrained(args.base)
    encoder = network_of("formation_energy", base.components["formation_energy"]).float()
    assert isinstance(encoder, FormationEnergy)
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {
        name: encoded(args.data / f"{name}.parquet", encoder, args.out)
        for name in ("mp_train", "mp_val", "mp_elastic", "matbench_phonons")
    }
    train, val = {}, {}
    for group, source in SOURCES.items():
        for part, into in (("train", train), ("val", val)):
            features, labels = tables[f"mp_{part}" if source == "mp" else source]
            targets = target_labels(group, labels)
            keep = torch.isfinite(targets).all(-1).numpy()
            if source != "mp":
                keep &= np.array(splits_of(labels["id"])) == part
            elif group == "formation_energy":
                keep &= labels["label_origin"].isna().to_numpy()  # errors of the labels are none of the model's
            rows = torch.as_tensor(np.nonzero(keep)[0])
            into[group] = (features.take(rows), targets[rows])
    if args.ablation:
        write("property_heads_ablation_val", ablation(train, val, args.seed))
        write("property_heads_noise_val", noise_losses(args.out / "component", train, val, args.seed))
        return 0
    model = PropertyHeads(
        features=int(train["band_gap"][0].nodes.shape[1]),
        descriptors=len(DESCRIPTORS) + len(LOGARITHMS),
        heads=HEADS,
        encoder=encoder_fingerprint(encoder.backbone),
    )
    fit_scales(model, train["band_gap"][0])
    report: dict[str, Any] = {"task": "property heads", "seed": args.seed, "base": base.name, "groups": {}}
    for group in HEADS:
        started = time.perf_counter()
        fitted = fit_group(model, group, *train[group], settings=TRAINING[group], seed=args.seed)
        seconds = round(time.perf_counter() - started, 1)
        report["groups"][group] = {
            **fitted,
            "seconds": seconds,
            "heads": HEADS[group],
            "training": asdict(TRAINING[group]),
        }
        print(group, report["groups"][group], flush=True)
    component = halved(network_component(model))
    load_state(model, component.tensors)  # calibrated and measured as it is stored
    for group in HEADS:
        report["groups"][group]["val"] = measured(model, group, *val[group])
    component = halved(network_component(model))
    save_bundle(
        Bundle(name="autoperi-properties", components={"properties": component}, metadata=dict(base.metadata)),
        args.out / "component",
    )
    whole = Bundle(
        name=f"{base.name}-properties",
        components={**base.components, "properties": component},
        metadata=dict(base.metadata),
    )
    save_bundle(whole, args.out / "model")
    report["bytes"] = (args.out / "component" / "properties.safetensors").stat().st_size
    write("property_heads_val", report)
    return 0


def encoded(path: Path, encoder: FormationEnergy, folder: Path) -> tuple[CrystalFeatures, Any]:
    """Features of the labelled rows of a table, remembered in ``folder``, and their labels."""
    from safetensors.torch import load_file, save_file

    table = read_table(path)
    if "band_gap" in table.labels and "train" in path.name:
        table = table[np.nonzero(table.labels["band_gap"].notna().to_numpy())[0].tolist()]
    labels = table.labels.assign(id=[str(i) for i in table.ids])
    file = folder / f"features_{path.stem}_{encoder_fingerprint(encoder.backbone)[:12]}.safetensors"
    if not file.exists():
        features = encode_all(encoder, table.batch(dtype=torch.float32))
        save_file({**vars(features), "nodes": features.nodes.half()}, str(file))
    found = load_file(str(file))
    return CrystalFeatures(**{**found, "nodes": found["nodes"].float()}), labels


def halved(component: Component) -> Component:
    """Weights in half precision; statistics and factors as they are."""
    weights = {k: v.half() if k.startswith(("members.", "noise.")) else v for k, v in component.tensors.items()}
    return Component(config=component.config, tensors=weights)


def measured(model: PropertyHeads, group: str, crystals: CrystalFeatures, targets: Tensor) -> dict[str, Any]:
    """Errors, and calibration before and after the factor s; moduli in log10 GPa, the peak in ln 1/cm."""
    getattr(model, f"{group}_calibration").fill_(1.0)
    before = predict_all(model, crystals)[group]
    factors = calibrate(model, group, crystals, targets)
    after = predict_all(model, crystals)[group]
    found: dict[str, Any] = {}
    for k, name in enumerate(GROUPS[group]):
        mean, label = after.mean[:, k], targets[:, k]
        found[name] = {
            "n": len(label),
            "mae": round(float((mean - label).abs().mean()), 5),
            "factor": round(float(factors[k]), 4),
            "before": calibration(mean, before.std[:, k], label),
            "after": calibration(mean, after.std[:, k], label),
        }
        if group == "phonon":
            found[name]["mae_per_cm"] = round(float((mean.exp() - label.exp()).abs().mean()), 2)
    if after.is_metal is not None:
        metal, label = after.is_metal, targets[:, 0]
        truth = (label < METAL_EV).float()
        raw = torch.stack([v.clamp(min=0) for v in _ungated(model, crystals)]).mean(0)
        found["is_metal"] = {
            "accuracy": round(float(((metal > 0.5) == (truth > 0.5)).float().mean()), 4),
            "brier": round(float(((metal - truth) ** 2).mean()), 4),
            "mean_probability": round(float(metal.mean()), 4),
            "share": round(float(truth.mean()), 4),
        }
        found["choices"] = {
            "gated (kept)": found["band_gap"]["mae"],
            "not gated": round(float((raw - label).abs().mean()), 5),
            "times the probability of a gap": round(float((raw * (1 - metal) - label).abs().mean()), 5),
        }
    return found


@torch.no_grad()
def _ungated(model: PropertyHeads, crystals: CrystalFeatures) -> list[Tensor]:
    inputs = model.inputs(crystals)
    return [
        m(crystals, *inputs)[:, 0] * model.band_gap_scale + model.band_gap_centre for m in model.members["band_gap"]
    ]  # type: ignore[union-attr]


def ablation(train: dict[str, Rows], val: dict[str, Rows], seed: int) -> dict[str, Any]:
    """Errors on the crystals of choice of one member without a fold, where some inputs are zero."""
    channels = train["band_gap"][0].nodes.shape[1] // 5
    every = set(range(5))
    variants: dict[str, tuple[set[int], bool]] = {
        "all": (every, True),
        "scalars of all layers": ({0, 1, 2}, True),
        "scalars of the first layer": ({0}, True),
        "scalars of the last layer": ({2}, True),
        "no features of the encoder": (set(), True),
        "no element descriptors": (every, False),
    }
    found: dict[str, Any] = {
        "task": "property heads, ablation",
        "seed": seed,
        "note": "one member that saw three of four folds; width 32, hidden 64",
    }
    for group, epochs in (("band_gap", 15), ("elastic", 30)):
        for name, (blocks, descriptors) in variants.items():
            mask = torch.tensor([k // channels in blocks for k in range(5 * channels)]).float()
            model = PropertyHeads(
                features=5 * channels,
                descriptors=len(DESCRIPTORS) + len(LOGARITHMS),
                heads={group: {"members": 1, "width": 32, "hidden": 64, "embedding": 8}},
            )
            fit_scales(model, train[group][0])
            model.descriptors.mul_(float(descriptors))
            masked = [
                CrystalFeatures(**{**vars(part[group][0]), "nodes": part[group][0].nodes * mask})
                for part in (train, val)
            ]
            model.feature_mean.mul_(mask)
            settings = HeadTraining(epochs=epochs, batch_size=128 if group == "band_gap" else 64, noise_epochs=1)
            fit_group(model, group, masked[0], train[group][1], settings=settings, seed=seed)
            error = (predict_all(model, masked[1])[group].mean - val[group][1]).abs().mean(0)
            found.setdefault(group, {})[name] = [round(float(e), 4) for e in error]
            print(group, name, found[group][name], flush=True)
    return found


def noise_losses(component: Path, train: dict[str, Rows], val: dict[str, Rows], seed: int) -> dict[str, Any]:
    """Calibration of σ on the crystals of choice with ε trained by other losses, each with its own factor s."""
    kept = training._noise_loss
    model = network_of("property_heads", load_bundle(component).components["properties"])
    assert isinstance(model, PropertyHeads)
    found: dict[str, Any] = {"task": "property heads, loss of the noise", "seed": seed}
    for group, settings in TRAINING.items():
        residual = held_out_errors(model, group, *train[group], seed=seed)
        known = torch.isfinite(residual).all(-1).nonzero().squeeze(-1)
        for name, loss in {
            "normal (kept)": kept,
            "Laplace": _laplace,
            "continuous ranked probability score": _crps,
        }.items():
            training._noise_loss = loss
            training._fit(
                model.noise[group],
                model,
                group,
                train[group][0],
                residual,
                known,
                settings,
                settings.noise_epochs,
                seed=(seed, 2, 0),
                noise=True,
            )
            for target, row in measured(model, group, *val[group]).items():
                if target in GROUPS[group]:
                    found.setdefault(target, {})[name] = {"factor": row["factor"]} | {
                        k: v["value"] for k, v in row["after"].items()
                    }
                    print(target, name, found[target][name], flush=True)
    training._noise_loss = kept
    return found


def _laplace(found: Tensor, residual: Tensor, centre: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    width = PropertyHeads.width_of(found)
    return (torch.log(width) + (residual / scale).abs() / width).mean()


def _crps(found: Tensor, residual: Tensor, centre: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    """Of a normal distribution (Gneiting & Raftery 2007, eq. 21)."""
    width = PropertyHeads.width_of(found)
    z, normal = residual / scale / width, torch.distributions.Normal(0.0, 1.0)
    return (width * (z * (2 * normal.cdf(z) - 1) + 2 * torch.exp(normal.log_prob(z)) - torch.pi**-0.5)).mean()


def write(name: str, content: dict[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
