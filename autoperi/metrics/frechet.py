"""Fréchet distance between two sets of feature vectors, taken as Gaussians.

    FD = |μ₁ - μ₂|² + Tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½)

with means μ and covariances C = ``np.cov(rowvar=False)`` of the two sets (Dowson & Landau 1982; Heusel et al. 2017,
FID; for crystals GemsDiff's FAD on ALIGNN features, and findooshka/diffusion-atoms:eval/eval_utils.py on CrystalNN
fingerprints and CGCNN features).

Two draws from one distribution do not give zero but a positive floor, which grows with the number of features and falls
about as 1/n of either side: compare at equal n (:func:`equal_numbers` draws as many of one set as there are of the
other), and read ``benchmarks/results/frechet_calibration.json`` for the floors of our features. With fewer vectors than
features the covariance is singular; the distance is still defined, but mostly floor, and is marked ``rank_deficient``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from autoperi.data.random import numpy_generator
from autoperi.errors import RequestError
from autoperi.metrics.counts import quantity
from autoperi.metrics.features import Extractor, feature_matrix, features_of
from autoperi.metrics.parallel import BatchedRun

Array = NDArray[np.float64]
_STREAM = 3  # of the draw of equal_numbers; 1 and 2 are those of autoperi.metrics.distribution


def frechet_distance(x: Any, y: Any) -> float:
    """FD between the rows of two arrays.

    Args:
        x, y: ``[n, d]`` and ``[m, d]``, finite, at least two rows each.

    Returns:
        The distance in squared units of the features, never negative.

    Raises:
        RequestError: other shapes, fewer than two rows, NaN or infinity.
    """
    a, b = _checked(x, "x"), _checked(y, "y")
    if a.shape[1] != b.shape[1]:
        raise RequestError(f"x has {a.shape[1]} features and y {b.shape[1]}; give vectors of the same kind")
    return frechet_from_moments(a.mean(0), covariance(a), b.mean(0), covariance(b))


def frechet_from_moments(mean_x: Array, covariance_x: Array, mean_y: Array, covariance_y: Array) -> float:
    """FD between two Gaussians of ``d`` dimensions; covariances may be singular.

    The trace of (C₁^½ C₂ C₁^½)^½ is the sum of the singular values of C₁^½ C₂^½, which loses no digits where a root of
    small eigenvalues would.
    """
    overlap = np.linalg.svd(_root(covariance_x) @ _root(covariance_y), compute_uv=False).sum()
    shift = np.asarray(mean_x, dtype=np.float64) - np.asarray(mean_y, dtype=np.float64)
    # rounding can leave -1e-15 where the two are the same
    return max(0.0, float(shift @ shift + np.trace(covariance_x) + np.trace(covariance_y) - 2 * overlap))


def covariance(x: Array) -> Array:
    """Unbiased covariance of the rows, ``[d, d]`` also for d = 1."""
    return np.atleast_2d(np.cov(x, rowvar=False))


def frechet_quantity(generated: Sequence[Any], reference: Sequence[Any]) -> dict[str, Any]:
    """FD between vectors of generated and of reference crystals, with what could not be judged.

    Args:
        generated, reference: a vector, or a :class:`~autoperi.metrics.parallel.Failure` (or None), for each crystal.
            Failures and vectors that are not finite are left out and counted.

    Returns:
        ``value``, ``of`` and ``missing`` generated crystals, ``reference_of``, ``reference_missing``,
        ``reference_variance`` (Tr C of the reference, the unit in which a value is large or small), ``dimension`` of
        the vectors, ``rank_deficient`` (not more vectors than features on one side), ``reason``.
    """
    a, b = feature_matrix(generated), feature_matrix(reference)
    # a set without any vector has no dimension of its own
    d = max(a.shape[1], b.shape[1])
    counts = {
        "of": len(a),
        "missing": len(generated) - len(a),
        "reference_of": len(b),
        "reference_missing": len(reference) - len(b),
        "dimension": d,
        "rank_deficient": min(len(a), len(b)) <= d,
    }
    if min(len(a), len(b)) < 2:
        side = "generated" if len(a) < 2 else "reference"
        return quantity(None, **counts, reason=f"fewer than two {side} crystals have features")
    return quantity(frechet_distance(a, b), **counts, reference_variance=round(float(b.var(0, ddof=1).sum()), 6))


def equal_numbers(generated: int, reference: int, *, seed: int = 0) -> tuple[list[int], list[int]]:
    """Rows of two sets, as many of one as of the other: all of the smaller set, and as many of the larger one, drawn
    without replacement and sorted.

    Args:
        generated, reference: sizes of the two sets.
        seed: of the draw.
    """
    size = min(generated, reference)
    first, second = (
        sorted(numpy_generator(seed, _STREAM).permutation(n)[:size].tolist()) if n > size else list(range(n))
        for n in (generated, reference)
    )
    return first, second


def frechet_report(
    generated: Sequence[Any],
    reference: Sequence[Any],
    *,
    features: Sequence[Extractor] = (),
    given: Mapping[str, tuple[Sequence[Any], Sequence[Any]]] | None = None,
    equal_seed: int | None = None,
    **run: Unpack[BatchedRun],
) -> dict[str, dict[str, Any]]:
    """FD between generated and reference crystals in several feature spaces.

    Args:
        generated, reference: pymatgen structures or ASE atoms.
        features: learned ones; :func:`autoperi.evaluation.extractors.extractor` has those of this package.
        given: vectors made elsewhere, name → (of generated, of reference), with failures where there is none: for
            ``crystalnn`` the fingerprints of :mod:`autoperi.metrics.fingerprints`.
        equal_seed: compare as many crystals of one set as of the other, those of the larger one drawn with this seed
            (:func:`equal_numbers`); None compares all.
        **run: of :func:`autoperi.metrics.features.features_of`.

    Returns:
        name → :func:`frechet_quantity` with a ``definition``, and ``drawn_from``, the sizes of the sets, where crystals
        were drawn.

    Raises:
        RequestError: a feature named twice, or ``given`` vectors that are not one a
            crystal.
    """
    arrays = dict(given or {})
    sizes = len(generated), len(reference)
    names = [*(source.name for source in features), *arrays]
    if len(set(names)) < len(names):
        raise RequestError(f"features {', '.join(names)} repeat a name; give each once")
    for name, (left, right) in arrays.items():
        if len(left) != len(generated) or len(right) != len(reference):
            raise RequestError(
                f"given[{name!r}] has {len(left)} and {len(right)} vectors for {len(generated)} and {len(reference)} "
                "crystals; give one each, a Failure where there is none"
            )
    if equal_seed is not None:
        first, second = equal_numbers(*sizes, seed=equal_seed)
        generated, reference = [generated[k] for k in first], [reference[k] for k in second]
        arrays = {name: ([a[k] for k in first], [b[k] for k in second]) for name, (a, b) in arrays.items()}
    drawn: dict[str, Any] = {}
    if sizes != (len(generated), len(reference)):
        drawn = {"drawn_from": {"generated": sizes[0], "reference": sizes[1]}}
    out: dict[str, dict[str, Any]] = {}
    for source in features:
        # together, so that the bar runs once
        rows = features_of([*generated, *reference], source, **run)
        found = frechet_quantity(rows[: len(generated)], rows[len(generated) :])
        out[source.name] = {**found, "definition": source.description} | drawn
    for name, (left, right) in arrays.items():
        out[name] = {**frechet_quantity(left, right), "definition": f"{name} vectors"} | drawn
    return out


def _root(matrix: Array) -> Array:
    """Symmetric root of a positive semi-definite matrix; eigenvalues that rounding made negative are zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _checked(x: Any, name: str) -> Array:
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise RequestError(f"{name} has shape {array.shape}; give [crystals, features] with at least two crystals")
    if not np.isfinite(array).all():
        raise RequestError(
            f"{name} has NaN or infinity in row {int((~np.isfinite(array)).any(1).argmax())}; leave that crystal out"
        )
    return array
