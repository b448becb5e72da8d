"""COV: do the generated crystals reach every real one, and is there a real one near every generated one?

Definition: CDVAE (Xie et al. 2022, section 5.2 and appendix; txie-93/cdvae and jiaor17/DiffCSP,
``scripts/eval_utils.py:compute_cov``), after Xu et al. (2021) and Ganea et al. (2021) for molecules. Distances are
Euclidean, between CrystalNN fingerprints as they are and between standardised Magpie statistics
(:mod:`autoperi.metrics.fingerprints`). A crystal is covered where its nearest neighbour by structure *and* its nearest
neighbour by composition lie within their cutoffs; the two need not be the same crystal.

Crystals with atoms nearer than 0.5 Å or a cell below 0.1 Å³ have no fingerprint here, so such a generated crystal
counts against COV-P and can cover nothing; CDVAE uses it where matminer gives it one
(:mod:`autoperi.metrics.fingerprints`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoperi.errors import RequestError
from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import mean, quantity
from autoperi.metrics.parallel import Failure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Cutoffs(NamedTuple):
    """Largest distance that still counts as near, by structure and by composition."""

    structure: float
    composition: float


CUTOFFS: Mapping[str, Cutoffs] = {
    "mp20": Cutoffs(0.4, 10.0),
    "carbon": Cutoffs(0.2, 4.0),
    "perovskite": Cutoffs(0.2, 4.0),
}
"""CDVAE's cutoffs by data set (txie-93/cdvae, ``scripts/compute_metrics.py:COV_Cutoffs``)."""

NO_FINGERPRINT = "no crystal with a fingerprint"


class Nearest(NamedTuple):
    """Distances to the nearest crystal of the other set; NaN for a crystal without a fingerprint, or with nobody to be
    near to.

    Attributes:
        recall_structure, recall_composition: of each reference crystal to the generated ones.
        precision_structure, precision_composition: of each generated crystal to the reference ones.
    """

    recall_structure: Array
    recall_composition: Array
    precision_structure: Array
    precision_composition: Array


def resolve_cutoffs(cutoffs: str | Sequence[float]) -> Cutoffs:
    """A named preset of :data:`CUTOFFS`, or the pair (structure, composition) itself.

    Raises:
        RequestError: an unknown name, or not two positive numbers.
    """
    if isinstance(cutoffs, str):
        if cutoffs not in CUTOFFS:
            raise RequestError(
                f"cutoffs={cutoffs!r} is not known; use one of {', '.join(sorted(CUTOFFS))}, or two numbers"
            )
        return CUTOFFS[cutoffs]
    pair = [float(c) for c in cutoffs]
    if len(pair) != 2 or not all(0 < c < np.inf for c in pair):
        raise RequestError(
            f"cutoffs={list(cutoffs)!r} are not two positive numbers; give (structure, composition), such as (0.4, 10)"
        )
    return Cutoffs(*pair)


def nearest_distances(
    generated_structure: Sequence[Any],
    generated_composition: Sequence[Any],
    reference_structure: Sequence[Any],
    reference_composition: Sequence[Any],
) -> Nearest:
    """Nearest distances both ways, from the results of the two fingerprint functions.

    A crystal counts only where it has both fingerprints (neither is a failure).

    Raises:
        RequestError: the two fingerprints of one side differ in number.
    """
    ours, our_rows = _both(generated_structure, generated_composition, "generated")
    theirs, their_rows = _both(reference_structure, reference_composition, "reference")
    out = [np.full(n, np.nan) for n in (len(reference_structure),) * 2 + (len(generated_structure),) * 2]
    if len(our_rows) and len(their_rows):
        for kind in (0, 1):
            by_reference, by_generated = _nearest(ours[kind], theirs[kind])
            out[kind][their_rows] = by_reference
            out[2 + kind][our_rows] = by_generated
    return Nearest(*out)


def coverage(
    generated_structure: Sequence[Any],
    generated_composition: Sequence[Any],
    reference_structure: Sequence[Any],
    reference_composition: Sequence[Any],
    *,
    cutoffs: str | Sequence[float] = "mp20",
) -> dict[str, Any]:
    """COV-R, COV-P and the mean nearest distances AMSD and AMCD, both ways.

    Args:
        generated_structure, generated_composition, reference_structure, reference_composition: results of
            :func:`~autoperi.metrics.fingerprints.structure_fingerprints` and
            :func:`~autoperi.metrics.fingerprints.composition_fingerprints`, failures included.
        cutoffs: ``"mp20"``, ``"carbon"``, ``"perovskite"``, or (structure, composition).

    Returns:
        ``cov_recall`` (of reference crystals with a fingerprint), ``cov_precision`` (of all generated crystals: one
        without a fingerprint counts against it; None where not one has), ``amsd_recall``, ``amsd_precision``,
        ``amcd_recall``, ``amcd_precision`` (of crystals with a fingerprint), and ``cutoffs``.

    Raises:
        RequestError: bad cutoffs; fingerprints that differ in number.
    """
    limits = resolve_cutoffs(cutoffs)
    found = nearest_distances(generated_structure, generated_composition, reference_structure, reference_composition)
    return {**summarise(found, limits), "cutoffs": limits._asdict()}


def summarise(found: Nearest, limits: Cutoffs) -> dict[str, Any]:
    """:func:`coverage` from distances that are there already."""
    recall = (found.recall_structure <= limits.structure) & (found.recall_composition <= limits.composition)
    precision = (found.precision_structure <= limits.structure) & (found.precision_composition <= limits.composition)
    known_r, known_p = np.isfinite(found.recall_structure), np.isfinite(found.precision_structure)
    judged = len(known_p) if known_p.any() else 0  # with not one fingerprint on either side there is nothing to say

    def near(covered: NDArray[np.bool_], known: NDArray[np.bool_], of: int) -> dict[str, Any]:
        count, missing = int(covered.sum()), int((~known).sum())
        return quantity(count / of if of else None, of=of, missing=missing, reason=NO_FINGERPRINT, count=count)

    return {
        "cov_recall": near(recall, known_r, int(known_r.sum())),
        "cov_precision": near(precision, known_p, judged),
        "amsd_recall": mean(found.recall_structure, missing=NO_FINGERPRINT),
        "amsd_precision": mean(found.precision_structure, missing=NO_FINGERPRINT),
        "amcd_recall": mean(found.recall_composition, missing=NO_FINGERPRINT),
        "amcd_precision": mean(found.precision_composition, missing=NO_FINGERPRINT),
    }


def coverage_curve(found: Nearest, *, cutoffs: str | Sequence[float] = "mp20", points: int = 41) -> dict[str, Any]:
    """COV-R and COV-P while both cutoffs shrink and grow together, for a figure.

    Args:
        found: distances.
        cutoffs: the pair at factor 1.
        points: factors from 0 to 2.

    Returns:
        ``factor``, ``structure``, ``composition`` (the cutoffs), ``cov_recall`` and ``cov_precision``: lists of equal
        length; the shares are None where nothing could be judged.
    """
    if points < 2:
        raise RequestError(f"points={points} do not make a curve; give at least 2")
    limits = resolve_cutoffs(cutoffs)
    factors = np.linspace(0.0, 2.0, points)
    rows = [summarise(found, Cutoffs(limits.structure * f, limits.composition * f)) for f in factors.tolist()]
    return {
        "factor": [round(f, 6) for f in factors.tolist()],
        "structure": [round(limits.structure * f, 6) for f in factors.tolist()],
        "composition": [round(limits.composition * f, 6) for f in factors.tolist()],
        "cov_recall": [row["cov_recall"]["value"] for row in rows],
        "cov_precision": [row["cov_precision"]["value"] for row in rows],
    }


def _both(
    structure: Sequence[Any], composition: Sequence[Any], side: str
) -> tuple[tuple[Array, Array], NDArray[np.int64]]:
    message = f"{{}} structure and {{}} composition fingerprints of the {side} crystals; give one each"
    check_lengths(message, structure, composition)
    both = enumerate(zip(structure, composition, strict=True))
    rows = [i for i, pair in both if not any(isinstance(one, Failure) for one in pair)]
    arrays = tuple(
        np.array([values[i] for i in rows], dtype=np.float64).reshape(len(rows), -1 if rows else 0)
        for values in (structure, composition)
    )
    return (arrays[0], arrays[1]), np.array(rows, dtype=np.int64)


def _nearest(ours: Array, theirs: Array, *, block: int = 512) -> tuple[Array, Array]:
    """Distance of each of theirs to the nearest of ours, and of each of ours to the nearest of theirs; in blocks, to
    bound the memory.
    """
    from scipy.spatial.distance import cdist

    of_theirs, of_ours = np.full(len(theirs), np.inf), np.empty(len(ours))
    for start in range(0, len(ours), block):
        distances = cdist(ours[start : start + block], theirs)
        of_ours[start : start + block] = distances.min(1)
        of_theirs = np.minimum(of_theirs, distances.min(0))
    return of_theirs, of_ours
