"""What can be asked for by name: the models that ship in the wheel, and how a name, path or repository is told apart.

``pretrained.json`` lists every bundled model, retired ones included, so that an old name keeps an explanation. After
new weights are put into ``autoperi/weights/<name>/``, ``python -m autoperi.hub.store`` renews the sha256 in it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoperi.errors import WeightsError
from autoperi.hub.bundle import CONFIG_FILE, files_of, one_line, read_config, verify

DEFAULT_MODEL = "autoperi-base"
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"
REGISTRY_FILE = Path(__file__).resolve().parent / "pretrained.json"
MAX_MODEL_BYTES = 12_000_000
MAX_TOTAL_BYTES = 40_000_000
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
    if (
        not isinstance(name_or_path, (str, os.PathLike))
        or not isinstance(os.fspath(name_or_path), str)
        or not os.fspath(name_or_path)
    ):
        raise WeightsError(
            f"model {name_or_path!r} is not a name; give a bundled name, a directory or a hub repository 'owner/name'"
        )
    text = str(os.fspath(name_or_path))
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
    known = sorted(
        {m.name for m in models if m.status == "active"}
        | {a for m in models if m.status == "active" for a in m.aliases}
    )
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


def check_registry() -> list[str]:
    """What is wrong with the bundled weights, one line each; [] when every file is the one the registry names."""
    problems = []
    for info in list_pretrained():
        if info.status != "active":
            continue
        if not info.available:
            problems.append(f"{info.name}: no weights in '{info.directory}'")
        elif _sha256(info.directory) != info.sha256:
            problems.append(f"{info.name}: files differ from pretrained.json; run `python -m autoperi.hub.store`")
    return problems


def update_registry() -> list[ModelInfo]:
    """Write the sha256 of all bundled weights into ``pretrained.json``; models not listed there yet are added.

    Raises:
        WeightsError: a damaged or misnamed model, or one above the limits of size (12 MB a model, 40 MB in all).
    """
    models = {info.name: info for info in list_pretrained()}
    total = 0
    for directory in sorted(p.parent for p in WEIGHTS_DIR.glob(f"*/{CONFIG_FILE}")):
        config = read_config(directory)
        if config["name"] != directory.name:
            raise WeightsError(
                f"'{directory}' holds the model {config['name']!r}; the directory must have the name of the model"
            )
        bad = [row.file for row in verify(directory) if not row.ok]
        if bad:
            raise WeightsError(f"'{directory / bad[0]}' is not what {CONFIG_FILE} says; save the model again")
        size = sum(p.stat().st_size for p in directory.glob("*") if p.is_file())
        total += size
        if size > MAX_MODEL_BYTES or total > MAX_TOTAL_BYTES:
            raise WeightsError(
                f"'{directory}' has {size} bytes and all models {total}; keep to {MAX_MODEL_BYTES} and "
                f"{MAX_TOTAL_BYTES}"
            )
        old = models.get(
            directory.name,
            ModelInfo(directory.name, description=str(config.get("metadata", {}).get("description", ""))),
        )
        fields = {**asdict(old), "licence": config.get("licence") or old.licence, "sha256": _sha256(directory)}
        models[directory.name] = ModelInfo(**fields)
    entries = [
        {k: v for k, v in asdict(models[name]).items() if v or k in {"description", "licence"}}
        for name in sorted(models)
    ]
    text = json.dumps({"format_version": 1, "models": entries}, indent=2, ensure_ascii=False) + "\n"
    scratch = REGISTRY_FILE.with_suffix(".json.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(REGISTRY_FILE)
    except OSError as error:
        raise WeightsError(
            f"cannot write '{REGISTRY_FILE}': {error.strerror}; run this in a source checkout you may write to"
        ) from error
    return list_pretrained()


def _bundled(info: ModelInfo) -> Resolved:
    if info.status != "active":
        instead = (
            f"; use {info.replacement!r} instead"
            if info.replacement
            else "; choose another from `autoperi models list`"
        )
        raise WeightsError(f"model {info.name!r} is retired ({info.reason or 'no reason recorded'}){instead}")
    if not info.available:
        raise WeightsError(
            f"the weights of {info.name!r} are not in '{info.directory}'; reinstall the wheel (`pip install "
            "--force-reinstall autoperi`) "
            "or give the directory of a model"
        )
    return Resolved("bundled", info.name, path=info.directory, info=info)


def _sha256(directory: Path) -> dict[str, str]:
    """Digests of the files of a model directory; the card is left out, because its wording may change."""
    names = [CONFIG_FILE, *files_of(read_config(directory))]
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}


if __name__ == "__main__":
    update_registry()
