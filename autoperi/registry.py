"""The kinds of networks that a model can hold: the only place that knows which there are.

A *kind* is one line of :data:`KINDS`. Loading, training, the command line, error messages and the tables of the docs
read it; nothing else in the package lists kinds. A kind of another package is found by an entry point of the group
``autoperi.kinds`` that names a :class:`Kind`::

    [project.entry-points."autoperi.kinds"]
    toy = "toy_crystals.kinds:TOY"

Names are strings until they are used, so that importing this module imports no network.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from autoperi.errors import RequestError, WeightsError

Role = Literal["prior", "generator", "relaxer", "potential", "property", "baseline"]
GROUP = "autoperi.kinds"
"""The group of entry points that name kinds of other packages."""


@dataclass(frozen=True)
class Kind:
    """One kind of network.

    Attributes:
        name: of the component in a model, of its file, and on the command line (where ``-`` and ``_`` mean the same).
        role: what a model uses it for. A relaxer and a potential are used whatever their kind, and a model has one of
            each at most; a generator by the pipeline that runs it; other networks by the name of their kind.
        summary: a few words for help texts and tables.
        model: ``module:Class`` of the network, built from its config; or ``module:function`` that builds it from a
            :class:`~autoperi.hub.bundle.Component`, where ``built_from_component``.
        process: ``module:Class`` of the process that makes crystals with it (generators that a sampler runs).
        pipeline: the pipeline that a model of this kind alone uses.
        supports: fields of a request that this generator honours, beside those that every pipeline does.
        task: ``module:Class``, what it is trained on; empty for what is trained otherwise or by no command.
        reads: the kind whose features it reads, without which it means nothing.
        trainer: ``module:function`` that runs the training, where that is not
            :func:`autoperi.training.run.train_network`.
        components: names under which models saved by earlier versions hold it.
        config_kind: what the entry ``kind`` of the config says, where one name has stood for two kinds.
        pretrained: the bundled model that holds it alone (baselines).
        built_from_component: see ``model``.
    """

    name: str
    role: Role
    summary: str
    model: str
    process: str = ""
    pipeline: str = ""
    supports: tuple[str, ...] = ()
    task: str = ""
    trainer: str = ""
    reads: str = ""
    components: tuple[str, ...] = ()
    config_kind: str = ""
    pretrained: str = ""
    built_from_component: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What a component of this kind may be called in a model."""
        return (self.name, *self.components)

    @property
    def word(self) -> str:
        """The name as it is written on the command line and in names of models: with hyphens."""
        return self.name.replace("_", "-")


_TASKS = "autoperi.training.tasks"

KINDS: tuple[Kind, ...] = (
    Kind(
        "prior",
        "prior",
        "the prototype prior: structure types and which elements take them",
        "autoperi.prior.component:proposer_of",
        trainer=f"{_TASKS}.prior:train_component",
        built_from_component=True,
    ),
    Kind(
        "orbit_network",
        "generator",
        "AutoPeri-GNN's orbits: which element takes which Wyckoff positions",
        "autoperi.models.orbit_network:OrbitNetwork",
        task=f"{_TASKS}.orbit_network:OrbitNetworkTask",
        components=("orbits",),
    ),
    Kind(
        "autoperi_gnn",
        "generator",
        "AutoPeri-GNN's autoencoder and flow: the geometry of orbits",
        "autoperi.models.autoperi_gnn:AutoPeriGnn",
        process="autoperi.processes.flow",
        task=f"{_TASKS}.autoperi_gnn:AutoPeriGnnTask",
        components=("flow",),
    ),
    Kind(
        "gemsdiff",
        "generator",
        "GemsDiff: diffusion of cell and atoms (Klipfel et al. 2024)",
        "autoperi.models.gemsdiff:GemsDiff",
        process="autoperi.processes.diffusion:Diffusion",
        pipeline="sampler",
        supports=("chemical_system", "exclude_elements", "num_elements"),
        task=f"{_TASKS}.gemsdiff:GemsDiffTask",
    ),
    Kind(
        "score_langevin",
        "generator",
        "scores of sites and cells under a space group, by Langevin dynamics (Sultanov et al. 2023)",
        "autoperi.models.score_langevin:ScoreLangevin",
        process="autoperi.processes.langevin:Langevin",
        pipeline="sampler",
        supports=("space_group", "sites", "chemical_system", "exclude_elements", "num_elements"),
        task=f"{_TASKS}.score_langevin:ScoreLangevinTask",
    ),
    Kind(
        "pgcgm",
        "generator",
        "PGCGM: a physics-guided GAN over space groups, which draws elements too (Zhao et al. 2023)",
        "autoperi.models.pgcgm:Pgcgm",
        process="autoperi.processes.one_shot:OneShot",
        pipeline="one_shot",
        supports=("space_group", "chemical_system", "exclude_elements", "num_elements"),
        task=f"{_TASKS}.pgcgm:PgcgmTask",
    ),
    Kind(
        "lattice_relaxer",
        "relaxer",
        "EMPNN passes that know how sure they are (relax_lattice, generate)",
        "autoperi.models.lattice_relaxer:LatticeRelaxer",
        process="autoperi.processes.lattice",
        task=f"{_TASKS}.lattice_relaxer:LatticeRelaxerTask",
        components=("empnn",),
        config_kind="relaxer",
    ),
    Kind(
        "empnn",
        "relaxer",
        "EMPNN in one shot (Klipfel et al. 2023)",
        "autoperi.models.empnn:Empnn",
        process="autoperi.processes.lattice",
        task=f"{_TASKS}.empnn:EmpnnTask",
        config_kind="empnn",
    ),
    Kind(
        "potential",
        "potential",
        "energies, forces and stresses",
        "autoperi.models.potential:Potential",
        task=f"{_TASKS}.potential:PotentialTask",
    ),
    Kind(
        "formation_energy",
        "property",
        "the formation energy",
        "autoperi.models.formation_energy:FormationEnergy",
        task=f"{_TASKS}.formation_energy:FormationEnergyTask",
    ),
    Kind(
        "property_heads",
        "property",
        "band gap, moduli, last phonon peak and their uncertainties, on the encoder of formation_energy",
        "autoperi.models.property_heads:PropertyHeads",
        reads="formation_energy",
        components=("properties",),
    ),
    Kind(
        "cgcnn",
        "baseline",
        "CGCNN for the formation energy (Xie & Grossman 2018)",
        "autoperi.models.cgcnn:Cgcnn",
        task=f"{_TASKS}.cgcnn:CgcnnTask",
        pretrained="cgcnn-formation-energy",
    ),
    Kind(
        "crystal_transformer",
        "baseline",
        "a graph transformer for the formation energy (after Du et al. 2024)",
        "autoperi.models.crystal_transformer:CrystalTransformer",
        task=f"{_TASKS}.crystal_transformer:CrystalTransformerTask",
        pretrained="crystal-transformer-formation-energy",
    ),
)
"""Every kind that AutoPeri itself knows, in the order in which docs and help name them."""

PIPELINES: dict[str, str] = {
    "prototype": "autoperi.pipelines.prototype:PrototypePipeline",
    "sampler": "autoperi.pipelines.sampler:SamplerPipeline",
    "one_shot": "autoperi.pipelines.one_shot:OneShotPipeline",
}
"""Pipelines by the name that the config of a model gives; ``prototype`` where it gives none."""


def pipeline_path(name: Any, model: str) -> str:
    """Where the class of a pipeline is; ``name`` is what the config of ``model`` says, if it does.

    Raises:
        WeightsError: there is no such pipeline.
    """
    name = name or "prototype"
    if not isinstance(name, str) or name not in PIPELINES:
        raise WeightsError(
            f"model {model!r} names the pipeline {name!r}; known are {', '.join(PIPELINES)}: update AutoPeri"
        )
    return PIPELINES[name]


@lru_cache(maxsize=1)
def kinds() -> Mapping[str, Kind]:
    """All kinds by name: those of :data:`KINDS`, then those of other packages, which cannot replace them.

    Raises:
        WeightsError: an entry point that cannot be loaded, names something else than a kind, or a kind whose name is
            taken or is none.
    """
    from importlib.metadata import entry_points  # slow to import, and most commands ask for no kinds

    found = {kind.name: kind for kind in KINDS}
    taken = {name for kind in KINDS for name in kind.names}
    for point in entry_points(group=GROUP):
        try:
            kind = point.load()
        except Exception as error:
            raise WeightsError(
                f"kind {point.name!r} of {point.value!r} cannot be loaded ({' '.join(str(error).split())}); mend or "
                "uninstall the package that registers it"
            ) from error
        why = _fault(kind, taken)
        if why:
            raise WeightsError(f"kind {point.name!r} of {point.value!r} {why}; mend or uninstall the package")
        found[kind.name] = kind
        taken.update(kind.names)
    return found


def _fault(kind: Any, taken: set[str]) -> str:
    """What is wrong with a kind of another package beside those whose names are taken."""
    if not isinstance(kind, Kind):
        return "is no autoperi.registry.Kind"
    for name in kind.names:
        if not name.isidentifier():
            return f"is called {name!r}, which is no name; take letters, digits and underscores"
        if name in taken:
            return f"is called {name!r}, as another"
    return ""


def kind_named(name: str, *, among: Sequence[Kind] | None = None) -> Kind:
    """The kind of a name, with ``-`` or ``_``, or of a name that models of earlier versions have for it.

    Args:
        name: what was asked for.
        among: what the message offers, where that is not every kind.

    Raises:
        RequestError: there is none; the message names the nearest.
    """
    word = name.replace("-", "_")
    called = _called(word)
    if called:
        return next((kind for kind in called if kind.name == word), called[0])
    known = [kind.word for kind in among or kinds().values()]
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RequestError(f"{name!r} is no kind of network; {hint}choose from {', '.join(known)}")


def _called(name: str) -> list[Kind]:
    """The kinds of a name; other packages are asked only where no kind of AutoPeri itself has it."""
    return [kind for kind in KINDS if name in kind.names] or [k for k in kinds().values() if name in k.names]


def kind_of(component: str, config: Mapping[str, Any]) -> Kind | None:
    """The kind of a model's component, by its name and, where a name has stood for two kinds, its config."""
    fitting = _called(component)
    said = str(config.get("kind", "empnn" if component == "empnn" else ""))
    return next((k for k in fitting if not k.config_kind or k.config_kind == said), fitting[0] if fitting else None)


def load(reference: str) -> Any:
    """What ``module:name`` (or ``module`` alone) stands for.

    Raises:
        ImportError, AttributeError: there is no such thing.
    """
    module, _, name = reference.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found
