"""The flow of a model and the crystals it is tried on, for the scripts beside this file."""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from autoperi.hub.bundle import load_bundle
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.training.orbit_data import OrbitCrystals

BUNDLED = Path(__file__).resolve().parents[2] / "autoperi" / "weights" / "autoperi-base"


def load_flow(weights: Path | None = None) -> tuple[AutoPeriGnn, str]:
    """The network in evaluation mode, float32, and the sha256 of its file.

    Args:
        weights: ``autoperi_gnn.safetensors`` of benchmarks/autoperi_gnn/train.py (``training.json`` beside it says its
            size), a model directory with a flow, or a file of the size of the bundled one; None is the bundled model's.
    """
    weights = BUNDLED if weights is None else weights
    if weights.is_dir():
        weights = weights / json.loads((weights / "config.json").read_text())["components"]["flow"]["file"]
    training, config = weights.parent / "training.json", weights.parent / "config.json"
    if training.exists():
        options = json.loads(training.read_text())["model_config"]
    else:
        bundle = load_bundle(weights.parent if config.exists() else BUNDLED)
        options = bundle.components["flow"].config
    model = AutoPeriGnn(**options)
    model.load_state_dict(load_file(weights))
    return model.eval(), hashlib.sha256(weights.read_bytes()).hexdigest()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What :func:`tried_on` reads."""
    parser.add_argument(
        "--weights",
        type=Path,
        help="autoperi_gnn.safetensors of a run, or a model directory; the bundled model's by default",
    )
    parser.add_argument("--data", required=True, help="tensors of train.py prepare")
    parser.add_argument("--limit", type=int, default=300, help="crystals, drawn with the seed; 0 is all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def tried_on(args: argparse.Namespace) -> tuple[AutoPeriGnn, str, OrbitCrystals, Tensor]:
    """The network, the sha256 of its file, the crystals, and the rows of them that were asked for."""
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*electronegativity.*")
    model, sha256 = load_flow(args.weights)
    data = OrbitCrystals.load(args.data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(args.seed))
    return model, sha256, data, order[: args.limit or None].sort().values
