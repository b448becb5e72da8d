"""Files of weights: read as bytes, and only where they are what their header says; no pickle is ever read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from autoperi.errors import WeightsError, one_line

if TYPE_CHECKING:
    from torch import Tensor


def tensors_of(data: bytes, file: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, name → tensor; ``file`` is what an error calls it.

    Raises:
        WeightsError: the bytes cannot be read as tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"'{file}' is not a readable safetensors file ({one_line(error)}): {remedy(file)}"
        ) from error


def read_weights(file: Path) -> bytes:
    """The bytes of a file whose header and length are those of a safetensors file.

    Raises:
        WeightsError: it is missing, unreadable, truncated, or something else under that name, which the message names.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(
            f"'{file}' is missing but config.json names it; copy it there or download the model again"
        ) from error
    except OSError as error:
        raise WeightsError(f"'{file}' cannot be read: {error.strerror or error}; check its permissions") from error
    size = int.from_bytes(data[:8], "little")
    end = _end(data[8 : 8 + size]) if len(data) >= 8 and 8 + size <= len(data) else None
    if end is not None:
        if 8 + size + end == len(data):
            return data
        raise WeightsError(
            f"'{file}' has {len(data)} bytes where its header asks for {8 + size + end}; it is truncated: "
            f"{remedy(file)}"
        )
    # Only now: the first bytes of a sound file are a length, which can look like anything.
    if data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] in b"\x01\x02\x03\x04\x05"):
        raise WeightsError(
            f"'{file}' is a pickle or zip archive under the name of safetensors; pickles are never read: save it with "
            "save_pretrained"
        )
    if data.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"'{file}' is a Git LFS pointer, not the weights; run `git lfs pull` there or download the model again"
        )
    what = "is truncated" if data[8:9] in (b"{", b"") else "is not a safetensors file"
    raise WeightsError(f"'{file}' ({len(data)} bytes) {what}: {remedy(file)}")


def remedy(file: Path) -> str:
    """What to do about a damaged file; in the cache of the hub it is a link, and its target must go."""
    again = "copy, save or download the model again (`autoperi models download --force`)"
    return f"delete '{os.path.realpath(file)}' and {again}"


def _end(header: bytes) -> int | None:
    """Where the last tensor of a safetensors file ends, counted from its header; None where this is no such header."""
    try:
        end = max([int(t["data_offsets"][1]) for k, t in json.loads(header).items() if k != "__metadata__"], default=0)
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError):
        return None
    return end if end >= 0 else None
