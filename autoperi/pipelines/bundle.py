"""From a :class:`~autoperi.hub.bundle.Bundle` to the modules it describes, and back."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoperi.errors import WeightsError
from autoperi.hub.bundle import Bundle, Component, load_state, state_of
from autoperi.models.autoperi_gnn import AutoPeriGnn
from autoperi.models.cgcnn import BUNDLED as BUNDLED_CGCNN
from autoperi.models.cgcnn import Cgcnn
from autoperi.models.crystal_transformer import BUNDLED as BUNDLED_TRANSFORMER
from autoperi.models.crystal_transformer import CrystalTransformer
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.lattice_relaxer import LatticeRelaxer, lattice_network
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.models.potential import Potential
from autoperi.models.property_heads import PropertyHeads, encoder_fingerprint
from autoperi.pipelines.decoder import Decoder
from autoperi.pipelines.generation import Generator
from autoperi.pipelines.mixture import Mixture
from autoperi.pipelines.ranking import Pool
from autoperi.prior.library import FIELDS, OPTIONAL_FIELDS, PrototypeLibrary
from autoperi.prior.propose import Proposer
from autoperi.prior.ranker import Ranker

NETWORKS: dict[str, Callable[..., nn.Module]] = {"empnn": lattice_network, "formation_energy": FormationEnergy}
COMPONENTS = (*NETWORKS, "prior")
"""What a complete model is made of."""
OPTIONAL: dict[str, type[nn.Module]] = {
    "properties": PropertyHeads,
    "potential": Potential,
    "flow": AutoPeriGnn,
    "orbits": OrbitNetwork,
}
"""Networks that a complete model may hold besides."""
BASELINES: dict[str, type[nn.Module]] = {"cgcnn": Cgcnn, "crystal_transformer": CrystalTransformer}
"""Networks that are models by themselves: no complete model holds one."""
BUNDLED_BASELINES = {"cgcnn": BUNDLED_CGCNN, "crystal_transformer": BUNDLED_TRANSFORMER}
"""Names of those that ship with AutoPeri."""
DEFAULTS: dict[str, float] = {
    "generate_steps": 1,
    "relax_steps": 3,
    "energy_temperature": 0.5,
    "potential_temperature": 0.03,
    "orbits_share": 0.4,
    "orbits_novelty": 0.01,
    "near_steps": 2,
    "noise_steps": 8,
    "noise_draws": 4,
    "anneal": 5.0,
    "pool_least": 0,
    "pool_share": 1.0,
    "known_weight": 0.25,
    "denovo_temperature": 0.2,
    "denovo_known": 0.0,
}
"""Settings of a model whose config says nothing of them."""

_RANGES: dict[str, tuple[float, float, bool]] = {
    "generate_steps": (0, 20, True),
    "relax_steps": (0, 20, True),
    "energy_temperature": (1e-6, math.inf, False),
    "potential_temperature": (1e-6, math.inf, False),
    "known_weight": (0, 1, False),
    "denovo_temperature": (0.01, 10, False),
    "denovo_known": (0, 1, False),
    "orbits_share": (0, 1, False),
    "orbits_novelty": (0, 1, False),
    "near_steps": (0, 100, True),
    "noise_steps": (1, 100, True),
    "noise_draws": (1, 64, True),
    "anneal": (0, 100, False),
    "pool_least": (0, 10_000, True),
    "pool_share": (1, 100, False),
}
"""Least and largest value of each setting, and whether it is a whole number."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of a model, ready to run.

    Attributes:
        empnn, energy, proposer: the networks and the prior.
        relax_steps: default passes of ``relax_lattice``.
        generator: the same, wired for ``generate``.
        properties: the property heads, None where the model has none.
        dtype: of ``relax_lattice`` (``generate`` and ``score`` always run in float64).
    """

    empnn: Empnn | LatticeRelaxer
    energy: FormationEnergy
    proposer: Proposer
    relax_steps: int
    generator: Generator
    dtype: torch.dtype
    properties: PropertyHeads | None = None


def parts_of(bundle: Bundle, *, device: torch.device, dtype: torch.dtype) -> Parts:
    """Build and fill every module of ``bundle``.

    Raises:
        WeightsError: a component is missing, or its config or tensors do not fit.
    """
    if set(bundle.components) <= set(BASELINES):
        name = next(iter(bundle.components), "cgcnn")
        where = bundle.name if bundle.name in BUNDLED_BASELINES.values() else bundle.source
        raise WeightsError(
            f"model {bundle.name!r} is a baseline ({', '.join(bundle.components)}) that neither generates nor "
            "relaxes; load it with "
            f"autoperi.models.{name}.load_{name}({where!r}), or give a complete model such as 'autoperi-base'"
        )
    for name in COMPONENTS:
        if name not in bundle.components:
            raise WeightsError(
                f"model {bundle.name!r} has no component {name!r}; it holds {', '.join(bundle.components)}: use a "
                "complete model"
            )
    networks = {
        name: network_of(name, bundle.components[name]).to(device=device, dtype=torch.float64) for name in NETWORKS
    }
    empnn, energy = networks["empnn"], networks["formation_energy"]
    assert isinstance(empnn, Empnn | LatticeRelaxer)
    assert isinstance(energy, FormationEnergy)
    prior = bundle.components["prior"]
    settings = _settings(bundle)
    proposer = proposer_of(
        prior, **{name: settings[name] for name in ("known_weight", "denovo_temperature", "denovo_known")}
    )
    potential = (
        potential_of(bundle).to(device=device, dtype=torch.float64) if "potential" in bundle.components else None
    )
    decoder, orbits = _decoder(bundle, potential, settings, device), None
    if decoder is not None:  # orbits without a geometry are no crystals
        orbits = network_of("orbits", bundle.components["orbits"]).double() if "orbits" in bundle.components else None
    assert orbits is None or isinstance(orbits, OrbitNetwork)
    generator = Generator(
        mixture=Mixture(proposer, orbits, share=settings["orbits_share"], novelty=settings["orbits_novelty"]),
        decoder=decoder,
        empnn=empnn,
        energy=energy,
        steps=int(settings["generate_steps"]),
        temperature=settings["energy_temperature"],
        potential=potential,
        potential_temperature=settings["potential_temperature"],
        device=device,
        pool=Pool(int(settings["pool_least"]), settings["pool_share"]),
    )
    relaxer = (
        empnn
        if dtype == torch.float64
        else network_of("empnn", bundle.components["empnn"]).to(device=device, dtype=dtype)
    )
    assert isinstance(relaxer, Empnn | LatticeRelaxer)
    properties = _properties(bundle, energy, device)
    return Parts(relaxer, energy, proposer, int(settings["relax_steps"]), generator, dtype, properties)


def _decoder(
    bundle: Bundle, potential: Potential | None, settings: dict[str, float], device: torch.device
) -> Decoder | None:
    """The flow in float64, if there is one."""
    if "flow" not in bundle.components:
        return None
    network = network_of("flow", bundle.components["flow"]).to(device=device, dtype=torch.float64)
    assert isinstance(network, AutoPeriGnn)
    steps, draws = (int(settings["near_steps"]), int(settings["noise_steps"])), int(settings["noise_draws"])
    return Decoder(network, potential, *steps, draws, settings["anneal"])


def _properties(bundle: Bundle, energy: FormationEnergy, device: torch.device) -> PropertyHeads | None:
    """The property heads in float64, if there are any; they must have been trained on the encoder beside them."""
    if "properties" not in bundle.components:
        return None
    heads = network_of("properties", bundle.components["properties"]).to(device=device, dtype=torch.float64)
    assert isinstance(heads, PropertyHeads)
    if heads.config["encoder"] not in ("", encoder_fingerprint(energy.backbone)):
        raise WeightsError(
            f"component 'properties' of model {bundle.name!r} was trained on another encoder than its "
            "'formation_energy'; train it anew "
            "on this one, or leave it out"
        )
    return heads


def potential_of(bundle: Bundle) -> Potential:
    """The potential of ``bundle``, made anew, in evaluation mode, float32; nothing else of the model is built.

    Raises:
        WeightsError: the model has none, or its config or tensors do not fit.
    """
    if "potential" not in bundle.components:
        raise WeightsError(
            f"model {bundle.name!r} has no potential, so no forces; it holds {', '.join(bundle.components)}: use a "
            "model with the component "
            "'potential', which `autoperi train potential` makes"
        )
    potential = network_of("potential", bundle.components["potential"])
    assert isinstance(potential, Potential)
    return potential


def _settings(bundle: Bundle) -> dict[str, float]:
    found = DEFAULTS | (bundle.metadata.get("settings") or {})
    for name, value in found.items():
        low, high, whole = _RANGES.get(name, (0.0, math.inf, False))
        number = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
        if not number or not low <= value <= high or (whole and value != int(value)):
            said = f"{'a whole number' if whole else 'a number'} from {low:g}" + (
                "" if high == math.inf else f" to {high:g}"
            )
            raise WeightsError(
                f"setting {name!r} of model {bundle.name!r} is {value!r}; give {said} in its config.json"
            )
    return found


def network_of(name: str, component: Component) -> nn.Module:
    """The network ``name`` of :data:`NETWORKS`, :data:`OPTIONAL` or :data:`BASELINES` from its component, in evaluation
    mode, float32.

    Raises:
        WeightsError: config or tensors do not fit.
    """
    kinds: dict[str, Callable[..., nn.Module]] = {**NETWORKS, **OPTIONAL, **BASELINES}
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # weights are drawn before they are filled: the caller's generator stays as it was
            network = kinds[name](**component.config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"config of component {name!r} does not fit this version of AutoPeri ({error}); update AutoPeri or the "
            "model"
        ) from None
    load_state(network, component.tensors, source=f"component {name!r}")
    return network.eval()


def load_baseline(name: str, name_or_path: str | os.PathLike[str]) -> nn.Module:
    """The network ``name`` of :data:`BASELINES` from a model that holds it, in evaluation mode, float32.

    Args:
        name: ``cgcnn`` or ``crystal_transformer``.
        name_or_path: bundled name, directory or hub repository.

    Raises:
        WeightsError: no such model, or one without this component.
    """
    from autoperi.hub.download import load_pretrained

    bundle = load_pretrained(name_or_path)
    if name not in bundle.components:
        raise WeightsError(
            f"model {bundle.name!r} has no component {name!r}; it holds {', '.join(bundle.components)}: give "
            f"{BUNDLED_BASELINES[name]!r} or "
            f"what `autoperi train {name}` wrote"
        )
    return network_of(name, bundle.components[name])


def proposer_of(component: Component, **settings: float) -> Proposer:
    """The prior from its component, with settings of :class:`~autoperi.prior.propose.Proposer`."""
    try:
        with torch.random.fork_rng(devices=[]):
            ranker = Ranker(**component.config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"config of component 'prior' does not fit this version of AutoPeri ({error}); update AutoPeri or the model"
        ) from None
    tensors = component.tensors
    load_state(
        ranker,
        {k.removeprefix("ranker."): v for k, v in tensors.items() if k.startswith("ranker.")},
        source="component 'prior'",
    )
    return Proposer(
        PrototypeLibrary({k: tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in tensors}), ranker, **settings
    )


def network_component(network: Any) -> Component:
    """A trained network as a component."""
    return Component(config=dict(network.config), tensors=state_of(network))


def prior_component(library: PrototypeLibrary, ranker: Ranker) -> Component:
    """A learned prior as a component."""
    tensors = {k: library.tensors[k] for k in (*FIELDS, *OPTIONAL_FIELDS) if k in library.tensors}
    return Component(
        config=dict(ranker.config), tensors=tensors | {f"ranker.{k}": v for k, v in state_of(ranker).items()}
    )
