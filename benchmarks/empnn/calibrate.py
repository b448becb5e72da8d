"""Calibrate what a trained relaxer says of its own errors, on validation crystals, and write the component that goes
into a model.

usage: python benchmarks/empnn/calibrate.py DATA_DIR RUN --component .train/empnn/final [--out
benchmarks/results/empnn_calibration.json]

RUN is that of relaxer.py. Crystals of the three validation tables are strained (σ = 0.03 and 0.1) or begun in the 1 Å
cube (Niggli cells); errors of lengths are taken for exponentially distributed about factor·(predicted)^power, and both
numbers are those of the largest likelihood.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from relaxer import tables

from autoperi.data.crystal import CrystalBatch
from autoperi.data.random import torch_generator
from autoperi.geometry.lattice import change_basis, lengths_angles, symmetric_exp, symmetric_matrix
from autoperi.geometry.reduction import niggli_reduce
from autoperi.hub.bundle import Bundle, Component, load_bundle, save_bundle
from autoperi.hub.networks import network_component, network_of
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.processes.lattice import CONFIDENT_LENGTH_ERROR, relax_cells

RESULTS = Path(__file__).resolve().parents[1] / "results"
CRYSTALS = {"mp_val": 600, "carbon24_val": 200, "perov5_val": 100}
SIGMAS = (0.03, 0.1)
PASSES = 4


def pairs(network: LatticeRelaxer, crystals: CrystalBatch, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true mean relative errors of lengths, from every start."""
    reduced = change_basis(crystals, niggli_reduce(crystals.lattice)[1])
    cubes = reduced.replace(lattice=torch.eye(3, dtype=torch.float64).expand(len(crystals), 3, 3).clone())
    starts = [(cubes, reduced.lattice)]
    for k, sigma in enumerate(SIGMAS):
        noise = torch.randn(len(crystals), 6, generator=torch_generator(seed, k), dtype=torch.float64)
        starts.append(
            (
                crystals.replace(lattice=crystals.lattice @ symmetric_exp(symmetric_matrix(sigma * noise))),
                crystals.lattice,
            )
        )
    predicted, true = [], []
    for start, truth in starts:
        with torch.no_grad():
            found = relax_cells(network, start, passes=PASSES)
        a, b = lengths_angles(found.crystals.lattice)[0], lengths_angles(truth)[0]
        assert found.expected_error is not None
        predicted.append(found.expected_error.numpy())
        true.append(((a - b).abs() / b).mean(1).numpy())
    return np.concatenate(predicted), np.concatenate(true)


def likeliest(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(factor, power) of the largest likelihood of exponential errors; for each power the best factor is mean(e /
    p^power).
    """

    def cost(power: float) -> tuple[float, float]:
        shape = predicted**power
        factor = float((true / shape).mean())
        return float(np.log(factor * shape).mean()), factor

    power = min(np.arange(0.3, 1.31, 0.01), key=lambda x: cost(float(x))[0])
    return round(cost(float(power))[1], 4), round(float(power), 2)


def reliability(expected: np.ndarray, true: np.ndarray) -> list[dict[str, Any]]:
    """Fifths of the crystals by confidence: how sure the model is that lengths are right within 2 %, and how many
    are.
    """
    confidence = 1 - np.exp(-CONFIDENT_LENGTH_ERROR / expected)
    return [
        {
            "confidence": round(float(confidence[part].mean()), 3),
            "within_2_percent": round(float((true[part] < CONFIDENT_LENGTH_ERROR).mean()), 3),
            "expected_error": round(float(expected[part].mean()), 4),
            "error": round(float(true[part].mean()), 4),
            "of": len(part),
        }
        for part in np.array_split(np.argsort(expected), 5)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--component", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "empnn_calibration.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    component = load_bundle(args.run / "model").components["empnn"]
    plain = Component({**component.config, "calibration": [1.0, 1.0]}, component.tensors)
    network = network_of("empnn", plain).double()
    assert isinstance(network, LatticeRelaxer)
    crystals = tables(args.data, dict(CRYSTALS), max_atoms=20, seed=1).crystals.to(dtype=torch.float64)
    half = torch.randperm(len(crystals), generator=torch_generator(0))
    predicted, true = pairs(network, crystals, 0)
    n, first = len(crystals), half[: len(half) // 2].numpy()
    fitting = np.isin(np.arange(len(true)) % n, first)
    factor, power = likeliest(predicted[fitting], true[fitting])
    held_out = reliability(factor * predicted[~fitting] ** power, true[~fitting])
    factor, power = likeliest(predicted, true)
    network = network_of("empnn", Component({**component.config, "calibration": [factor, power]}, component.tensors))
    save_bundle(Bundle(name="relaxer", components={"empnn": network_component(network)}, metadata={}), args.component)
    result = {
        "task": "empnn_calibration",
        "crystals": CRYSTALS,
        "starts": ["1 Å cube, Niggli cells", *(f"strain of {s}" for s in SIGMAS)],
        "factor": factor,
        "power": power,
        "fifths_held_out": held_out,
    }
    args.out.write_text(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
