"""Every kind as a small network, and small models of them."""

from __future__ import annotations

import torch

from autoperi import registry
from autoperi.hub.bundle import Bundle
from autoperi.hub.networks import network_component
from autoperi.testing import tiny_model

SMALL = {
    "orbit_network": {"channels": 8, "layers": 1, "encoder_layers": 1, "heads": 2},
    "autoperi_gnn": {"channels": 8, "layers": 1, "encoder_layers": 1, "latent": 4, "hidden": 8},
    "gemsdiff": {"channels": 8, "encoder_layers": 1, "layers": 1, "knn": 12, "hidden": 8},
    "score_langevin": {"channels": 8, "layers": 1, "hidden": 8, "levels": 3},
    "pgcgm": {"slots": 3, "noise": 8, "hidden": 16, "joined": True, "merge": 0.6},
    "lattice_relaxer": {"channels": 8, "layers": 1, "hidden": 8},
    "empnn": {"channels": 8, "layers": 1},
    "potential": {"channels": 8, "layers": 1, "hidden": 8},
    "formation_energy": {"channels": 8, "layers": 1},
    "property_heads": {
        "features": 24,
        "descriptors": 2,
        "heads": {"elastic": {"members": 1, "width": 4, "hidden": 4, "embedding": 2}},
    },
    "cgcnn": {"channels": 8, "layers": 1, "hidden": 8},
    "crystal_transformer": {"channels": 8, "edge_channels": 8, "layers": 1},
    "toy": {"channels": 8, "layers": 1},
}
"""Configs of small networks, by kind."""
SMALL_TASKS = {"pgcgm": {"paper_groups": False, "min_crystals": 1, "fewest_elements": 2}}
"""Options of tasks without which small data are refused."""


def small_network(name: str, seed: int = 0) -> torch.nn.Module:
    """An untrained network of a kind."""
    kind = registry.kind_named(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: torch.nn.Module = registry.load(kind.model)(**SMALL[name])
    if name == "orbit_network":
        from autoperi.models.orbit_network import tables

        network.load_state_dict(tables(), strict=False)
    if name == "pgcgm":
        spread_out(network)
    return network.eval()


def spread_out(network: torch.nn.Module) -> None:
    """Base sites all over the cell, in cells with room, and two chemical systems that the network knows."""
    from autoperi.chemistry.descriptors import pgcgm_properties

    with torch.no_grad():
        network.properties.copy_(torch.as_tensor(pgcgm_properties()))
        network.site[-1].weight.mul_(40)
        network.cell[-1].bias[:3] = 1.5
        for group, elements in ((225, (11, 17)), (221, (11, 17)), (225, (38, 22, 8)), (221, (38, 22, 8))):
            for slot, z in enumerate(elements):
                network.occurrences[group, len(elements) - 1, slot, z] += 1
                network.together[z, list(elements)] = True


def small_model(*names: str) -> Bundle:
    """The tiny model, with small networks of further kinds; of one with a pipeline of its own, that one alone."""
    kind = registry.kind_named(names[0]) if names else None
    if kind is not None and kind.pipeline:
        return Bundle(names[0], {names[0]: network_component(small_network(names[0]))}, {"pipeline": kind.pipeline})
    bundle = tiny_model()
    bundle.components.update({name: network_component(small_network(name)) for name in names})
    return bundle
