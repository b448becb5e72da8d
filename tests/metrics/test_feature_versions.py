"""What is remembered on disk under a name and a version is still what it was: a new definition must come with a new
version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from autoperi.metrics import distribution, fingerprints, novelty, validity

HOW = (
    "{name}, version {version}, gives another value than the one pinned here. If its definition changed on purpose, "
    "raise `version` where it is passed to featurise, else old results are read from the caches of users, and pin the "
    "new version and value here. If another version of a package changed it, that package must be among its "
    "`packages`, and the tolerance here wide enough for both."
)


def crystal() -> Structure:
    """Wurtzite-like ZnO: four sites, two elements, no cubic symmetry."""
    return Structure.from_spacegroup(
        186, Lattice.hexagonal(3.25, 5.2), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
    )


def broken() -> Structure:
    """Atoms too near, no neutral oxidation states, an edge too long."""
    return Structure(
        Lattice.orthorhombic(3, 4, 45),
        ["Na", "Na", "Na", "Cl"],
        [[0, 0, 0], [0, 0.1, 0], [0.5, 0.5, 0.3], [0.1, 0.6, 0.7]],
    )


CALLS: dict[str, Callable[[list[Structure]], Any]] = {
    "crystalnn_ops": lambda c: fingerprints.structure_fingerprints(c, cache=False, processes=1),
    "magpie": lambda c: fingerprints.composition_fingerprints(c, cache=False, scaled=False),
    "validity": lambda c: validity.validity_report(c, cache=False, processes=1),
    "crystal_properties": lambda c: distribution.crystal_properties(c, cache=False),
    "space_group": lambda c: distribution.space_groups(c, cache=False, processes=1),
    "prototype": lambda c: novelty.prototype_keys(c, cache=False, processes=1),
}
MODULES = {"crystalnn_ops": fingerprints, "magpie": fingerprints, "validity": validity, "prototype": novelty}


def digest(value: Any) -> list[float]:
    """A few numbers that any change of an array changes: its length, sum, and sum weighted by position, NaN as 0."""
    x = np.nan_to_num(np.asarray(value, dtype=np.float64)).ravel()
    return [float(len(x)), float(x.sum()), float(x @ np.cos(np.arange(len(x))))]


VERSIONS = {"crystalnn_ops": 1, "magpie": 1, "validity": 1, "crystal_properties": 1, "space_group": 1, "prototype": 1}
PINNED: dict[str, Any] = {
    "crystalnn_ops": [61.0, 2.683951, 0.686554],
    "magpie": [132.0, 4039.9344, 390.915446],
    "crystal_properties": [4.0, 12.864457, 2.76869],
    "space_group": [1.0, 186.0, 186.0],
    "prototype": [2.0, 190.0, 188.161209],
}
GOOD = (
    "valid",
    "structural",
    "distance",
    "volume",
    "compositional",
    "radii",
    "neutral",
    "readable",
    "symmetric",
    "cell",
)
BAD = ("valid", "structural", "distance", "compositional", "radii", "neutral", "cell")
VERDICTS = [
    {**dict.fromkeys(GOOD, True), "space_group": 186},
    {**dict.fromkeys(GOOD, True), **dict.fromkeys(BAD, False), "space_group": 1},
]


@pytest.mark.parametrize("name", list(CALLS))
def test_a_new_definition_has_a_new_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = MODULES.get(name, distribution)
    seen: list[tuple[str, int, list[Any]]] = []
    original = module.featurise

    def spy(function: Any, crystals: Any, **options: Any) -> list[Any]:
        rows = original(function, crystals, **options)
        seen.append((options["name"], options["version"], rows))
        return rows

    monkeypatch.setattr(module, "featurise", spy)
    CALLS[name]([crystal(), broken()])
    ((found, version, rows),) = seen
    assert (found, version) == (name, VERSIONS[name]), f"{found} is of version {version} now: pin its value here anew"
    if name == "validity":
        held = [json.loads(str(row)) for row in rows]
        pinned = [{name: row[name] for name in (*GOOD, "space_group")} for row in held]
        assert pinned == VERDICTS, HOW.format(name=name, version=version)
        assert all(set(row["reasons"]) == {v for v in GOOD if row[v] is not True} for row in held)
    else:
        assert digest(rows[0]) == pytest.approx(PINNED[name], rel=1e-4, abs=1e-4), HOW.format(
            name=name, version=version
        )
