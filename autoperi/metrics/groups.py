"""Which of many crystals are the same, by pymatgen's StructureMatcher: the work behind uniqueness and novelty.

Each crystal is reduced once to the primitive Niggli cell that the matcher would make of it at every comparison. Only
crystals of one reduced composition and of primitive cells with as many atoms are compared; no other pair can match,
since the matcher maps site onto site.

Comparisons are spread over processes crystal by crystal, not composition by composition, so that a set of one
composition (Carbon-24) is as parallel as one of many. Crystals are taken in blocks: first each crystal of a block with
the kinds known before it, then those that are of none of them among themselves. A verdict of two crystals depends on
nothing else, so the groups are those of going one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, Unpack

from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.metrics.pairs import INLINE, Arrays, bounded_matcher, by_composition, check_reducible
from autoperi.metrics.parallel import Failure, Run, parallel_map
from autoperi.progress import progress_bar

Cells: TypeAlias = Mapping[int, Arrays | Failure]
"""Reduced primitive cells by the position of their crystal; a failure for one that cannot be reduced."""

_FIRST_BLOCK, _BLOCK = 8, 64
"""Crystals of one size that are compared among themselves at a time: few at first, while most are of a kind that is
new.
"""


def group_crystals(
    crystals: Sequence[Arrays | Failure], *, tolerances: dict[str, float], **run: Unpack[Run]
) -> list[int | None]:
    """For each crystal the position of the first of its group, its own where it is the first.

    Crystals are taken in order, and each joins the first group whose first member it matches, as in pymatgen's
    ``group_structures``.

    Args:
        crystals: arrays, failures for those that cannot be read.
        tolerances: ``stol``, ``ltol``, ``angle_tol``.
        **run: see :class:`~autoperi.metrics.parallel.Run`.

    Returns:
        None for a failure, and for a crystal of no group of which one comparison failed.
    """
    out: list[int | None] = [None] * len(crystals)
    several = []
    for members in by_composition(crystals).values():
        if len(members) == 1:  # nothing to compare with, nothing to reduce
            out[members[0]] = members[0]
        else:
            several.append(members)
    reduced = _reduce(crystals, [i for members in several for i in members], "reducing cells", **run)
    silent: Any = run | {"progress": False}
    groups = [_Group(same) for members in several for same in _by_size(members, reduced).values()]
    with progress_bar(
        sum(len(g.members) for g in groups), enabled=run.get("progress"), description="uniqueness", unit="crystal"
    ) as bar:
        while active := [g for g in groups if g.members]:
            blocks = [(g, g.next_block()) for g in active]
            against = [(i, g.firsts) for g, block in blocks for i in block if g.firsts]
            found = _compare(against, reduced, reduced, tolerances, **silent)
            rest = [(g, [i for i in block if not isinstance(found.get(i), int)]) for g, block in blocks]
            pairs = [(i, others[:k]) for _, others in rest for k, i in enumerate(others) if k]
            among = _compare(pairs, reduced, reduced, tolerances, every=True, **silent)
            for i, match in found.items():
                if isinstance(match, int):
                    out[i] = match
            for g, others in rest:
                new: list[int] = []
                for i in others:
                    verdicts = among.get(i, {})
                    first = next((j for j in new if verdicts[j] is True), None)
                    if first is not None:
                        out[i] = first
                    elif not isinstance(found.get(i), Failure) and not any(
                        isinstance(verdicts[j], Failure) for j in new
                    ):
                        out[i] = i
                        new.append(i)
                g.firsts += new
            bar.update(sum(len(block) for _, block in blocks))
    return out


def find_crystals(
    crystals: Sequence[Arrays | Failure],
    known: Sequence[Arrays | Failure],
    *,
    tolerances: dict[str, float],
    **run: Unpack[Run],
) -> list[int | Failure | None]:
    """For each crystal the position of the first known one that it matches, None where there is none.

    Arguments as in :func:`group_crystals`.

    Returns:
        A failure for a crystal that cannot be read, and for one without a match of which one comparison failed.
    """
    groups, known_groups = by_composition(crystals), by_composition(known)
    shared = [key for key in groups if key in known_groups]
    cells = _reduce(crystals, [i for key in shared for i in groups[key]], "reducing cells", **run)
    known_cells = _reduce(known, [j for key in shared for j in known_groups[key]], "reducing known cells", **run)
    out: list[int | Failure | None] = [crystal if isinstance(crystal, Failure) else None for crystal in crystals]
    against: list[tuple[int, list[int]]] = []
    for key in shared:
        by_size = _by_size(known_groups[key], known_cells)
        broken = next((cell for j in known_groups[key] if isinstance(cell := known_cells[j], Failure)), None)
        for i in groups[key]:
            cell = cells[i]
            out[i] = cell if isinstance(cell, Failure) else broken
            if not isinstance(cell, Failure) and len(cell[2]) in by_size:
                against.append((i, by_size[len(cell[2])]))
    for i, match in _compare(against, cells, known_cells, tolerances, description="novelty", **run).items():
        out[i] = out[i] if match is None else match
    return out


@dataclass
class _Group:
    """Crystals of one composition and one size of cell that are still to be told apart, and the first of each kind so
    far.
    """

    members: list[int]
    firsts: list[int] = field(default_factory=list)
    block: int = _FIRST_BLOCK

    def next_block(self) -> list[int]:
        out, self.members = self.members[: self.block], self.members[self.block :]
        self.block = min(2 * self.block, _BLOCK)
        return out


def _by_size(members: Iterable[int], cells: Cells) -> dict[int, list[int]]:
    """Members by the number of atoms of their reduced primitive cells, without those that have none."""
    out: dict[int, list[int]] = {}
    for i in members:
        cell = cells[i]
        if not isinstance(cell, Failure):
            out.setdefault(len(cell[2]), []).append(i)
    return out


def _reduce(
    crystals: Sequence[Arrays | Failure], members: Sequence[int], description: str, **run: Unpack[Run]
) -> Cells:
    how: dict[str, Any] = {"inline": INLINE, "description": description}
    return dict(zip(members, parallel_map(_reduced, [crystals[i] for i in members], **how, **run), strict=True))


def _reduced(crystal: Arrays) -> Arrays | Failure:
    """The reduced primitive cell that StructureMatcher would make of a crystal at each comparison."""
    (structure,) = arrays_to_structures([crystal])
    try:
        check_reducible(structure)
        return to_arrays(structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure())
    except Exception as error:  # a cell that Niggli's algorithm does not end on, and the like
        return Failure(str(error))


def _compare(
    tasks: Sequence[tuple[int, Sequence[int]]],
    cells: Cells,
    known: Cells,
    tolerances: Mapping[str, float],
    *,
    every: bool = False,
    description: str = "",
    **run: Unpack[Run],
) -> dict[int, Any]:
    """For each ``(crystal, candidates)`` the first candidate that matches, None, or a failure; all verdicts by
    candidate with ``every``.
    """
    items = [(cells[i], {j: known[j] for j in candidates}) for i, candidates in tasks]
    function = partial(_verdicts, tolerances=tolerances, every=every)
    found = parallel_map(function, items, inline=INLINE, description=description, **run)
    # where a crystal's comparisons failed together, each of them did
    results = [
        dict.fromkeys(js, r) if every and isinstance(r, Failure) else r for (_, js), r in zip(tasks, found, strict=True)
    ]
    return dict(zip([i for i, _ in tasks], results, strict=True))


def _verdicts(task: tuple[Arrays, Mapping[int, Arrays]], *, tolerances: Mapping[str, float], every: bool) -> Any:
    crystal, candidates = task
    judge, (structure,) = bounded_matcher(**tolerances), arrays_to_structures([crystal])
    verdicts: dict[int, bool | Failure] = {}
    for j, known in candidates.items():
        try:
            fits = judge.fit(*arrays_to_structures([known]), structure, skip_structure_reduction=True)
            verdicts[j] = bool(fits)
        except Exception as error:
            verdicts[j] = Failure(str(error))
        if verdicts[j] and not every:
            return j
    return verdicts if every else next((v for v in verdicts.values() if isinstance(v, Failure)), None)
