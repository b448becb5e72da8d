"""The optimiser: Muon for the matrices of hidden layers, AdamW for everything else.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that every direction of the layer
learns at the same pace. It is not meant for embeddings, biases, norms and tensors that are not matrices; these go with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from autoperi.errors import RequestError


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


def muon(model: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon for weight matrices, with steps as large as AdamW's (``match_rms_adamw``), and AdamW for the rest of ``model``.

    Raises:
        RequestError: torch is older than 2.9, which brought Muon.
    """
    try:
        from torch.optim import Muon
    except ImportError:
        raise RequestError(f"optimizer='muon' needs torch 2.9 or newer, not {torch.__version__}; take 'adamw'") from None
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for p in model.parameters():
        hidden = p.ndim == 2 and min(p.shape) > 1 and id(p) not in embeddings
        (matrices if hidden else rest).append(p)
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if rest:
        parts.append(AdamW(rest, lr=learning_rate, weight_decay=weight_decay))
    return Joined(parts)
