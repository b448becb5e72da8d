"""Models on disk and on the hub: what ships in the wheel, model directories, downloads, model cards.

Only names live here; importing :mod:`autoperi.hub` imports neither torch nor huggingface_hub. Of the whole package
only :mod:`autoperi.hub.download` touches the network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoperi.hub.bundle import *  # noqa: F403
    from autoperi.hub.card import *  # noqa: F403
    from autoperi.hub.download import *  # noqa: F403
    from autoperi.hub.store import *  # noqa: F403

_MODULES = {
    "bundle": ("Bundle", "Component", "load_bundle", "load_state", "save_bundle", "state_of", "verify"),
    "card": ("check_card", "model_card"),
    "download": ("download_to", "fetch", "load_pretrained", "push"),
    "store": ("ModelInfo", "Resolved", "list_pretrained", "resolve"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"autoperi.hub.{_HOME[name]}"), name)
    raise AttributeError(f"module 'autoperi.hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
