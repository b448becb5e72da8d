"""How many formula units a cell may hold, and how likely each number is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autoperi.errors import RequestError
from autoperi.pipelines.contradictions import check_elements

if TYPE_CHECKING:
    from autoperi.pipelines.request import Request
    from autoperi.prior.propose import Proposer

MAX_ATOMS = 60
"""Largest primitive cell that is proposed where ``num_atoms`` says nothing: the largest the prior was trained on."""
MAX_REQUESTED_ATOMS = 1000


def formula_units(request: Request, num_atoms: Any) -> tuple[int, ...]:
    """Numbers of formula units whose cells the request admits.

    Raises:
        RequestError: there is none, or the elements contradict another option; ``num_atoms`` is what was given.
    """
    formula, composition, group = request.composition or (), request.asked, request.space_group
    low, high = request.num_atoms
    check_elements(request, f"composition={composition!s}", {z for z, _ in formula})
    size = sum(c for _, c in formula)
    units = tuple(k for k in range(1, high // size + 1) if low <= k * size <= high)
    if not units:
        if size > MAX_REQUESTED_ATOMS:
            raise RequestError(
                f"composition={composition!s} has {size} atoms per formula unit; a cell may have up to "
                f"{MAX_REQUESTED_ATOMS}"
            )
        if num_atoms is None:
            raise RequestError(
                f"composition={composition!s} has {size} atoms per formula unit, more than the default limit of "
                f"{MAX_ATOMS}; pass num_atoms={size}"
            )
        nearest = max(1, round(low / size)) * size
        raise RequestError(
            f"num_atoms={num_atoms!r} fits no whole formula units of {composition!s} ({size} atoms each); use "
            f"{nearest} or another multiple of {size}"
        )
    if group is not None:
        from autoperi.symmetry.spacegroup import space_group  # NumPy, which a wrong formula is refused without
        from autoperi.symmetry.wyckoff import can_fit

        counts = [c for _, c in formula]
        fitting = tuple(k for k in units if can_fit([k * c for c in counts], group))
        if not fitting:
            name = f"{space_group(group).symbol} ({group})"
            raise RequestError(
                f"space group {name} has no Wyckoff positions that hold {composition!s} in a primitive cell of {low} "
                f"to {high} atoms; choose another space group or a larger num_atoms"
            )
        units = fitting
    return units


def cell_size_log_probabilities(request: Request, proposer: Proposer) -> dict[int, float]:
    """ln p(Z | composition) over the admissible numbers of formula units, from how much the library knows at each."""
    elements, base = [z for z, _ in request.composition or ()], [c for _, c in request.composition or ()]
    cells = {k: [k * c for c in base] for k in request.units}
    support = {k: proposer.support(elements, counts) for k, counts in cells.items()}
    total = sum(support.values())
    known = {k: proposer.known(elements, counts) for k, counts in cells.items()}
    weight = proposer.known_weight if sum(known.values()) else 0.0
    p = (
        {k: (1 - weight) * support[k] / total + weight * known[k] / max(1, sum(known.values())) for k in cells}
        if total
        else {}
    )
    return {k: math.log(v) for k, v in p.items() if v > 0}
