"""Sums, maxima and index ranges over consecutive groups of rows, such as the atoms of each crystal of a batch."""

from __future__ import annotations

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
