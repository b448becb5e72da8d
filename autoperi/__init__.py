"""AutoPeri: crystal generation, lattice relaxation and scoring for ASE and pymatgen users.

Only names live here; importing :mod:`autoperi` imports neither torch, pymatgen nor ASE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoperi._moved import install as _install_old_names
from autoperi._version import __version__
from autoperi.errors import AutoPeriError

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri
    from autoperi.data.crystal import CrystalBatch

__all__ = ["AutoPeri", "AutoPeriError", "CrystalBatch", "__version__"]

_LAZY = {"AutoPeri": "autoperi.auto", "CrystalBatch": "autoperi.data.crystal"}


_install_old_names()


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'autoperi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
