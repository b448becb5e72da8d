"""Lightning checkpoints as safetensors and JSON: a resumable run never reads or writes a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoperi.errors import WeightsError


class SafetensorsCheckpointIO(CheckpointIO):
    """Stores a nested checkpoint: tensors in safetensors, the rest as JSON in the file's metadata."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002, D102
        tensors: dict[str, Tensor] = {}
        tree = _encode(checkpoint, tensors)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        save_file(tensors, str(part), metadata={"tree": json.dumps(tree)})
        part.replace(target)  # an interrupted save leaves the previous checkpoint whole

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002, D102
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                tree = json.loads(file.metadata()["tree"])
        except Exception as error:
            raise WeightsError(
                f"checkpoint {path} cannot be read ({error}); remove it and start the training again"
            ) from None
        return _decode(tree, tensors)

    def remove_checkpoint(self, path: Any) -> None:  # noqa: D102
        Path(path).unlink(missing_ok=True)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"t": name}
    if isinstance(value, dict):
        return {"d": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"l" if isinstance(value, list) else "u": [_encode(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"v": value}
    if isinstance(value, torch.device):
        return {"v": str(value)}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = tree.items()
    if kind == "t":
        return tensors[value]
    if kind == "d":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value}
    if kind == "l":
        return [_decode(v, tensors) for v in value]
    if kind == "u":
        return tuple(_decode(v, tensors) for v in value)
    return value
