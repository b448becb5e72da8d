"""Do generated and real crystals follow one distribution: of densities, distances, energies, symmetries, and in
fingerprint space?

Definitions: Wasserstein-1 between the values of two sets (CDVAE, txie-93/cdvae ``scripts/compute_metrics.py:GenEval``;
PGCGM, Zhao et al. 2023, "Property distribution"); diversity as the mean distance of fingerprints
(``GenEval.get_comp_diversity`` and ``get_struct_diversity``) and as the share of different compositions (PGCGM,
"Diversity"); the maximum mean discrepancy of Gretton et al., J. Mach. Learn. Res. 13, 723 (2012), eq. 3 and 5, with
their median heuristic; divergence of space-group histograms as in LeMaterial/lemat-genbench,
``utils/distribution_utils.py``, which prints the square root of the divergence, in nats; here it is in bits.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from autoperi.data.checks import whole_number
from autoperi.data.convert import as_structure, to_arrays
from autoperi.data.random import check_seed, numpy_generator
from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.consistency import reduced_formula
from autoperi.metrics.counts import quantity
from autoperi.metrics.features import feature_matrix
from autoperi.metrics.parallel import CachedRun, Failure, featurise
from autoperi.symmetry.analysis import SYMPREC, analyse
from autoperi.symmetry.spacegroup import crystal_system

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

GENEVAL_SAMPLES = 1000
"""Valid generated crystals that GenEval compares with the whole test set."""
MMD_SAMPLES = 2000
"""Crystals of each set that the discrepancy is computed from where there are more."""
SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
PROPERTIES = ("density", "n_elements", "min_distance", "max_distance")
"""Columns of :func:`crystal_properties`: g/cm³, a count, Å, Å."""

_STREAM_SAMPLE, _STREAM_MMD = 1, 2


def sample_valid(valid: Sequence[bool | None], *, limit: int | None = GENEVAL_SAMPLES, seed: int = 0) -> list[int]:
    """Indices of up to ``limit`` valid crystals, drawn without replacement and sorted: those that GenEval's distances
    are computed from.

    A crystal whose verdict is None does not count as valid. All valid ones where there are no more than ``limit``, or
    it is None.

    Raises:
        RequestError: a limit below 1, or a bad seed.
    """
    if limit is not None:
        whole_number(limit, "limit", refusal="is not a positive whole number; give at least 1, or None for all")
    rows = np.array([i for i, v in enumerate(valid) if v], dtype=np.int64)
    if limit is not None and len(rows) > limit:
        rows = np.sort(numpy_generator(check_seed(seed), _STREAM_SAMPLE).choice(rows, size=limit, replace=False))
    return [int(i) for i in rows]


def crystal_properties(crystals: Sequence[Any], **run: Unpack[CachedRun]) -> list[Any]:
    """Density (g/cm³), number of elements, and smallest and largest distance (Å) of each crystal: an array ``[4]`` or a
    failure.

    Distances are those between different sites of the cell as it is given, each pair at its nearest periodic images
    (PGCGM's "minimum and maximum atom distance", of which its paper says no more; the largest one depends on the choice
    of cell, so give both sets in the same one). A cell of one atom has no pair: NaN.

    One process by default; ``run`` as in :class:`~autoperi.metrics.parallel.CachedRun`.
    """
    run.setdefault("processes", 1)
    return featurise(properties_of, crystals, name="crystal_properties", version=1, packages=("pymatgen-core",), **run)


def properties_of(crystal: Any) -> Array:
    """One row of :func:`crystal_properties`."""
    structure = as_structure(crystal)
    numbers = to_arrays(crystal)[2]
    n = len(numbers)
    pairs = np.asarray(structure.distance_matrix)[np.triu_indices(n, 1)]
    low, high = (float(pairs.min()), float(pairs.max())) if n > 1 else (np.nan, np.nan)
    return np.array([float(structure.density), len(set(numbers.tolist())), low, high])


def wasserstein(
    generated: Sequence[float | None], reference: Sequence[float | None], *, unit: str | None = None
) -> dict[str, Any]:
    """Wasserstein-1 distance (earth mover's) between two samples of a number, in its own unit.

    Values that are None, NaN or infinite are left out and counted.

    Returns:
        A quantity: ``of`` and ``missing`` count generated values, ``of_reference`` and ``missing_reference`` those of
        the reference.
    """
    from scipy.stats import wasserstein_distance

    ours, theirs = _finite(generated), _finite(reference)
    value = float(wasserstein_distance(ours, theirs)) if len(ours) and len(theirs) else None
    counts = _counts(len(ours), len(generated) - len(ours), len(theirs), len(reference) - len(theirs))
    more: dict[str, Any] = {} if unit is None else {"unit": unit}
    return quantity(value, **counts, **more)


def property_distances(generated: Sequence[Any], reference: Sequence[Any]) -> dict[str, Any]:
    """Wasserstein-1 of density, number of elements, smallest and largest distance, from rows of
    :func:`crystal_properties`.
    """
    units = ("g/cm^3", None, "Å", "Å")
    return {
        name: wasserstein(_column(generated, i), _column(reference, i), unit=unit)
        for i, (name, unit) in enumerate(zip(PROPERTIES, units, strict=True))
    }


def mean_pairwise_distance(fingerprints: Sequence[Any]) -> dict[str, Any]:
    """Diversity within a set as the mean Euclidean distance over all pairs of fingerprints; failures are left out and
    counted.

    With structure fingerprints this is GenEval's ``struct_div``, with standardised composition fingerprints its
    ``comp_div``.
    """
    rows = feature_matrix(fingerprints)
    n = len(rows)
    value = _distance_sum(rows) / (n * (n - 1) / 2) if n > 1 else None
    return quantity(value, of=n, missing=len(fingerprints) - n, reason="fewer than two crystals with a fingerprint")


def composition_diversity(crystals: Sequence[Any]) -> dict[str, Any]:
    """PGCGM's diversity: different reduced compositions over crystals; crystals that cannot be read are counted, not
    judged.
    """
    formulas = []
    for crystal in crystals:
        with contextlib.suppress(StructureError):
            formulas.append(reduced_formula(to_arrays(crystal)[2]))
    unique, n = len(set(formulas)), len(formulas)
    missing = len(crystals) - n
    return quantity(unique / n if n else None, of=n, missing=missing, reason="unreadable", count=unique)


def mmd(
    generated: Sequence[Any],
    reference: Sequence[Any],
    *,
    bandwidth: float | None = None,
    limit: int = MMD_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Squared maximum mean discrepancy with the kernel exp(-d²/(2 σ²)) between two sets of fingerprints.

    Args:
        generated, reference: arrays of one length; failures are left out and counted.
        bandwidth: σ; None takes the median distance over all pairs of the two sets together, equal crystals apart.
        limit: crystals of either set at most, drawn with the seed where there are more.
        seed: of the draw.

    Returns:
        ``biased`` (Gretton et al. 2012, eq. 5; zero for a set against itself) and ``unbiased`` (eq. 3; can be below
        zero), quantities with the counts of both sets, ``bandwidth`` with ``bandwidth_rule``, ``limit`` and ``seed``.

    Raises:
        RequestError: a bandwidth that is not positive, a limit below 2, fingerprints of different lengths.
    """
    if bandwidth is not None and not 0 < bandwidth < np.inf:
        raise RequestError(f"bandwidth={bandwidth!r} is not a positive number; give σ, or None for the median distance")
    if limit < 2:
        raise RequestError(f"limit={limit!r} is too small; give at least 2 crystals")
    ours, theirs = feature_matrix(generated), feature_matrix(reference)
    missing, missing_reference = len(generated) - len(ours), len(reference) - len(theirs)
    if len(ours) and len(theirs) and ours.shape[1] != theirs.shape[1]:
        raise RequestError(f"fingerprints of {ours.shape[1]} and of {theirs.shape[1]} numbers cannot be compared")
    draw = numpy_generator(check_seed(seed), _STREAM_MMD)
    # The same rows of two equal sets: otherwise a set that is too large would differ from itself by the draw.
    order = draw.permutation(max(len(ours), len(theirs)))
    ours, theirs = (x[np.sort(order[order < len(x)][:limit])] if len(x) > limit else x for x in (ours, theirs))
    biased = unbiased = sigma = None
    m, n = len(ours), len(theirs)
    if m and n:
        xx, yy, xy = _squared(ours, ours), _squared(theirs, theirs), _squared(ours, theirs)
        sigma = bandwidth if bandwidth is not None else _median_distance(xx, yy, xy)
        k_xx, k_yy, k_xy = (np.exp(-d / (2 * sigma * sigma)) for d in (xx, yy, xy))
        biased = float(k_xx.mean() + k_yy.mean() - 2 * k_xy.mean())
        if m > 1 and n > 1:
            unbiased = float((k_xx.sum() - m) / (m * (m - 1)) + (k_yy.sum() - n) / (n * (n - 1)) - 2 * k_xy.mean())
    counts = _counts(m, missing, n, missing_reference)
    few = {"reason": "fewer than two crystals with a fingerprint on either side"} if m and n else {}
    return {
        "biased": quantity(None if biased is None else max(biased, 0.0), **counts),
        "unbiased": quantity(unbiased, **counts | few),
        "bandwidth": None if sigma is None else round(float(sigma), 6),
        "bandwidth_rule": "median pairwise distance" if bandwidth is None else "given",
        "kernel": "exp(-d^2 / (2 bandwidth^2))",
        "limit": limit,
        "seed": seed,
    }


def space_groups(crystals: Sequence[Any], *, symprec: float = SYMPREC, **run: Unpack[CachedRun]) -> list[int | None]:
    """Space-group number of each crystal through spglib; None where it finds none.

    ``run`` as in :class:`~autoperi.metrics.parallel.CachedRun`.

    Raises:
        RequestError: ``symprec`` (Å) is not positive.
    """
    if not 0 < symprec < np.inf:
        raise RequestError(f"symprec={symprec!r} is not a positive distance in Å; give one such as {SYMPREC}")
    key: dict[str, Any] = {"parameters": {"symprec": float(symprec)}, "packages": ("spglib",)}
    found = featurise(space_group_of, crystals, name="space_group", version=1, **key, **run)
    return [None if isinstance(v, Failure) else int(v) for v in found]


def space_group_of(crystal: Any, *, symprec: float) -> Any:
    """Space-group number of one crystal, as an array without dimensions.

    Raises:
        StructureError: spglib finds none.
    """
    lattice, coords, numbers = to_arrays(crystal)
    return np.array(analyse(lattice, coords, numbers, symprec=symprec).number)


def symmetry_distances(
    generated: Sequence[int | None], reference: Sequence[int | None], *, symprec: float | None = None
) -> dict[str, Any]:
    """Histograms of space groups and of crystal systems of two sets, and how far apart they are.

    Args:
        generated, reference: results of :func:`space_groups`.
        symprec: what they were found with, for the record.

    Returns:
        For ``space_group`` and ``crystal_system``: ``generated`` and ``reference`` (label to count; all seven systems,
        only the groups that occur), ``jensen_shannon`` (divergence in bits, 0 to 1) and ``total_variation`` (0 to 1),
        quantities.
    """
    out: dict[str, Any] = {} if symprec is None else {"symprec": symprec}
    kinds: tuple[tuple[str, Callable[[int], Any]], ...] = (("space_group", int), ("crystal_system", crystal_system))
    for kind, label in kinds:
        ours, theirs = (Counter(label(g) for g in groups if g is not None) for groups in (generated, reference))
        every: Sequence[Any] = SYSTEMS if kind == "crystal_system" else sorted(set(ours) | set(theirs))
        p, q = (np.array([c[e] for e in every], dtype=np.float64) for c in (ours, theirs))
        m, n = int(p.sum()), int(q.sum())
        counts = _counts(m, len(generated) - m, n, len(reference) - n)
        known = m > 0 and n > 0
        out[kind] = {
            "generated": {str(e): ours[e] for e in every},
            "reference": {str(e): theirs[e] for e in every},
            "jensen_shannon": quantity(jensen_shannon(p, q) if known else None, **counts),
            "total_variation": quantity(0.5 * float(np.abs(p / m - q / n).sum()) if known else None, **counts),
        }
    return out


def jensen_shannon(p: Any, q: Any) -> float:
    """Jensen-Shannon divergence in bits of two histograms over the same bins (counts or shares); 0 equal, 1
    disjoint.
    """
    from scipy.special import rel_entr

    a, b = (np.asarray(x, dtype=np.float64) / np.sum(x) for x in (p, q))
    middle = (a + b) / 2
    return float(min(max((rel_entr(a, middle).sum() + rel_entr(b, middle).sum()) / (2 * np.log(2)), 0.0), 1.0))


def geneval(
    generated: Mapping[str, Sequence[Any]],
    reference: Mapping[str, Sequence[Any]],
    *,
    valid: Sequence[bool | None],
    limit: int | None = GENEVAL_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """GenEval's comparison: up to ``limit`` random valid generated crystals against the whole reference.

    Args:
        generated, reference: ``properties`` (rows of :func:`crystal_properties`), and as far as they are there
            ``structure`` and ``composition`` (fingerprints; diversity of the generated ones) and ``energy`` (eV/atom,
            None where unknown); one value a crystal.
        valid: verdict on each generated crystal.
        limit, seed: see :func:`sample_valid`. GenEval itself refuses fewer than 1,000 valid crystals; here the count is
            given.

    Returns:
        ``wasserstein`` (:func:`property_distances` and ``energy``), ``diversity`` (``structure``, ``composition``), and
        ``sample``: ``valid``, ``drawn``, ``limit``, ``seed``.

    Raises:
        RequestError: a sequence of the generated crystals whose length is not that of ``valid``.
    """
    for name, values in generated.items():
        check_lengths(f"generated[{name!r}] has {{}} values for {{}} crystals; give one a crystal", values, valid)
    rows = sample_valid(valid, limit=limit, seed=seed)
    drawn = {name: [values[i] for i in rows] for name, values in generated.items()}
    distances = property_distances(drawn["properties"], reference["properties"])
    if "energy" in drawn and "energy" in reference:
        distances["energy"] = wasserstein(drawn["energy"], reference["energy"], unit="eV/atom")
    return {
        "wasserstein": distances,
        "diversity": {
            name: mean_pairwise_distance(drawn[name]) for name in ("structure", "composition") if name in drawn
        },
        "sample": {"valid": sum(bool(v) for v in valid), "drawn": len(rows), "limit": limit, "seed": seed},
    }


def _finite(values: Sequence[float | None]) -> Array:
    found = np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)
    return found[np.isfinite(found)]


def _column(rows: Sequence[Any], i: int) -> list[float | None]:
    return [None if isinstance(row, Failure) else float(row[i]) for row in rows]


def _counts(of: int, missing: int, of_reference: int, missing_reference: int) -> dict[str, Any]:
    """What a quantity of two sets was counted from, and why it is missing where one of them is empty."""
    empty = "generated" if not of else "reference" if not of_reference else None
    reason = "unknown" if empty is None else f"no {empty} crystal with a value"
    counts = {"of_reference": of_reference, "missing_reference": missing_reference}
    return {"of": of, "missing": missing, "reason": reason, **counts}


def _squared(a: Array, b: Array) -> Array:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(a, b, "sqeuclidean"))


def _distance_sum(rows: Array, *, block: int = 512) -> float:
    from scipy.spatial.distance import cdist

    return sum(float(cdist(rows[i : i + block], rows).sum()) for i in range(0, len(rows), block)) / 2


def _median_distance(xx: Array, yy: Array, xy: Array) -> float:
    """Median over pairs of different crystals; 1 where all of them are the same, where any bandwidth gives the same
    answer.
    """
    every = np.concatenate([xx[np.triu_indices(len(xx), 1)], yy[np.triu_indices(len(yy), 1)], xy.ravel()])
    positive = every[every > 0]
    return float(np.median(np.sqrt(positive))) if len(positive) else 1.0
