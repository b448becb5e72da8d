"""The optimiser: Muon for the matrices of hidden layers, AdamW for everything else.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that every
direction of the layer learns at the same pace. It is not meant for embeddings, biases, norms and tensors that are not
matrices; these go with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Joined(Optimizer):
    """Several optimisers as one: a scheduler, a trainer and a checkpoint see a single list of parameter groups.

    Args:
        parts: optimisers of disjoint parameters.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self._share()

    def _share(self) -> None:
        # the very same dictionaries, so that a learning rate set here is set there
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: D102
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: D102
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum and decoupled weight decay, for matrices.

    The step is W ← (1 − ηλ) W − 0.2 η √max(rows, columns) · orthogonal(g + μ m): as large as one of AdamW. Matrices of
    one shape are made orthogonal together, in their own precision: ``torch.optim.Muon`` goes through bfloat16 one by
    one, which takes longer than the network itself on processors that have no bfloat16 arithmetic.

    Args:
        params: matrices.
        lr: η. weight_decay: λ. momentum: μ.
    """

    def __init__(self, params: list[Tensor], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: D102
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[tuple[torch.Size, torch.dtype, torch.device], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for members in shapes.values():
                self._step(members, group)
        return loss

    def _step(self, members: list[Tensor], group: dict[str, Any]) -> None:
        mu, rate = group["momentum"], group["lr"]
        directions = []
        for p in members:
            assert p.grad is not None  # step() left the others out
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffer = state["momentum_buffer"].lerp_(p.grad, 1 - mu)
            directions.append(p.grad.lerp(buffer, mu))
        for p, direction in zip(members, orthogonal(torch.stack(directions)), strict=True):
            p.mul_(1 - rate * group["weight_decay"])
            p.add_(direction, alpha=-0.2 * rate * max(p.shape) ** 0.5)


def orthogonal(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Nearly orthogonal matrices beside ``matrices`` ``[B, m, n]``, singular values about 0.7 to 1.2: quintic
    Newton-Schulz iteration (Jordan et al. 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(1, 2)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrices.shape[1] <= matrices.shape[2] else x.transpose(1, 2)


def muon(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """:class:`Muon` for the weight matrices of hidden layers, AdamW for the rest of ``model``."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for p in model.parameters():
        hidden = p.ndim == 2 and min(p.shape) > 1 and id(p) not in embeddings
        (matrices if hidden else rest).append(p)
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=learning_rate, weight_decay=weight_decay))
    if rest:
        parts.append(AdamW(rest, lr=learning_rate, weight_decay=weight_decay))
    return Joined(parts)
