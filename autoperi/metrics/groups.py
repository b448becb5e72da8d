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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoperi.data.convert import arrays_to_structures, to_arrays
from autoperi.metrics._common import quiet
from autoperi.metrics.pairs import (
    Arrays,
    Job,
    Key,
    bounded_matcher,
    by_composition,
    check_reducible,
    run_jobs,
    structures_of,
)
from autoperi.metrics.parallel import Failure
from autoperi.progress import progress_bar

_FIRST_BLOCK, _BLOCK = 8, 64
"""Crystals of one size that are compared among themselves at a time: few at first, while most are of a kind that is
new.
"""
_JOB_COMPARISONS, _JOB_REDUCTIONS = 32, 4


def group_crystals(
    crystals: Sequence[Arrays | Failure],
    *,
    tolerances: dict[str, float],
    processes: int | None = None,
    progress: bool | None = None,
) -> list[int | None]:
    """For each crystal the position of the first of its group, its own where it is the first.

    Crystals are taken in order, and each joins the first group whose first member it matches, as in pymatgen's
    ``group_structures``.

    Args:
        crystals: arrays, failures for those that cannot be read.
        tolerances: ``stol``, ``ltol``, ``angle_tol``.
        processes, progress: as in :func:`~autoperi.metrics.parallel.parallel_map`; the result does not depend on
            ``processes``.

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
    work = _Work(crystals, tolerances, processes)
    reduced = work.reduce([i for members in several for i in members], progress, "reducing cells")
    groups = [_Group(same) for members in several for same in _by_size(members, reduced).values()]
    with progress_bar(
        sum(len(g.members) for g in groups), enabled=progress, description="uniqueness", unit="crystal"
    ) as bar:
        while active := [g for g in groups if g.members]:
            blocks = [(g, g.next_block()) for g in active]
            against = [(i, g.firsts) for g, block in blocks for i in block if g.firsts]
            found = dict(zip([i for i, _ in against], work.compare(against, reduced), strict=True))
            rest = [(g, [i for i in block if not isinstance(found.get(i), int)]) for g, block in blocks]
            pairs = [(i, others[:k]) for _, others in rest for k, i in enumerate(others) if k]
            among = dict(zip([i for i, _ in pairs], work.compare(pairs, reduced, every=True), strict=True))
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
    processes: int | None = None,
    progress: bool | None = None,
) -> list[int | Failure | None]:
    """For each crystal the position of the first known one that it matches, None where there is none.

    Arguments as in :func:`group_crystals`.

    Returns:
        A failure for a crystal that cannot be read, and for one without a match of which one comparison failed.
    """
    groups, known_groups = by_composition(crystals), by_composition(known)
    shared: list[Key] = [key for key in groups if key in known_groups]
    ours, theirs = _Work(crystals, tolerances, processes), _Work(known, tolerances, processes)
    cells = ours.reduce([i for key in shared for i in groups[key]], progress, "reducing cells")
    known_cells = theirs.reduce([j for key in shared for j in known_groups[key]], progress, "reducing known cells")
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
    results = ours.compare(against, cells, known_cells, progress=progress, description="novelty")
    for (i, _), match in zip(against, results, strict=True):
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


Cells = Mapping[int, Arrays | Failure]


@dataclass(frozen=True)
class _Work:
    crystals: Sequence[Arrays | Failure]
    tolerances: dict[str, float]
    processes: int | None

    def reduce(self, members: Sequence[int], progress: bool | None, description: str) -> dict[int, Arrays | Failure]:
        """Reduced primitive cells of ``members``; a failure for one that cannot be reduced."""
        parts = [members[k : k + _JOB_REDUCTIONS] for k in range(0, len(members), _JOB_REDUCTIONS)]
        jobs = [[self.crystals[i] for i in part] for part in parts]
        run: dict[str, Any] = {"processes": self.processes, "progress": progress, "description": description}
        return dict(zip(members, run_jobs(_reduce, parts, jobs, **run), strict=True))

    def compare(
        self,
        tasks: Sequence[tuple[int, Sequence[int]]],
        cells: Cells,
        known: Cells | None = None,
        *,
        every: bool = False,
        progress: bool | None = False,
        description: str = "",
    ) -> list[Any]:
        """For each ``(crystal, candidates)`` the first candidate that matches, None, or a failure; all verdicts by
        candidate with ``every``.
        """
        known = cells if known is None else known
        parts = list(_packed(tasks))
        jobs = [Job.of(cells, known, part, self.tolerances, every) for part in parts]
        run: dict[str, Any] = {"processes": self.processes, "progress": progress, "description": description}
        found = run_jobs(_compare, parts, jobs, **run)
        if every:  # of a job that failed, each comparison did
            pairs = zip(tasks, found, strict=True)
            return [dict.fromkeys(js, one) if isinstance(one, Failure) else one for (_, js), one in pairs]
        return found


def _packed(tasks: Iterable[tuple[int, Sequence[int]]]) -> Iterator[list[tuple[int, Sequence[int]]]]:
    """Tasks in jobs of some thirty comparisons each, so that a process that has one is busy for longer than it takes to
    send.
    """
    part: list[tuple[int, Sequence[int]]] = []
    size = 0
    for task in tasks:
        part.append(task)
        size += len(task[1])
        if size >= _JOB_COMPARISONS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _by_size(members: Iterable[int], cells: Cells) -> dict[int, list[int]]:
    """Members by the number of atoms of their reduced primitive cells, without those that have none."""
    out: dict[int, list[int]] = {}
    for i in members:
        cell = cells[i]
        if not isinstance(cell, Failure):
            out.setdefault(len(cell[2]), []).append(i)
    return out


def _reduce(crystals: Sequence[Arrays]) -> list[Arrays | Failure]:
    """The reduced primitive cells that StructureMatcher would make of the crystals at each comparison."""
    out: list[Arrays | Failure] = []
    with quiet():
        for structure in arrays_to_structures(crystals):
            try:
                check_reducible(structure)
                out.append(
                    to_arrays(structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure())
                )
            except Exception as error:  # a cell that Niggli's algorithm does not end on, and the like
                out.append(Failure(str(error)))
    return out


def _compare(job: Job) -> list[Any]:
    judge, left, right = bounded_matcher(**job.tolerances), structures_of(job.left), structures_of(job.right)
    out: list[Any] = []
    for i, candidates in job.tasks:
        verdicts: dict[int, bool | Failure] = {}
        result: Any = verdicts if job.every else None
        for j in candidates:
            verdicts[j] = _fits(judge, right[j], left[i])
            if not job.every and verdicts[j]:
                result = j
                break
            if not job.every and isinstance(verdicts[j], Failure):
                result = verdicts[j]
        out.append(result)
    return out


def _fits(judge: Any, known: Any, structure: Any) -> bool | Failure:
    try:
        return bool(judge.fit(known, structure, skip_structure_reduction=True))
    except Exception as error:
        return Failure(str(error))
