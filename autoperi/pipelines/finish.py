"""``generate(finish=N)``: chosen crystals go on to N steps of positions and cell with the potential, as far as what was
promised of them stays true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from autoperi.data.containers import with_geometry
from autoperi.data.convert import to_arrays, to_batch
from autoperi.errors import GenerationInterrupted, RelaxationInterrupted, StructureError
from autoperi.geometry.distances import MIN_DISTANCE_RATIO, minimum_distance_ratios
from autoperi.relax.lattice import FAILED
from autoperi.symmetry.analysis import analyse

if TYPE_CHECKING:
    from pymatgen.core import Structure

REFUSED = "refused"
"""Status of a crystal that comes back as it was because relaxing it broke what had been promised."""


def finish(
    made: Sequence[Structure], relax: Callable[[list[Structure]], list[Structure]], *, wanted: int, symprec: float
) -> list[Structure]:
    """Generated crystals after ``relax``, in the same order.

    Args:
        made: of ``generate``, with their provenance.
        relax: gives each crystal relaxed, with its note of the relaxation.
        wanted: how many were asked of ``generate``.
        symprec: Å, at which space groups are promised.

    Returns:
        Relaxed crystals; one that failed, or whose space group, cell size or least distance would no longer be what it
        was returned for, as it was, its note saying why.

    Raises:
        GenerationInterrupted: Ctrl-C; it holds all crystals, those that were not relaxed yet as they were.
    """
    try:
        return [_kept(*pair, symprec) for pair in zip(made, relax(list(made)), strict=True)]
    except RelaxationInterrupted as stop:
        done = [_kept(*pair, symprec) for pair in zip(made, stop.finished, strict=False)]
        raise GenerationInterrupted([*done, *made[len(done) :]], wanted) from None


def _kept(before: Structure, after: Structure, symprec: float) -> Structure:
    note = after.properties["autoperi"]["relaxation"]
    if note["status"] in FAILED:
        return after
    with torch.no_grad():
        ratio = float(minimum_distance_ratios(to_batch([after]))[0])
    reason = _broken(before, after, ratio, symprec)
    if reason:
        return with_geometry(before, relaxation={**note, "status": REFUSED, "reason": reason})
    after.properties["autoperi"]["min_distance_ratio"] = round(ratio, 4)
    return after


def _broken(before: Structure, after: Structure, ratio: float, symprec: float) -> str:
    """What of the promises ``after`` breaks; nothing if it keeps them."""
    if ratio < MIN_DISTANCE_RATIO:
        return "atoms came too close"
    group = before.properties["autoperi"]["space_group"]
    try:
        found = analyse(*to_arrays(after), symprec=symprec)
    except StructureError:
        return "no space group was found"
    if len(found.primitive_numbers) != len(before):
        return f"it became a crystal of {len(found.primitive_numbers)} atoms"
    return "" if found.number == group else f"it became a crystal of space group {found.number}"
