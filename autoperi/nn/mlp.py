"""Multilayer perceptrons."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*widths: int, norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths, input to output, with SiLU between them; ``norm`` puts a LayerNorm before the
    first.
    """
    layers: list[nn.Module] = [nn.LayerNorm(widths[0])] if norm else []
    for k, (one, other) in enumerate(pairwise(widths)):
        layers += [nn.SiLU(), nn.Linear(one, other)] if k else [nn.Linear(one, other)]
    return nn.Sequential(*layers)
