"""Where networks run, and in which precision."""

from __future__ import annotations

import torch

from autoperi.errors import RequestError


def check_device(device: str | torch.device) -> torch.device:
    """The torch device that ``"auto"``, ``"cpu"``, ``"cuda"`` or a device means.

    Raises:
        RequestError: not a CPU or CUDA device, or one that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise RequestError(f"device={str(device)!r} is not one that AutoPeri runs on; use 'auto', 'cpu' or 'cuda'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device={str(device)!r} is not in this machine, where torch sees {torch.cuda.device_count()} CUDA "
            "devices; use 'auto' or 'cpu'"
        )
    return found


def check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """float64 for None, else what is given.

    Raises:
        RequestError: neither float32 nor float64.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise RequestError(f"dtype={dtype!r} is not supported; use torch.float32 or torch.float64")
    return torch.float64 if dtype is None else dtype
