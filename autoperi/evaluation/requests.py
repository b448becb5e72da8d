"""Many requests to ``generate``, answered by several processes: each loads the model once, and no answer depends on who
gives it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi.data.convert import to_arrays
from autoperi.errors import AutoPeriError, RequestError
from autoperi.metrics.parallel import INLINE, Failure, check_processes, parallel_map
from autoperi.pipelines.request import RunOptions, make_request

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri
    from autoperi.metrics.pairs import Arrays


@dataclass(frozen=True)
class Asked:
    """One request: atoms of each element in the cell, by atomic number, how many atoms that is, and a space group or
    None.
    """

    content: Mapping[int, int]
    num_atoms: int
    space_group: int | None = None


@lru_cache(maxsize=1)
def _loaded(model: str) -> AutoPeri:
    import torch

    from autoperi.auto import AutoPeri

    torch.set_num_threads(1)
    return AutoPeri.from_pretrained(model, device="cpu", local_files_only=True)


def answer(asked: Asked, *, peri: AutoPeri | str, options: Mapping[str, Any], known_weight: float) -> list[Arrays]:
    """Crystals of one request, fewer than asked for where there are no more, none where it cannot be honoured; by a
    model, or in whichever process this is by the model of a directory.
    """
    from ase.data import chemical_symbols

    model = _loaded(peri) if isinstance(peri, str) else peri
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer than n is counted, not warned of
        try:
            composition = {chemical_symbols[z]: c for z, c in asked.content.items()}
            size: dict[str, Any] = {"num_atoms": asked.num_atoms, "space_group": asked.space_group}
            found = model.with_settings(known_weight=known_weight).generate(
                composition, **size, strict=False, progress=False, **options
            )
        except RequestError:
            return []
    return [to_arrays(crystal) for crystal in found]  # a tenth of the memory of structures


def generate_all(
    peri: AutoPeri,
    asked: Sequence[Asked],
    *,
    n: int,
    seed: int,
    steps: int | None = None,
    finish: int = 0,
    rank: str = "energy",
    known_weight: float = 0.0,
    processes: int | None = None,
    progress: bool | None = None,
) -> list[list[Arrays]]:
    """The crystals of each request, best first.

    Args:
        peri: the model.
        asked: requests.
        n, seed, steps, finish, rank: as in :meth:`AutoPeri.generate`.
        known_weight: a setting of the model.
        processes: None for all cores; with 1, with few requests or with a GPU this process answers them all. Others
            load the model from its directory: what was changed in ``peri`` itself, they do not know.
        progress: show a bar; None shows it on a terminal.

    Raises:
        RequestError: the model honours an option for no composition. AutoPeriError: a request failed for another
            reason than that it cannot be honoured.
    """
    options: dict[str, Any] = {"n": n, "seed": seed, "steps": steps, "finish": finish, "rank": rank}
    # what the model refuses of every composition is no composition's failure
    peri.generation.check(make_request("H", **options), RunOptions())
    workers = check_processes(processes) if len(asked) >= INLINE and peri.device.type == "cpu" else 1
    with ExitStack() as stack:
        model: Any = peri if workers == 1 else str(peri.bundle.source or "-")
        if workers > 1 and not Path(model).is_dir():
            model = stack.enter_context(tempfile.TemporaryDirectory())
            peri.save_pretrained(model)
        function = partial(answer, peri=model, options=options, known_weight=known_weight)
        found = parallel_map(function, asked, processes=workers, progress=progress, description="generating")
    for one, result in zip(asked, found, strict=True):
        if isinstance(result, Failure):
            raise AutoPeriError(f"generation of {dict(one.content)} failed: {result.reason}")
    return found
