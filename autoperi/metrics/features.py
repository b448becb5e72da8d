"""Learned features of crystals: what a network knows of a crystal just before it says its energy.

A distance between sets of features (:mod:`autoperi.metrics.frechet`) means something only beside another made with the
same network and the same weights: the features of our networks, of Sultanov's CGCNN and of GemsDiff's ALIGNN (256
numbers) are different spaces. :func:`autoperi.evaluation.extractors.extractor` has those of this package by name.

All are remembered on disk by the content of the crystal and the sha256 of the weights
(:func:`autoperi.metrics.parallel.featurise_batched`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from autoperi.data.convert import as_structure
from autoperi.errors import StructureError
from autoperi.metrics.parallel import BatchedRun, Failure, featurise_batched

MIN_VOLUME = 1.0
"""Å³ per atom below which a crystal has no features: thousands of neighbours, and no meaning to any network."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns crystals into vectors.

    Attributes:
        name: of the feature; also of its cache.
        function: a list of pymatgen structures or ASE atoms to an array ``[n, d]``; batchmates must not change a row.
        version: raise it when the definition changes.
        parameters: all that decides the result, such as the sha256 of the weights; JSON-serialisable, part of the key.
        packages: distributions whose version decides the result too.
        description: one line for reports.
    """

    name: str
    function: Callable[[list[Any]], Any]
    version: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    description: str = ""


def features_of(crystals: Sequence[Any], source: Extractor, **run: Unpack[BatchedRun]) -> list[Any]:
    """The features of each crystal, independent of the others.

    Args:
        crystals: pymatgen structures or ASE atoms.
        source: the network.
        **run: see :class:`~autoperi.metrics.parallel.BatchedRun`.

    Returns:
        A vector ``[d]`` of float64, or a :class:`~autoperi.metrics.parallel.Failure`, for each crystal in order.
    """
    function = functools.partial(_rows, source.function)
    key: dict[str, Any] = {name: getattr(source, name) for name in ("name", "version", "parameters", "packages")}
    return featurise_batched(function, crystals, **key, **run)


def feature_matrix(rows: Sequence[Any]) -> NDArray[np.float64]:
    """The vectors among ``rows`` as one array ``[n, d]``, without failures and without rows that are not finite."""
    found = [np.asarray(row, dtype=np.float64) for row in rows if not isinstance(row, Failure) and row is not None]
    found = [row for row in found if np.isfinite(row).all()]
    return np.stack(found) if found else np.zeros((0, 0))


def _rows(function: Callable[[list[Any]], Any], crystals: list[Any]) -> NDArray[np.float64]:
    for crystal in crystals:
        structure = as_structure(crystal)
        if structure.volume < MIN_VOLUME * len(structure):
            raise StructureError(f"{structure.volume / len(structure):.3g} Å³ per atom is less than any crystal has")
    return np.asarray(function(crystals), dtype=np.float64)
