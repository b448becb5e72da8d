"""PGCGM's own metric (Zhao et al., npj Comput. Mater. 9, 38 (2023)): the relax-and-match rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from autoperi.metrics._common import check_lengths
from autoperi.metrics.counts import mean, share
from autoperi.metrics.pairs import arrays_of, compare_pairs
from autoperi.metrics.parallel import Failure, Run

STOL, LTOL, ANGLE_TOL = 0.2, 0.2, 0.5


def relax_and_match(generated: Sequence[Any], relaxed: Sequence[Any], **run: Unpack[Run]) -> dict[str, Any]:
    """Share of generated crystals that match what a relaxation makes of them, and their RMS displacement (PGCGM, Table
    2).

    The matcher is StructureMatcher(ltol=0.2, stol=0.2, angle_tol=0.5). The paper relaxed with BOWSR; name the relaxer
    beside these figures.

    Args:
        generated: pymatgen structures or ASE atoms.
        relaxed: each one's relaxed crystal, None or a failure where the relaxation failed.
        **run: see :class:`~autoperi.metrics.parallel.Run`.

    Returns:
        ``optimised``, the share that relaxed; ``match_rate``, of those; ``rms``, mean over the matched, in (V/N)^(1/3);
        ``values``, the RMS of each crystal or None; ``matcher``.

    Raises:
        RequestError: not one relaxed crystal for each. StructureError: something that is no crystal.
    """
    check_lengths("{} relaxed crystals for {} generated; give one for each, None where it failed", relaxed, generated)
    left = arrays_of(generated)
    right = arrays_of([Failure("not relaxed") if r is None else r for r in relaxed])
    limits = {"stol": STOL, "ltol": LTOL, "angle_tol": ANGLE_TOL}
    found = compare_pairs(left, right, [(i, i) for i in range(len(left))], tolerances=limits, **run)
    done = [not isinstance(r, Failure) for r in right]
    matched = [None if isinstance(r, Failure) else r is not None for r, ok in zip(found, done, strict=True) if ok]
    values = [r if isinstance(r, float) else None for r in found]
    return {
        "optimised": share(done),
        "match_rate": share(matched, missing="nothing was compared" if any(done) else "nothing was relaxed"),
        "rms": mean([v for v, ok in zip(values, done, strict=True) if ok], missing="nothing matches"),
        "values": values,
        "matcher": limits,
    }
