"""Model directories: one ``config.json``, one safetensors file a component, one ``README.md`` (the model card).

Loading is strict: every file is named in ``config.json`` with its sha256, every key of the config and every tensor of a
module must be there and none beside them, and no pickle is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autoperi._version import __version__
from autoperi.data.files import publish
from autoperi.errors import WeightsError, one_line
from autoperi.hub.weights import read_weights, remedy, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
_REQUIRED = {"format_version", "name", "autoperi_version", "components"}
_OPTIONAL = {"licence", "versions", "metadata"}
_FACTS = ("licence", "versions", "autoperi_version")
_COMPONENT_KEYS = {"file", "sha256", "config"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GENERATED = re.compile(r"(^|\.)(output_mask|_w3j_\w*)$|_compiled_main")
"""Buffers that e3nn makes anew from the irreps: saving them would tie the weights to one version of e3nn."""


@dataclass
class Component:
    """One network or prior of a model: what rebuilds it and what fills it.

    Attributes:
        config: JSON-serialisable keyword arguments that rebuild the module.
        tensors: its state, name → tensor.
    """

    config: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Bundle:
    """A whole model, in memory.

    Attributes:
        name: for example ``"autoperi-base"``.
        components: name → component; the name is also the stem of its file.
        metadata: JSON-serialisable facts (``licence``, ``description``, sections of the card).
        card: text of the model card; where empty, :func:`save_bundle` writes one from the metadata.
        source: directory it was read from, "" when made in memory.
        revision: commit hash on the hub, None elsewhere.
        sha256: file name → hexadecimal digest, as read. That of ``config.json`` stands for the whole model, because the
            config holds the digests of all other files.
    """

    name: str
    components: dict[str, Component] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    source: str = ""
    revision: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


class FileCheck(NamedTuple):
    """One row of :func:`verify`: the file, whether it is what the config says, and its sha256 ("" where missing)."""

    file: str
    ok: bool
    sha256: str


def save_bundle(bundle: Bundle, directory: str | os.PathLike[str]) -> dict[str, str]:
    """Write ``bundle`` into ``directory`` and return the sha256 of every file but the card.

    A new directory appears whole or not at all; in an existing one the files are replaced one by one, ``config.json``
    last, so that a reader never loads new weights with an old config unnoticed.

    Raises:
        WeightsError: a name, config or tensor that cannot be stored, or no permission to write.
    """
    import torch
    from safetensors.torch import save

    from autoperi.hub.card import model_card, with_checksums

    _check_name(bundle.name, "model")
    if not bundle.components:
        raise WeightsError(f"model {bundle.name!r} has no components; give at least one before saving")
    files: dict[str, bytes] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, component in bundle.components.items():
        _check_name(name, "component")
        for key, value in component.tensors.items():
            if not isinstance(value, torch.Tensor):
                raise WeightsError(
                    f"tensor {key!r} of component {name!r} is a {type(value).__name__}; give torch tensors only"
                )
        # Cloning unties parameters that share memory, which safetensors refuses to store.
        tensors = {key: value.detach().to("cpu").contiguous().clone() for key, value in component.tensors.items()}
        try:
            data = save(tensors, metadata={"format": "pt"})
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"component {name!r} cannot be stored as safetensors: {one_line(error)}; use dense tensors"
            ) from error
        files[f"{name}.safetensors"] = data
        entries[name] = {
            "file": f"{name}.safetensors",
            "sha256": hashlib.sha256(data).hexdigest(),
            "config": component.config,
        }
    metadata = {k: v for k, v in bundle.metadata.items() if k not in _FACTS}
    config = {
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "autoperi_version": __version__,
        # Kept from the first save: the versions the weights were made with, should a convention ever change.
        "versions": bundle.metadata.get("versions") or _versions(),
        "licence": bundle.metadata.get("licence", ""),
        "metadata": metadata,
        "components": entries,
    }
    _check_string_keys(config, where=f"config of model {bundle.name!r}")
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"config of model {bundle.name!r} is not JSON: {one_line(error)}; use numbers, strings, lists, dicts"
        ) from error
    sha256 = {entry["file"]: entry["sha256"] for entry in entries.values()}
    card = (
        with_checksums(bundle.card, sha256=sha256)
        if bundle.card
        else model_card({**bundle.metadata, "name": bundle.name, "sha256": sha256})
    )
    files[CARD_FILE] = card.encode()
    files[CONFIG_FILE] = text.encode()
    publish(files, directory, error=WeightsError)
    return {**sha256, CONFIG_FILE: hashlib.sha256(files[CONFIG_FILE]).hexdigest()}


def load_bundle(directory: str | os.PathLike[str], *, verify: bool = True, revision: str | None = None) -> Bundle:
    """Read a model directory; ``verify=False`` skips the comparison of sha256 only.

    Raises:
        WeightsError: no directory or config, an unknown format, a file that is missing, damaged or not safetensors.
    """
    path = Path(directory).expanduser()
    config = read_config(path)
    sha256, components = {CONFIG_FILE: _digest(path / CONFIG_FILE)}, {}
    for name, entry in config["components"].items():
        file = path / entry["file"]
        data = read_weights(file)
        sha256[entry["file"]] = digest = hashlib.sha256(data).hexdigest()
        if verify and digest != entry["sha256"]:
            raise WeightsError(
                f"sha256 of '{file}' is {digest[:12]}… but {CONFIG_FILE} says {entry['sha256'][:12]}…; the file is "
                f"damaged or was changed: {remedy(file)}"
            )
        components[name] = Component(config=entry["config"], tensors=tensors_of(data, file))
    card = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        card = (path / CARD_FILE).read_text(encoding="utf-8")
    extra = {key: config[key] for key in _FACTS if config.get(key)}
    return Bundle(
        name=config["name"],
        components=components,
        metadata={**config.get("metadata", {}), **extra},
        card=card,
        source=str(path),
        revision=revision,
        sha256=sha256,
    )


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked ``config.json`` of a model directory.

    Raises:
        WeightsError: no directory, no config, unknown format version, keys missing or too many, unsafe file names.
    """
    path = Path(directory)
    file = path / CONFIG_FILE
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise WeightsError(
            f"model directory '{path}' {what}; give the directory that save_pretrained or training wrote"
        )
    if not file.is_file():
        inner = sorted(p.parent.name for p in path.glob(f"*/{CONFIG_FILE}"))
        hint = f", perhaps '{path / inner[0]}'" if inner else ""
        raise WeightsError(
            f"'{path}' holds no {CONFIG_FILE}; give the directory that save_pretrained or training wrote{hint}"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise WeightsError(f"'{file}' cannot be read: {one_line(error)}; save or download the model again") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise WeightsError(
            f"'{file}' has no format_version, so AutoPeri did not write it; give an AutoPeri model directory"
        )
    if config["format_version"] != FORMAT_VERSION:
        writer = f"AutoPeri {config.get('autoperi_version', '?')}"
        raise WeightsError(
            f"format_version {config['format_version']!r} of '{file}' ({writer}) is unknown to AutoPeri {__version__}, "
            f"which reads {FORMAT_VERSION}; upgrade with `pip install -U autoperi`"
        )
    _check_keys(config, _REQUIRED, _OPTIONAL, where=f"'{file}'")
    entries = config["components"]
    if not isinstance(entries, dict) or not entries or not isinstance(config.get("metadata", {}), dict):
        raise WeightsError(
            f"components or metadata of '{file}' is not a JSON object with entries; save or download the model again"
        )
    for name, entry in entries.items():
        where = f"component {name!r} of '{file}'"
        if not isinstance(entry, dict):
            raise WeightsError(f"{where} is not a JSON object; save or download the model again")
        _check_keys(entry, _COMPONENT_KEYS, set(), where=where)
        # The config may come from a stranger: a file name must not lead out of the directory.
        if not _FILE.fullmatch(str(entry["file"])):
            raise WeightsError(
                f"{where} names the file {entry['file']!r}; only plain names that end in .safetensors are read"
            )
        if not _SHA256.fullmatch(str(entry["sha256"])) or not isinstance(entry["config"], dict):
            raise WeightsError(f"{where} has no 64-digit sha256 or no config; save or download the model again")
    return config


def files_of(config: Mapping[str, Any]) -> list[str]:
    """The safetensors files that a config names, in order."""
    return [entry["file"] for entry in config["components"].values()]


def verify(directory: str | os.PathLike[str]) -> list[FileCheck]:
    """Check every file of a model directory against its config, without loading it.

    Raises:
        WeightsError: there is no readable ``config.json``.
    """
    path = Path(directory).expanduser()
    config = read_config(path)
    rows = [FileCheck(CONFIG_FILE, True, _digest(path / CONFIG_FILE))]
    for entry in config["components"].values():
        try:
            digest = hashlib.sha256(read_weights(path / entry["file"])).hexdigest()
            rows.append(FileCheck(entry["file"], digest == entry["sha256"], digest))
        except WeightsError:
            file = path / entry["file"]
            rows.append(FileCheck(entry["file"], False, _digest(file) if file.is_file() else ""))
    return rows


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The state of ``module`` to be saved: parameters and buffers, without those that e3nn generates."""
    return {key: value.detach() for key, value in module.state_dict().items() if not _GENERATED.search(key)}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "the weights") -> None:
    """Copy ``tensors`` into ``module`` (converting precision), or change nothing.

    Raises:
        WeightsError: a key is missing or unexpected, a shape differs, or a dtype is of another kind (integer for real).
    """
    state = module.state_dict()
    wanted = {key for key in state if not _GENERATED.search(key)}
    given = {key: value for key, value in tensors.items() if not _GENERATED.search(key)}
    faults = [f"{key} is missing" for key in state if key in wanted and key not in given]
    faults += [f"{key} is unexpected" for key in given if key not in wanted]
    for key in (key for key in given if key in wanted):
        new, old = given[key], state[key]
        if new.shape != old.shape:
            faults.append(f"{key} has shape {tuple(new.shape)} and not {tuple(old.shape)}")
        elif _kind(new) != _kind(old):
            faults.append(f"{key} has dtype {new.dtype}, which does not convert to {old.dtype}")
    if faults:
        more = f" (and {len(faults) - 4} more)" if len(faults) > 4 else ""
        raise WeightsError(
            f"{source} do not fit {type(module).__name__}: {'; '.join(faults[:4])}{more}; config and weights must "
            "come from one save, read by the AutoPeri version that wrote them or a later one"
        )
    module.load_state_dict({**state, **given}, strict=True)


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise WeightsError(f"{what} name {name!r} is not made of letters, digits, '.', '_' and '-'; choose another")


def _check_string_keys(value: object, *, where: str) -> None:
    """Refuse dictionary keys that JSON would turn into strings, because they would not come back as they were."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise WeightsError(
                    f"{where} has the key {key!r} ({type(key).__name__}); JSON keeps strings only, so use str({key!r})"
                )
            _check_string_keys(inner, where=where)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_string_keys(inner, where=where)


def _check_keys(found: dict[str, Any], required: set[str], optional: set[str], *, where: str) -> None:
    missing, extra = sorted(required - set(found)), sorted(set(found) - required - optional)
    faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra[:4])}"] * bool(extra)
    if faults:
        raise WeightsError(f"{where} {' and '.join(faults)}; save or download the model again, or upgrade AutoPeri")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _kind(tensor: Tensor) -> str:
    import torch

    if tensor.dtype == torch.bool:
        return "bool"
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "integer"


def _versions() -> dict[str, str]:
    found = {}
    for package in ("e3nn", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
