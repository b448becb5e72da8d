"""Fingerprints of crystals: CrystalNN's local order and Magpie's composition statistics, as COV and its kin compare
them.

Definition: CDVAE (Xie et al. 2022; txie-93/cdvae, ``scripts/compute_metrics.py`` and ``scripts/eval_utils.py``): the
mean over sites of matminer's ``CrystalNNFingerprint.from_preset("ops")``, not standardised; matminer's
``ElementProperty.from_preset("magpie")`` standardised with fixed means and standard deviations, NaN put to 0 (Ward et
al., npj Comput. Mater. 2, 16028 (2016)).

Two deviations from CDVAE, which matter only for sets with many broken crystals. CDVAE's coverage uses every crystal
whose fingerprint can be computed, also one with atoms nearer than 0.5 Å; here a crystal that is not valid by distance
and volume has no structure fingerprint. And CDVAE counts a crystal whose fingerprint fails as invalid; here validity
and fingerprint are separate (:mod:`autoperi.metrics.validity`).
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from autoperi.data.convert import to_arrays
from autoperi.errors import RequestError, StructureError
from autoperi.metrics.crystalnn import LABELS, site_fingerprint
from autoperi.metrics.pairs import composition_key
from autoperi.metrics.parallel import CachedRun, Failure, featurise
from autoperi.metrics.validity import structural_validity
from autoperi.symmetry.analysis import analyse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

STRUCTURE_FEATURES = len(LABELS)
COMPOSITION_FEATURES = 132
ORBIT_SYMPREC = 1e-3
"""Å within which sites count as equivalent and share one fingerprint."""
MAX_SITES = 2000
"""Sites that are not equivalent, beyond which a crystal is refused."""


def structure_fingerprints(crystals: Sequence[Any], **run: Unpack[CachedRun]) -> list[Any]:
    """Mean CrystalNN fingerprint over the sites of each crystal.

    One site of each orbit is computed and counted as often as the orbit has atoms. The result is that of all sites,
    apart from rounding at the steps of the definition itself (weights rounded to 0.001, neighbours exactly opposite
    each other): 0.01 at the very most.

    Args:
        crystals: pymatgen structures or ASE atoms.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`.

    Returns:
        Arrays ``[61]``, or a :class:`~autoperi.metrics.parallel.Failure` with its reason: crystals that are not valid
        by distance and volume (:func:`~autoperi.metrics.validity.structural_validity`), where CDVAE computes what it
        can, and those too dense or too large to tessellate.
    """
    key: dict[str, Any] = {"parameters": {"symprec": ORBIT_SYMPREC}, "packages": ("pymatgen-core", "scipy")}
    return featurise(structure_fingerprint, crystals, name="crystalnn_ops", version=1, **key, **run)


def composition_fingerprints(crystals: Sequence[Any], *, scaled: bool = True, **run: Unpack[CachedRun]) -> list[Any]:
    """Magpie statistics of each composition, standardised as CDVAE does.

    Args:
        crystals: pymatgen structures or ASE atoms.
        scaled: False for matminer's own numbers, which may hold NaN.
        **run: see :class:`~autoperi.metrics.parallel.CachedRun`; one process by default, which is best unless there are
            very many compositions.

    Returns:
        Arrays ``[132]`` or failures.

    Raises:
        RequestError: matminer is not installed.
    """
    require_matminer()
    run.setdefault("processes", 1)
    raw = featurise(composition_statistics, crystals, name="magpie", version=1, packages=("matminer",), **run)
    return [standardise(v) if scaled and not isinstance(v, Failure) else v for v in raw]


def require_matminer() -> None:
    """Refuse composition fingerprints before any work where matminer is missing.

    Raises:
        RequestError: it is not installed.
    """
    if importlib.util.find_spec("matminer") is None:
        raise RequestError('composition fingerprints need matminer; pip install "autoperi[metrics]"')


def structure_fingerprint(crystal: Any, *, symprec: float = ORBIT_SYMPREC) -> Array:
    """Mean CrystalNN fingerprint of one crystal, ``[61]``, from one site of each orbit at ``symprec`` in Å.

    Raises:
        StructureError: not valid by distance and volume, or too dense or too large.
    """
    valid = structural_validity(crystal)
    if not valid.valid:
        raise StructureError(str(valid.reason))
    lattice, coords, numbers = to_arrays(crystal)
    orbits = analyse(lattice, coords, numbers, symprec=symprec, on_failure="p1").equivalent_atoms
    sites, counts = np.unique(orbits, return_counts=True)
    if len(sites) > MAX_SITES:
        raise StructureError(f"{len(sites)} sites that are not equivalent, more than {MAX_SITES}")
    rows = np.stack([site_fingerprint(lattice, coords, numbers, int(i)) for i in sites])
    return np.asarray(counts @ rows / counts.sum())


def composition_statistics(crystal: Any) -> Array:
    """Magpie statistics of one crystal's composition as matminer gives them, ``[132]``; NaN where an element lacks a
    property.
    """
    return _magpie(composition_key(to_arrays(crystal)[2]))


def standardise(statistics: Array) -> Array:
    """``(statistics - means) / stds`` with the constants of :func:`scaler`, NaN put to 0; ``[..., 132]``."""
    constants = scaler()
    return np.nan_to_num((np.asarray(statistics) - constants["means"]) / constants["stds"], nan=0.0)


@functools.cache
def scaler() -> dict[str, Any]:
    """Means and standard deviations of the Magpie statistics, ``[132]`` each, and where they come from."""
    held = json.loads(resources.files("autoperi.metrics").joinpath("magpie_scaler.json").read_text("utf-8"))
    return {"source": held["source"], "means": np.array(held["means"]), "stds": np.array(held["stds"])}


_STATISTICS = ["minimum", "maximum", "range", "mean", "avg_dev", "mode"]


@functools.lru_cache(maxsize=100_000)
def _magpie(formula: tuple[tuple[int, int], ...]) -> Array:
    """Six statistics of each element property, weighted with the amounts; far faster than one call of matminer's for
    each of the 132.
    """
    if list(_magpie_featurizer().stats) != _STATISTICS:  # another matminer's preset: its own way, slower
        return _magpie_slowly(formula)
    values = np.stack([_element_properties(z) for z, _ in formula])
    amounts = np.array([n for _, n in formula], dtype=np.float64)
    shares = amounts / amounts.sum()
    low, high, average = values.min(0), values.max(0), shares @ values
    deviation = shares @ np.abs(values - average)
    most = values[np.isclose(amounts, amounts.max())].min(0)  # of the most frequent elements, the least value
    return np.stack([low, high, high - low, average, deviation, most], axis=1).reshape(-1)


def _magpie_slowly(formula: tuple[tuple[int, int], ...]) -> Array:
    from pymatgen.core import Composition, Element

    return np.array(
        _magpie_featurizer().featurize(Composition({Element.from_Z(z): n for z, n in formula})), dtype=np.float64
    )


@functools.cache
def _element_properties(number: int) -> Array:
    from pymatgen.core import Element

    table, element = _magpie_featurizer(), Element.from_Z(number)
    return np.array(
        [table.data_source.get_elemental_property(element, name) for name in table.features], dtype=np.float64
    )


@functools.cache
def _magpie_featurizer() -> Any:
    from matminer.featurizers.composition.composite import ElementProperty

    return ElementProperty.from_preset("magpie")
