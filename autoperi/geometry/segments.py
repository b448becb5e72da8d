"""Sums, maxima and index ranges over groups of rows, such as the atoms of each crystal of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sum of the rows of ``values`` ``[N, ...]`` that belong to each of ``n`` segments, ``[n, ...]``; ``segment``
    ``[N]``.
    """
    out = torch.zeros(n, *values.shape[1:], dtype=values.dtype, device=values.device)
    return out.index_add(0, segment, values)


def segment_max(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Largest of the ``values`` ``[N]`` of each of ``n`` segments, at least 0, ``[n]``."""
    return torch.zeros(n, dtype=values.dtype, device=values.device).scatter_reduce(0, segment, values, "amax")


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """starts[0], starts[0] + 1, … of each start, one after the other, ``[Σ lengths]``."""
    first = torch.repeat_interleave(starts - (torch.cumsum(lengths, 0) - lengths), lengths)
    return first + torch.arange(len(first), device=starts.device)


def chunks(sizes: Sequence[float], most: float) -> list[slice]:
    """Consecutive items whose ``sizes`` add up to at most ``most``, or one larger item alone."""
    found, start, total = [], 0, 0.0
    for k, size in enumerate(sizes):
        if k > start and total + size > most:
            found.append(slice(start, k))
            start, total = k, 0.0
        total += size
    return [*found, slice(start, len(sizes))] if len(sizes) else []
