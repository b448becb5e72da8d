"""A trained component becomes part of a complete model, with a card that says so."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoperi.hub.bundle import Bundle, Component, save_bundle
from autoperi.hub.networks import ALONE, LoadedBundle, loading, network_of
from autoperi.registry import Kind, kind_of

_RUN = ("steps", "time", "hardware", "seed", "command")
UNITS = {"val_mae": "eV/atom", "train_mae": "eV/atom"}


def check_base(base: Bundle, kind: Kind) -> None:
    """Refuse a base model that does not load, before any training.

    Raises:
        WeightsError: naming what does not fit.
    """
    if not is_alone(kind):
        LoadedBundle(base).build_all()


def export(
    base: Bundle, kind: Kind, component: Component, directory: str | os.PathLike[str], facts: Mapping[str, Any]
) -> Bundle:
    """Write ``base`` with one component replaced into ``directory``, as a model that ``from_pretrained`` reads.

    What the card of ``base`` says of data and training is kept for the components that are; its results are left out,
    because they are no longer those of this model. A baseline, and a generator with a pipeline of its own, are written
    alone.

    Args:
        base: a model.
        kind: of the component. One of the same kind gives way to it, a relaxer or potential to any other, and
            what reads the one that gives way is left out.
        component: what was trained.
        directory: made if need be.
        facts: ``name`` of the new model, ``data`` and ``validation`` (one line each), ``command``, ``summary`` of the
            run (``epochs``, ``crystals``, ``seconds_last_run``, ``threads``, ``final`` metrics) and ``settings``.

    Returns:
        The model as written.

    Raises:
        WeightsError: the model would not load, or the directory cannot be written.
    """
    name = model_name(str(facts.get("name") or Path(directory).resolve().name))
    if is_alone(kind):
        bundle = Bundle(name, {kind.name: component}, _metadata_alone(kind, name, facts))
        network_of(kind, component)  # a model that would not load is not written
    else:
        kept = {k: c for k, c in base.components.items() if not _gives_way(kind_of(k, c.config), kind)}
        bundle = Bundle(name, {**kept, kind.name: component}, _metadata(base, kind.name, facts))
        LoadedBundle(bundle).build_all()
    save_bundle(bundle, directory)
    return bundle


def is_alone(kind: Kind) -> bool:
    """Whether a kind is a model by itself, which takes nothing from a base."""
    return kind.role == "baseline" or bool(kind.pipeline)


def _gives_way(old: Kind | None, new: Kind) -> bool:
    """Whether a component of one kind cannot stay beside a new one of another."""
    if old is None:
        return False
    return old.name == new.name or old.reads == new.name or old.role == new.role in ALONE


def _metadata_alone(kind: Kind, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    module, _, call = loading(kind, name).partition("(")
    module, _, function = module.rpartition(".")
    return {
        "description": f"{kind.word}, trained on {facts.get('data', 'other data')}.",
        **(
            {"usage": f"from {module} import {function}\n\nmodel = {function}({call}"}
            if kind.role == "baseline"
            else {}
        ),
        **({"pipeline": kind.pipeline} if kind.pipeline else {}),
        **_sections(facts),
        "metrics": _metrics(kind.name, facts),
    }


def model_name(text: str) -> str:
    """``text`` as the name of a model: letters, digits, points, underscores and hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "trained"


def _metadata(base: Bundle, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    old = {k: v for k, v in base.metadata.items() if k not in {"metrics", "versions", "autoperi_version", *_RUN}}
    run = {key: base.metadata[key] for key in _RUN if base.metadata.get(key)}
    before = {**old, "training": old.get("training") or run}
    kept, digest = f"all but {name} ({base.name})", base.sha256.get("config.json", "")
    others = f"Results of {base.name} do not hold for this model, which has another {name}."
    return {
        **old,
        "description": f"{base.name} with its {name} trained on {facts.get('data', 'other data')}.",
        "base_model": {"name": base.name, "sha256": digest, "revision": base.revision or ""},
        **{k: {kept: _line(before.get(k)) or "see its card", name: own} for k, own in _sections(facts).items()},
        "metrics": _metrics(name, facts),
        "limits": [*_lines(old.get("limits")), others],
    }


def _sections(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a card says of the data, the split and the training of a run."""
    run, command = _run_line(facts.get("summary") or {}, facts.get("settings") or {}), facts.get("command")
    return {
        "data": str(facts.get("data", "")),
        "split": f"validated on {facts.get('validation') or 'nothing'}",
        "training": f"{run}; `{command}`" if command else run,
    }


def _metrics(name: str, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{name} {key}",
            "value": value,
            "unit": UNITS.get(key, ""),
            "data": facts.get("validation" if key.startswith("val_") else "data", ""),
            "command": str(facts.get("command", "")),
        }
        for key, value in ((facts.get("summary") or {}).get("final") or {}).items()
        if isinstance(value, float) and value == value and not key.startswith("seconds")
    ]


def _run_line(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    said = [f"{summary[k]} {k}" for k in ("epochs", "steps", "crystals", "prototypes") if summary.get(k) is not None]
    given = {k: settings[k] for k in ("batch_size", "learning_rate", "seed") if settings.get(k) is not None}
    said += [f"{k.replace('_', ' ')} {value}" for k, value in given.items()]
    if summary.get("seconds_last_run") is not None:
        said.append(f"{summary['seconds_last_run']} s on {summary.get('threads', '?')} threads in the last run")
    return ", ".join(said)


def _line(value: Any) -> str:
    return "; ".join(_lines(value))


def _lines(value: Any) -> list[str]:
    if not value:
        return []
    if isinstance(value, Mapping):
        return [f"{k}: {_line(v) if isinstance(v, Mapping) else v}" for k, v in value.items()]
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(v) for v in value] if several else [" ".join(str(value).split())]
