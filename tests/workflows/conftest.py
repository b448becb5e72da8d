"""A small model with a potential, and one exploration that is not interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from autoperi import AutoPeri
from autoperi.hub.networks import network_component
from autoperi.models.potential import Potential
from autoperi.testing import tiny_model

sys.path.insert(0, str(Path(__file__).parent))  # for explored


@pytest.fixture(scope="session")
def judging_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_model`` with an untrained potential, as a directory; do not change it."""
    bundle = tiny_model(name="judging")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(channels=8, layers=1, cutoff=4.0, n_radial=4, hidden=8)
    bundle.components["potential"] = network_component(potential)
    directory = tmp_path_factory.mktemp("models") / "judging"
    AutoPeri(bundle).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def judging(judging_dir: Path) -> AutoPeri:
    """That model, loaded."""
    return AutoPeri.from_pretrained(judging_dir)


@pytest.fixture(scope="session")
def whole(judging: AutoPeri, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted; do not change it."""
    from explored import SMALL

    folder = tmp_path_factory.mktemp("runs") / "whole"
    judging.explore("Na-Cl", out=folder, **SMALL)
    return folder
