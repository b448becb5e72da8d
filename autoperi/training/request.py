"""What a training is asked for: by ``autoperi train``, or by a script of one's own."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autoperi.errors import RequestError
from autoperi.registry import Kind, load

if TYPE_CHECKING:
    from torch import Tensor

    from autoperi.hub.bundle import Bundle, Component
    from autoperi.training.data import Rows

DEFAULTS: dict[str, Any] = {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "optimizer": "adamw", "seed": 0}
"""Settings of a training of a network of which nothing is said."""
OPTIMIZERS = ("adamw", "muon")
WIDTHS = ("channels", "hidden", "layers", "n_radial")
"""Options of networks of which 0 would leave nothing to learn."""


class Sources(NamedTuple):
    """What a network is trained on.

    Attributes:
        train, val: crystals with labels, of whatever kind its task reads.
        initial: tensors that the network starts with; None for none.
    """

    train: Rows
    val: Rows
    initial: Mapping[str, Tensor] | None = None


class Trained(NamedTuple):
    """A trained component, the settings of its run, and what the card should say of it."""

    component: Component
    settings: dict[str, Any]
    summary: dict[str, Any]


@dataclass(frozen=True)
class TrainingRequest:
    """A training run.

    Attributes:
        kind: what is trained.
        data, val: tables of crystals; no ``val`` where the task sets a part of the data aside, or needs none.
        out: ``out/checkpoints`` is written.
        base: the model that the component becomes part of, and its name as it was given.
        settings: of :data:`DEFAULTS`, those that were said.
        options: of the network and of its task, by name, those that were said.
        label: column of the labels, where that is not the usual one.
        reference: of the prior, see :func:`autoperi.training.tasks.prior.reference_weights`.
        max_atoms: larger crystals are left out.
        resume: go on with the run in ``out``.
        device: ``cpu`` or ``cuda``; devices: how many train together.
        bar: show a bar; note: is told what a user should know.
    """

    kind: Kind
    data: Path
    out: Path
    base: Bundle
    base_name: str = ""
    val: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    reference: str | None = None
    max_atoms: int | None = None
    resume: bool = False
    device: str = "cpu"
    devices: int = 1
    bar: bool = False
    note: Callable[[str], None] = lambda _: None

    @property
    def checkpoints(self) -> Path:
        """Where the run keeps what a resume needs."""
        return self.out / "checkpoints"


def check_optimizer(name: str) -> None:
    """Refuse an optimiser that there is not.

    Raises:
        RequestError: naming those that there are.
    """
    if name not in OPTIMIZERS:
        raise RequestError(f"optimizer={name!r} is not known; choose {' or '.join(OPTIMIZERS)}")


def options_of(kind: Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a kind's network and of its task, with their defaults."""
    if not kind.task:
        return {}, {}
    network = {name: value for name, value in keywords(load(kind.model)).items() if name != "kind"}
    return network, load(kind.task).options()


def keywords(function: Any) -> dict[str, Any]:
    """Keyword arguments of a function or class that have plain values as defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and isinstance(p.default, (bool, int, float, str, list, tuple))
    }


def split_options(kind: Kind, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by name as those of the network and those of the task, each of the type of its default.

    Raises:
        RequestError: an unknown option, or a value of another type.
    """
    network, task = options_of(kind)
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, value in options.items():
        place = next((k for k, known in enumerate((network, task)) if name in known), None)
        if place is None:
            known = ", ".join((*network, *task)) or "none"
            raise RequestError(f"{name}={value!r} is no option of {kind.word}, which has {known}; leave it out")
        default = (network, task)[place][name]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        wanted = (list, tuple) if isinstance(default, (list, tuple)) else type(default)
        if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise RequestError(f"{name}={value!r} is not of the type of its default, {default!r}; give one that is")
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{name}={value!r} is not a finite number; give one such as {default!r}")
        least = 1 if name in WIDTHS else 0
        if place == 0 and isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise RequestError(f"{name}={value!r} is too small; give {least} or more")
        found[place][name] = value
    return found


def parse_options(given: list[str]) -> dict[str, Any]:
    """``["channels=32", "ends=random"]`` as a mapping: numbers, true, false and lists as in JSON, anything else as
    text.

    Raises:
        RequestError: not a name and a value.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RequestError(f"--set {text} is not NAME=VALUE; give one such as channels=32")
        try:
            found[name.strip().replace("-", "_")] = json.loads(value, parse_constant=float)
        except ValueError:
            found[name.strip().replace("-", "_")] = value
    return found
