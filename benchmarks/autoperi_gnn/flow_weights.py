"""The flow of a model, for the scripts beside this file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file

from autoperi.hub.serialize import load_bundle
from autoperi.models.autoperi_gnn import AutoPeriGnn

BUNDLED = Path(__file__).resolve().parents[2] / "autoperi" / "weights" / "autoperi-base"


def load_flow(weights: Path | None = None) -> tuple[AutoPeriGnn, str]:
    """The network in evaluation mode, float32, and the sha256 of its file.

    Args:
        weights: ``autoperi_gnn.safetensors`` of benchmarks/autoperi_gnn/train.py (``training.json`` beside it says its size), a model directory with a
            flow, or a file of the size of the bundled one; None is the bundled model's.
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
