"""The config of a network: the keyword arguments that build it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def config_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-serialisable keyword arguments of a constructor, from its ``locals()`` before any other name is bound."""
    plain = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
