"""Modules under the names they had before version 0.2: importing one gives the module it has become, and a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SAME = {
    "data": "crystal convert io formats elements random splits",
    "pipelines": "ranking request template likelihood",
}
MOVED = {
    **{f"autoperi.{name}": f"autoperi.{room}.{name}" for room, names in _SAME.items() for name in names.split()},
    **{
        f"autoperi.geometry.{name}": f"autoperi.symmetry.{name}"
        for name in ("spacegroup", "wyckoff", "normalizer", "operations", "orbits", "freedom", "equivalents")
    },
    "autoperi.returning": "autoperi.data.containers",
    "autoperi.bundle": "autoperi.hub.networks",
    "autoperi.generation": "autoperi.pipelines.accept",
    "autoperi.candidates": "autoperi.pipelines.prototype_stream",
    "autoperi.decoding": "autoperi.pipelines.decoder",
    "autoperi.finishing": "autoperi.pipelines.finish",
    "autoperi.targets": "autoperi.pipelines.target",
    "autoperi.scoring": "autoperi.pipelines.score",
    "autoperi.relaxing": "autoperi.relax.lattice",
    "autoperi.relaxation": "autoperi.relax.positions",
    "autoperi.device": "autoperi.nn.device",
    "autoperi.geometry.symmetry": "autoperi.symmetry.analysis",
    "autoperi.physics": "autoperi.geometry",
    "autoperi.physics.distance": "autoperi.geometry.distances",
    "autoperi.physics.losses": "autoperi.training.losses",
    "autoperi.prior.orbit_grammar": "autoperi.symmetry.orbit_grammar",
    "autoperi.prior.chemistry": "autoperi.chemistry.descriptors",
    "autoperi.prior.mixture": "autoperi.pipelines.mixture",
    "autoperi.metrics.smact": "autoperi.chemistry.smact",
    "autoperi.models.properties": "autoperi.models.formation_energy",
    "autoperi.models.baselines": "autoperi.models.composition_network",
    "autoperi.processes.apart": "autoperi.processes.min_distance",
    "autoperi.training.orbits": "autoperi.training.orbit_data",
    "autoperi.training.autoperi_gnn": "autoperi.training.tasks.autoperi_gnn",
    "autoperi.training.orbit_network": "autoperi.training.tasks.orbit_network",
    "autoperi.training.empnn": "autoperi.training.tasks.lattice_relaxer",
    "autoperi.training.potential": "autoperi.training.tasks.potential",
    "autoperi.training.prior": "autoperi.training.tasks.prior",
    "autoperi.hub.serialize": "autoperi.hub.bundle",
    "autoperi.hub.registry": "autoperi.hub.store",
}
"""Old name to new name."""


class _Alias(Loader):
    """Loads a module that there is already."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{spec.name} is called {self.name} since AutoPeri 0.2; import it from there",
            DeprecationWarning,
            stacklevel=2,
        )
        self.module = import_module(self.name)
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put that of the old name there


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, _Alias(MOVED[fullname])) if fullname in MOVED else None


def install() -> None:
    """Let the old names be found, after everything that exists."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
