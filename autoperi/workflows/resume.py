"""What every run in a folder holds to: it goes on with its own settings and makers, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoperi.data.files import dumps
from autoperi.errors import DataError, RequestError


def check_there(folder: Path, what: str) -> None:
    """Refuse to go on in a folder that does not exist.

    Raises:
        DataError: naming it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist, so there is no {what} to go on with; name the folder of one")


def check_same(name: str, value: Any, old: Mapping[str, Any], folder: Path | None) -> None:
    """Refuse a setting that differs from that of the run that is resumed.

    Raises:
        RequestError: naming it.
    """
    if value != old.get(name):
        raise RequestError(
            f"{name}={_short(value)} differs from {_short(old.get(name))} of the run in {folder}; resume with its own "
            "settings, or choose another folder"
        )


def check_same_makers(
    header: Mapping[str, Any], stored: Mapping[str, Any], folder: Path | None, names: Iterable[str]
) -> None:
    """Refuse to go on with something else than the run was begun with: another model, or other versions.

    Args:
        header: what the record of a new run would say.
        stored: the record of the run.
        folder: where it is.
        names: entries of both, each a mapping.

    Raises:
        RequestError: naming what differs.
    """
    for name in names:
        new, old = json.loads(dumps(header[name])) or {}, stored.get(name) or {}
        for key in sorted({*new, *old}):
            if new.get(key) != old.get(key):
                raise RequestError(
                    f"{name}: {key}={_short(new.get(key))} differs from {_short(old.get(key))} of the run in {folder}; "
                    "resume with what it was begun with, or choose another folder"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
