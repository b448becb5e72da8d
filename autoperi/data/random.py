"""The only place that makes random generators.

A sample depends on ``(seed, index)`` and the request, never on batch size, batchmates or thread count:
every sample owns a generator derived from the two numbers, and noise is always drawn on the CPU.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from autoperi.data.checks import whole_number

if TYPE_CHECKING:
    import numpy as np
    import torch

MAX_SEED = 2**63 - 1


def check_seed(seed: int | None) -> int:
    """Return ``seed``, or a fresh one drawn from the operating system where it is None.

    Raises:
        RequestError: ``seed`` is not an integer in [0, 2**63).
    """
    if seed is None:
        return secrets.randbelow(2**31)
    return whole_number(
        seed,
        "seed",
        least=0,
        most=MAX_SEED,
        refusal="is not an integer between 0 and 2**63 - 1; pass one, or None for a fresh seed",
    )


def numpy_generator(seed: int, *index: int) -> np.random.Generator:
    """A NumPy generator that depends on ``seed`` and the sample's ``index`` alone."""
    import numpy as np

    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=tuple(index)))


def torch_generator(seed: int, *index: int) -> torch.Generator:
    """A CPU torch generator that depends on ``seed`` and the sample's ``index`` alone."""
    import numpy as np
    import torch

    state = np.random.SeedSequence(entropy=seed, spawn_key=tuple(index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
