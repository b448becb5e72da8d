"""Models on disk and on the hub: what ships in the wheel, model directories, downloads, model cards.

Only names live here; importing :mod:`autoperi.hub` imports neither torch nor huggingface_hub. Of the whole package
only :mod:`autoperi.hub.download` touches the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoperi.hub.bundle import Bundle, Component, load_bundle, load_state, save_bundle, state_of, verify
    from autoperi.hub.card import check_card, model_card
    from autoperi.hub.download import download_to, fetch, load_pretrained, push
    from autoperi.hub.store import ModelInfo, Resolved, list_pretrained, resolve, update_registry

_LAZY = {
    "Bundle": "bundle",
    "Component": "bundle",
    "ModelInfo": "store",
    "Resolved": "store",
    "check_card": "card",
    "download_to": "download",
    "fetch": "download",
    "list_pretrained": "store",
    "load_bundle": "bundle",
    "load_pretrained": "download",
    "load_state": "bundle",
    "model_card": "card",
    "push": "download",
    "resolve": "store",
    "save_bundle": "bundle",
    "state_of": "bundle",
    "update_registry": "store",
    "verify": "bundle",
}

__all__ = [
    "Bundle",
    "Component",
    "ModelInfo",
    "Resolved",
    "check_card",
    "download_to",
    "fetch",
    "list_pretrained",
    "load_bundle",
    "load_pretrained",
    "load_state",
    "model_card",
    "push",
    "resolve",
    "save_bundle",
    "state_of",
    "update_registry",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"autoperi.hub.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'autoperi.hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
