"""Where a given crystal lies in the prior: its prototype, and the probability the prior gives it."""

from __future__ import annotations

import numpy as np

from autoperi.prior.fingerprint import distances, fingerprints, slot_order, tie_permutations
from autoperi.prior.propose import Proposer, answers
from autoperi.symmetry.analysis import SymmetryInfo

MAX_FINGERPRINT_DISTANCE = 0.35
"""Fingerprint distance beyond which a crystal is of no known prototype: most pairs within it match."""


def log_probability_of(proposer: Proposer, info: SymmetryInfo) -> float | None:
    """ln p(prototype, assignment | composition, cell size) of a crystal, with all that match it; None where it is of no
    known prototype.

    Args:
        proposer: the prior.
        info: the crystal, analysed at :data:`~autoperi.symmetry.analysis.SYMPREC`.
    """
    elements, slots, counts = slot_order(info.primitive_numbers)
    bucket = proposer.bucket(counts)
    if bucket is None:
        return None
    (own,) = fingerprints([(info.primitive_lattice, info.primitive_frac_coords, slots)], [len(counts)])
    prints = proposer.prints(counts)
    apart, which = distances(own, prints, counts)
    k = int(apart.argmin())
    if apart[k] > MAX_FINGERPRINT_DISTANCE:
        return None
    # slot s of the prototype is slot p[s] of the crystal, and slot_order sorted the crystal's elements by slot
    p = tie_permutations(counts)[which[k]]
    assignments = [tuple(a) for a in bucket.assignments.tolist()]
    if p not in assignments:
        return None
    place = k * len(assignments) + assignments.index(p)
    found = answers(proposer.probabilities(bucket, [int(z) for z in elements])[0], bucket, bucket.n_decorations)
    mass = next((mass for _, mass, claimed in found if place in claimed), 1e-300)
    return round(float(np.log(max(mass, 1e-300))), 6)
