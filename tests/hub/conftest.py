from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch
from loopback import LoopbackHub

from autoperi.hub import Bundle, Component, save_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def bundle() -> Bundle:
    """A model of a few numbers, in three dtypes, with an empty and a zero-dimensional tensor."""
    generator = torch.Generator().manual_seed(0)
    first = {
        "layer.weight": torch.randn(3, 2, generator=generator),
        "layer.bias": torch.zeros(3),
        "empty": torch.zeros(0),
    }
    second = {
        "counts": torch.arange(5),
        "mask": torch.tensor([True, False]),
        "scale": torch.tensor(2.0, dtype=torch.float64),
    }
    return Bundle(
        name="tiny",
        components={
            "empnn": Component({"width": 3, "cutoff": 5.0}, first),
            "prior": Component({"elements": ["Li", "O"]}, second),
        },
        metadata={
            "licence": "CC-BY-4.0",
            "description": "A tiny model for tests.",
            "limits": ["None of this is real."],
        },
    )


@pytest.fixture
def model(bundle: Bundle, tmp_path: Path) -> Path:
    """``bundle`` as a directory."""
    save_bundle(bundle, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def files(model: Path) -> dict[str, bytes]:
    """``bundle`` as the files of a repository."""
    return {path.name: path.read_bytes() for path in model.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub that the real client of this process takes for the only one, with an empty cache."""
    import huggingface_hub.file_download
    import huggingface_hub.hf_api  # noqa: F401

    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackHub() as server:
        settings = {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": None,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        }
        # Environment variables are read when huggingface_hub is imported, perhaps long ago, and copied between its
        # modules.
        for module in [module for name, module in sys.modules.items() if name.startswith("huggingface_hub.")]:
            for name in settings.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, settings[name])
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits up to 23 s between its retries; tests do not."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def broken(model: Path) -> Callable[[str, bytes], Path]:
    """Put other bytes into a file of ``model``."""

    def write(name: str, data: bytes) -> Path:
        (model / name).write_bytes(data)
        return model

    return write
