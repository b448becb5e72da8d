"""What can be asked for by name: the models that ship in the wheel, and how a name, path or repository is told apart.

``pretrained.json`` lists every bundled model, retired ones included, so that an old name keeps an explanation. After
new weights are put into ``autoperi/weights/<name>/``, ``python tools/update_pretrained.py`` renews the sha256 in it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoperi.errors import WeightsError, one_line
from autoperi.hub.bundle import CONFIG_FILE

DEFAULT_MODEL = "autoperi-base"
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"
REGISTRY_FILE = Path(__file__).resolve().parent / "pretrained.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelInfo:
    """One bundled model.

    Attributes:
        name: what to pass to ``from_pretrained``; ``aliases`` mean the same.
        description: one sentence.
        licence: SPDX identifier of the licence of the weights (not of the code).
        status: ``"active"`` or ``"retired"``; a retired model has a ``reason`` and a ``replacement`` and does not load.
        sha256: file name → hexadecimal digest.
    """

    name: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    licence: str = ""
    status: str = "active"
    reason: str = ""
    replacement: str = ""
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the weights lie in this installation."""
        return WEIGHTS_DIR / self.name

    @property
    def available(self) -> bool:
        """Whether the weights are in this installation."""
        return (self.directory / CONFIG_FILE).is_file()

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files in this installation, 0 where it is not available."""
        return sum(p.stat().st_size for p in self.directory.glob("*") if p.is_file()) if self.available else 0

    def to_dict(self) -> dict[str, Any]:
        """Everything above, JSON-serialisable."""
        return {
            **asdict(self),
            "aliases": list(self.aliases),
            "available": self.available,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True)
class Resolved:
    """Where a model is to be read from.

    Attributes:
        kind: ``"bundled"``, ``"directory"`` or ``"hub"``.
        name: canonical name, directory or ``owner/name``.
        path: the directory, None for the hub.
        info: the entry of the registry, for bundled models.
    """

    kind: Literal["bundled", "directory", "hub"]
    name: str
    path: Path | None = None
    info: ModelInfo | None = None


def list_pretrained() -> list[ModelInfo]:
    """All bundled models, active ones first, then by name.

    Raises:
        WeightsError: the registry of the installation is damaged.
    """
    try:
        entries = json.loads(REGISTRY_FILE.read_text(encoding="utf-8"))["models"]
        models = [ModelInfo(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"'{REGISTRY_FILE}' is damaged ({error}); reinstall with `pip install --force-reinstall autoperi`"
        ) from error
    return sorted(models, key=lambda m: (m.status != "active", m.name != DEFAULT_MODEL, m.name))


def resolve(name_or_path: str | os.PathLike[str]) -> Resolved:
    """Decide what ``name_or_path`` means, touching no network.

    A bundled name or alias comes first, so that a name means the same model in every working directory (write
    ``./autoperi-base`` for a directory of that name); then an existing directory; then a hub repository ``owner/name``.

    Raises:
        WeightsError: nothing of the kind, with the nearest known name; a retired model, with its replacement.
    """
    text = os.fspath(name_or_path) if isinstance(name_or_path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise WeightsError(
            f"model {name_or_path!r} is not a name; give a bundled name, a directory or a hub repository 'owner/name'"
        )
    models = list_pretrained()
    if isinstance(name_or_path, str):
        for info in models:
            if text == info.name or text in info.aliases:
                return _bundled(info)
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return Resolved("directory", text, path=path)
        is_file = path.exists()
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise WeightsError(
            f"model directory '{text[:80]}' cannot be read ({one_line(error)}); give one you may read"
        ) from error
    if is_file:
        raise WeightsError(
            f"model '{text}' is a file; give the directory that holds {CONFIG_FILE}, for example '{path.parent}'"
        )
    if isinstance(name_or_path, str) and _REPOSITORY.fullmatch(text):
        return Resolved("hub", text)
    if "://" in text:
        raise WeightsError(
            f"model '{text}' is a URL; give the repository as 'owner/name' and set HF_ENDPOINT for another hub"
        )
    known = sorted({name for m in models if m.status == "active" for name in (m.name, *m.aliases)})
    if not isinstance(name_or_path, str) or text[0] in ".~" or any(c in text for c in "/\\"):
        raise WeightsError(
            f"model directory '{text}' does not exist; give a directory, a hub repository 'owner/name' or one of "
            f"{known}"
        )
    near = difflib.get_close_matches(text.lower(), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise WeightsError(
        f"unknown model {text!r}; {hint}known are {known}, an existing directory, or a hub repository 'owner/name'"
    )


def _bundled(info: ModelInfo) -> Resolved:
    if info.status != "active":
        instead = (
            f"use {info.replacement!r} instead" if info.replacement else "choose another from `autoperi models list`"
        )
        raise WeightsError(f"model {info.name!r} is retired ({info.reason or 'no reason recorded'}); {instead}")
    if not info.available:
        raise WeightsError(
            f"the weights of {info.name!r} are not in '{info.directory}'; reinstall the wheel (`pip install "
            "--force-reinstall autoperi`) or give the directory of a model"
        )
    return Resolved("bundled", info.name, path=info.directory, info=info)
