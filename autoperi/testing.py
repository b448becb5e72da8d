"""For the tests of AutoPeri and of packages that build on it: a few crystals, and a complete model that takes a second
to make.

The model is small and untrained apart from its prior; it exercises every path and predicts nothing of value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from autoperi.chemistry.descriptors import element_descriptors
from autoperi.data.convert import to_arrays
from autoperi.hub.bundle import Bundle
from autoperi.hub.networks import network_component
from autoperi.models.empnn import Empnn
from autoperi.models.formation_energy import FormationEnergy
from autoperi.prior.component import prior_component
from autoperi.prior.learn import learn_library
from autoperi.prior.ranker import train_ranker
from autoperi.symmetry.analysis import orbit
from autoperi.symmetry.spacegroup import space_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Lattice, Structure

_CUBIC: dict[str, tuple[int, list[tuple[float, float, float]], dict[tuple[str, ...], float]]] = {
    "rock salt": (
        225,
        [(0, 0, 0), (0.5, 0.5, 0.5)],
        {("Na", "Cl"): 5.64, ("Li", "F"): 4.03, ("Mg", "O"): 4.21, ("K", "Br"): 6.60, ("Ca", "S"): 5.69},
    ),
    "caesium chloride": (
        221,
        [(0, 0, 0), (0.5, 0.5, 0.5)],
        {("Cs", "Cl"): 4.12, ("Cs", "Br"): 4.29, ("Ni", "Al"): 2.88},
    ),
    "zinc blende": (216, [(0, 0, 0), (0.25, 0.25, 0.25)], {("Zn", "S"): 5.41, ("Ga", "As"): 5.65, ("Cu", "Cl"): 5.42}),
    "fluorite": (225, [(0, 0, 0), (0.25, 0.25, 0.25)], {("Ca", "F"): 5.46, ("Ce", "O"): 5.41, ("Ba", "F"): 6.20}),
    "perovskite": (
        221,
        [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
        {("Sr", "Ti", "O"): 3.91, ("Ba", "Ti", "O"): 4.01, ("K", "Mg", "F"): 3.99},
    ),
    "diamond": (227, [(0, 0, 0)], {("Si",): 5.43, ("Ge",): 5.66}),
    "face-centred": (225, [(0, 0, 0)], {("Cu",): 3.61, ("Al",): 4.05}),
}
"""Structure type to space group, one point of each orbit, and cubic lattice constants in Å."""


def tiny_crystals() -> list[Structure]:
    """Some twenty textbook crystals in their conventional cells, rutile and wurtzite among them."""
    from pymatgen.core import Lattice

    crystals = [
        _crystal(group, Lattice.cubic(a), elements, points)
        for group, points, members in _CUBIC.values()
        for elements, a in members.items()
    ]
    for elements, a, c, u in ((("Ti", "O"), 4.59, 2.96, 0.305), (("Sn", "O"), 4.74, 3.19, 0.307)):
        crystals.append(_crystal(136, Lattice.tetragonal(a, c), elements, [(0, 0, 0), (u, u, 0)]))
    for elements, a, c, u in ((("Zn", "O"), 3.25, 5.21, 0.382), (("Ga", "N"), 3.19, 5.19, 0.377)):
        crystals.append(_crystal(186, Lattice.hexagonal(a, c), elements, [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, u)]))
    return crystals


def _crystal(
    group: int, lattice: Lattice, elements: Sequence[str], points: Sequence[tuple[float, float, float]]
) -> Structure:
    from pymatgen.core import Structure

    images = [orbit(np.array(point, dtype=float), space_group(group))[0] for point in points]
    species = [element for element, found in zip(elements, images, strict=True) for _ in found]
    return Structure(lattice, species, np.concatenate(images))


def tiny_model(*, name: str = "tiny", seed: int = 0) -> Bundle:
    """A complete model: random networks of eight channels, and a prior learned from :func:`tiny_crystals`.

    Args:
        name: of the model.
        seed: of the networks and the ranker.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        empnn, energy = Empnn(channels=8, layers=1), FormationEnergy(channels=8, layers=1)
    library, owner, _ = learn_library([to_arrays(crystal) for crystal in tiny_crystals()])
    ranker = train_ranker(library, owner, descriptors=element_descriptors(), epochs=1, seed=seed)
    return Bundle(
        name=name,
        components={
            "empnn": network_component(empnn),
            "formation_energy": network_component(energy),
            "prior": prior_component(library, ranker),
        },
        metadata={
            "licence": "MIT",
            "description": "Untrained networks and a prior of textbook crystals, for tests.",
            "limits": ["For tests only."],
        },
    )
