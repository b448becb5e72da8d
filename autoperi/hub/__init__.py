"""Models on disk and on the hub: what ships in the wheel, model directories, downloads, model cards.

Only names live here; importing :mod:`autoperi.hub` imports neither torch nor huggingface_hub. Of the whole package
only :mod:`autoperi.hub.download` touches the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoperi.hub.card import check_card, model_card
    from autoperi.hub.download import download_to, fetch, load_pretrained, push
    from autoperi.hub.registry import ModelInfo, Resolved, list_pretrained, resolve, update_registry
    from autoperi.hub.serialize import Bundle, Component, load_bundle, load_state, save_bundle, state_of, verify

_LAZY = {
    "Bundle": "serialize",
    "Component": "serialize",
    "ModelInfo": "registry",
    "Resolved": "registry",
    "check_card": "card",
    "download_to": "download",
    "fetch": "download",
    "list_pretrained": "registry",
    "load_bundle": "serialize",
    "load_pretrained": "download",
    "load_state": "serialize",
    "model_card": "card",
    "push": "download",
    "resolve": "registry",
    "save_bundle": "serialize",
    "state_of": "serialize",
    "update_registry": "registry",
    "verify": "serialize",
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
