"""For the tests of AutoPeri and of packages that build on it: a few crystals, and a complete model that takes a second
to make.

The model is small and untrained apart from its prior; it exercises every path and predicts nothing of value.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from autoperi.auto import AutoPeri

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
    library, _, _ = learn_library([to_arrays(crystal) for crystal in tiny_crystals()])
    ranker = train_ranker(library, descriptors=element_descriptors(), epochs=1, seed=seed)
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


def check_generator(
    peri: AutoPeri,
    compositions: Sequence[str] = ("NaCl", "SrTiO3"),
    *,
    steps: int | None = None,
    n: int = 3,
    space_group: int | None = 225,
    model: str | None = None,
) -> None:
    """What every generator must hold to; an AssertionError says what does not.

    The same crystals at any batch size and number of threads, after saving and loading, and of a stream; fewer are the
    first of more; the composition exactly; every option that its pipeline supports is honoured, every other refused
    before any work.

    Args:
        peri: the model.
        compositions: asked for, each on its own; the first must have crystals of one formula unit. A pipeline that
            draws compositions itself is asked for their chemical systems.
        steps: of the pipeline's process.
        n: crystals of each.
        space_group: asked for with the first composition, where groups are supported; None leaves that out.
        model: a part of the model that generates alone.
    """
    from pymatgen.core import Composition

    from autoperi.auto import AutoPeri
    from autoperi.pipelines.base import DE_NOVO

    common: dict[str, Any] = {"rank": "none", "strict": False, "progress": False, "steps": steps, "model": model}
    supports = peri.pipeline.supports
    threads = torch.get_num_threads()
    whole_ones = "composition" in supports

    def system(composition: str) -> str:
        return "-".join(e.symbol for e in Composition(composition))

    def asked_of(composition: str) -> dict[str, Any]:
        return {"composition": composition} if whole_ones else {"chemical_system": system(composition)}

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("ignore")  # fewer than n is no fault of a small model
        peri.save_pretrained(Path(directory) / "model")
        again = AutoPeri.from_pretrained(Path(directory) / "model", device=peri.device).with_settings(
            **asdict(peri.settings)
        )
        for composition in compositions:
            one = asked_of(composition) | common
            found = peri.generate(n=n, seed=1, **one)
            whole = Composition(composition).reduced_composition
            if whole_ones:
                same = all(s.composition.reduced_composition == whole for s in found)
            else:
                same = all(set(s.composition.elements) == set(whole.elements) for s in found)
            assert same, f"a composition is not {composition}"
            assert [s.properties["autoperi"]["seed"] for s in found] == [1] * len(found), "the seed is not recorded"
            indices = [s.properties["autoperi"]["index"] for s in found]
            assert indices == sorted(set(indices)), "indices do not rise in stream order"
            try:
                for size, count in ((1, 1), (2, 2), (7, 1)):
                    torch.set_num_threads(count)
                    _same_crystals(peri.generate(n=n, seed=1, batch_size=size, **one), found, "batch size")
            finally:
                torch.set_num_threads(threads)
            _same_crystals(peri.generate(n=1, seed=1, **one), found[:1], "number of crystals")
            _same_crystals(again.generate(n=n, seed=1, **one), found, "saving and loading")
            streamed = peri.generate_stream(n=n, seed=1, steps=steps, model=model, **asked_of(composition))
            _same_crystals(list(islice(streamed, len(found))), found, "a stream")
        formula = Composition(compositions[0]).reduced_composition
        asked: dict[str, Any] = {
            "num_atoms": int(formula.num_atoms),
            "space_group": space_group,
            "chemical_system": system(compositions[0]),
            "exclude_elements": ["Og"],
            "num_elements": len(formula),
        }
        for name, value in asked.items():
            if value is None:
                continue
            request = {**asked_of(compositions[0]), **common, name: value}
            if name not in supports:
                _refused(peri, request)
                continue
            for s in peri.generate(n=n, seed=2, **request):
                if name == "num_atoms":
                    assert len(s) == value, f"num_atoms={value} gave {len(s)} atoms"
                if name == "space_group":
                    assert s.properties["autoperi"]["space_group"] == value, f"space_group={value} is not honoured"
        if DE_NOVO not in supports:
            _refused(peri, common)
        if not whole_ones:
            _refused(peri, {**common, "composition": compositions[0]})


def _refused(peri: AutoPeri, options: dict[str, Any]) -> None:
    """Refused before any work, which would take a candidate of the pipeline."""
    from unittest.mock import patch

    from autoperi.errors import RequestError

    message, work = None, AssertionError(f"{options} is not refused before any work")
    try:
        with patch.object(type(peri.pipeline), "candidates", side_effect=work):
            peri.generate(seed=0, **options)
    except RequestError as error:
        message = str(error)
    assert message is not None, f"{options} is not supported and was not refused"
    assert "\n" not in message, "a refusal has more than one line"


def _same_crystals(found: Sequence[Structure], expected: Sequence[Structure], what: str) -> None:
    assert len(found) == len(expected), f"{what} changes how many crystals there are: {len(found)}, not {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        same = (
            np.array_equal(one.lattice.matrix, other.lattice.matrix)
            and np.array_equal(one.frac_coords, other.frac_coords)
            and one.species == other.species
            and one.properties["autoperi"]["index"] == other.properties["autoperi"]["index"]
        )
        assert same, f"{what} changes a crystal: {one} is not {other}"
