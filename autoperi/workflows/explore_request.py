"""What is asked of an exploration: a chemical system, its compositions, and how they are generated and judged.

:class:`ExploreRequest` declares each option once, as :class:`~autoperi.pipelines.request.Request` does, and takes from
it those that mean the same there.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from autoperi.chemistry.formula import Formula, element_list, parse_formula
from autoperi.data.checks import whole_number
from autoperi.data.elements import symbol_of
from autoperi.data.random import check_seed
from autoperi.errors import RequestError
from autoperi.pipelines.cell_sizes import MAX_REQUESTED_ATOMS
from autoperi.pipelines.options import Flag, number_range, option, option_of, options_of, whole
from autoperi.pipelines.request import MAX_FINISH_STEPS, MAX_IN_MEMORY, Request

MAX_ELEMENTS = 4
"""Elements of a system: a hull of more cannot be drawn, and has too many ratios to try."""
MAX_COMPOSITIONS = 5000
DEFAULT_CELL = 16
"""Atoms of the largest primitive cell where nothing is said."""
DEFAULT_FORMULA = {1: 1, 2: 10, 3: 7, 4: 6}
"""Atoms of the largest formula unit where nothing is said, by the number of elements: there are 33, 88 and 161
compositions of two, three and four elements.
"""
DEFAULT_CRYSTALS = {1: 20, 2: 10, 3: 5, 4: 3}
"""Crystals of a composition where nothing is said, by the number of elements."""
DEFAULT_STEPS = 200
IN_MEMORY = "given in Python"
"""What the echo says of known crystals that no file holds."""


def _system(given: Any) -> tuple[int, ...]:
    if given is None:
        raise RequestError("no chemical system is given; name one to four elements, such as 'Li-Fe-O'")
    elements = tuple(dict.fromkeys(element_list(given, "system")))
    if not 1 <= len(elements) <= MAX_ELEMENTS:
        raise RequestError(
            f"system={given!r} has {len(elements)} elements; give one to four, such as 'Li-Fe-O', and explore a larger "
            "system by its parts"
        )
    return elements


def _cells(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    pair = tuple(given) if isinstance(given, (tuple, list)) else (1, given)
    if len(pair) != 2:
        raise RequestError(f"num_atoms={given!r} is not a size or a (smallest, largest) pair")
    low, high = (whole_number(v, "num_atoms", most=MAX_REQUESTED_ATOMS) for v in pair)
    if low > high:
        raise RequestError(f"num_atoms={given!r} descends; give the smallest cell first")
    return low, high


def _formulas(given: Any) -> tuple[Formula, ...] | None:
    if given is None:
        return None
    items = [part for part in re.split(r"[,;\s]+", given) if part] if isinstance(given, str) else given
    if not isinstance(items, Iterable) or isinstance(items, Mapping) or hasattr(items, "get_el_amt_dict"):
        items = [items]
    found = tuple(dict.fromkeys(parse_formula(item) for item in items))
    if not found:
        raise RequestError(f"compositions={given!r} is empty; give formulas such as 'Li2O,Li2O2', or leave it out")
    return found


def _judge(given: Any) -> Any:
    if given is not None and not hasattr(given, "provenance") and not isinstance(given, (str, os.PathLike)):
        raise RequestError(f"judge={given!r} is not a model; give its name, its directory, or one that is loaded")
    return given


@dataclass(frozen=True)
class ExploreRequest:
    """A checked exploration; make one with :func:`make_exploration`.

    Attributes:
        system: atomic numbers of the elements, in the order in which they were given.
        compositions: to be generated, in order, the elements first; each once.
        num_atoms: fewest and most atoms of the primitive cell.
        formula_atoms: most atoms of a formula unit; None where compositions were given.
        n: crystals of a composition.
        relax: most FIRE steps of positions and cell with the judge's potential.
        judge: model whose potential gives all energies, or None.
        known: crystals that are known, as they were given, or None.
        rank, steps, model: as in :class:`~autoperi.pipelines.request.Request`.
        seed: of all randomness.
    """

    system: tuple[int, ...] = option(
        annotation="str | Iterable[str]",
        says='``"Li-Fe-O"``: one to four elements.',
        given=None,
        check=_system,
        echo=lambda system: "-".join(map(symbol_of, system)),
        flag=Flag("system", "SYSTEM", "one to four elements, e.g. Li-Fe-O"),
    )
    compositions: tuple[Formula, ...] = option(
        (),
        annotation="str | Iterable[str | Composition] | None",
        given=None,
        says=(
            "formulas of the system; by default all ratios whose formula unit fits. The elements are always among "
            "them, because a hull needs them."
        ),
        check=_formulas,
        echo=lambda formulas: [formula_text(formula) for formula in formulas],
        flag=Flag("--compositions", "FORMULAS", "e.g. Li2O,Li2O2 (default: all ratios that fit)"),
    )
    num_atoms: tuple[int, int] = option(
        (1, DEFAULT_CELL),
        annotation="int | tuple[int, int] | None",
        given=None,
        says=f"atoms of the largest primitive cell, or a (smallest, largest) pair; by default {DEFAULT_CELL}.",
        check=_cells,
        echo=list,
        flag=Flag(
            "--num-atoms",
            "N_or_RANGE",
            f"atoms of the largest primitive cell, or a range, e.g. 4-20 (default: {DEFAULT_CELL})",
            number_range("num_atoms"),
        ),
    )
    formula_atoms: int | None = option(
        None,
        annotation="int | None",
        says=(
            "atoms of the largest formula unit, where ``compositions`` says nothing; by default as many as the cell "
            "may have that ``num_atoms`` names, and without it 10, 7 and 6 for two, three and four elements."
        ),
        check=lambda given: None if given is None else whole_number(given, "formula_atoms", most=MAX_REQUESTED_ATOMS),
        flag=Flag(
            "--formula-atoms",
            "N",
            "atoms of the largest formula unit (default: what --num-atoms allows; else 10, 7, 6 for 2, 3, 4 elements)",
            type=whole,
        ),
    )
    n: int = option(
        0,
        annotation="int | None",
        given=None,
        says="crystals of each composition; by default 20, 10, 5 and 3 for one, two, three and four elements.",
        check=lambda given: None if given is None else whole_number(given, "n", most=MAX_IN_MEMORY),
        flag=Flag("-n", "N", "crystals of each composition (default: 20, 10, 5, 3 for 1 to 4 elements)", type=whole),
    )
    relax: int = option(
        DEFAULT_STEPS,
        annotation="int",
        says=(
            "most steps of positions and cell (FIRE) with the judge's potential; 0 leaves the crystals as they were "
            "generated."
        ),
        check=lambda given: whole_number(given, "relax", least=0, most=MAX_FINISH_STEPS),
        flag=Flag(
            "--relax",
            "N",
            f"most steps with the judge's potential (default: {DEFAULT_STEPS})",
            type=whole,
        ),
    )
    judge: Any = option(
        None,
        annotation="str | PathLike | AutoPeri | None",
        says=(
            "the model whose potential gives all energies: a name, a directory, or one that is loaded; by default the "
            "model itself, and ``autoperi-base`` where it has no potential."
        ),
        check=_judge,
        echo=lambda judge: None if judge is None else getattr(getattr(judge, "bundle", None), "name", str(judge)),
        flag=Flag(
            "--judge", "NAME_OR_DIR", "model whose potential gives all energies (default: the model, or autoperi-base)"
        ),
    )
    known: Any = option(
        None,
        annotation="str | PathLike | Iterable[Structure | Atoms | ComputedStructureEntry] | None",
        says=(
            "crystals that are known: a file of them, a file of pymatgen entries with structures, or a list. The judge "
            "relaxes them as it does the others, and their own energies are not used."
        ),
        check=lambda given: os.fspath(given) if isinstance(given, os.PathLike) else given,
        echo=lambda known: known if known is None or isinstance(known, str) else IN_MEMORY,
        flag=Flag("--known", "FILE", "known crystals, or entries with structures; the judge gives their energies"),
    )
    rank: str = option_of(Request, "rank")
    steps: int | None = option_of(Request, "steps")
    model: str | None = option_of(Request, "model")
    seed: int = option(
        0,
        annotation="int | None",
        given=None,
        says="of all randomness; None draws one, which the output names.",
        check=check_seed,
        flag=Flag("--seed", "S", "of all randomness (default: a fresh one, which is printed)", type=whole),
    )

    def echo(self) -> dict[str, Any]:
        """The request in plain JSON that repeats it; ``model`` is called ``generator``, as on the command line."""
        found = {f.name: f.metadata["echo"](getattr(self, f.name)) for f in options_of(type(self))}
        return {"generator" if name == "model" else name: value for name, value in found.items()}


@dataclass(frozen=True)
class ExploreOptions:
    """How a system is explored: nothing of it changes a crystal."""

    out: Any = option(
        None,
        annotation="str | PathLike | None",
        says=(
            "a folder for all that is found; each composition is kept there as soon as it is done. None writes nothing."
        ),
        flag=Flag("--out", "DIR", "a folder for all that is found; each composition is kept as soon as it is done"),
    )
    resume: bool = option(
        False,
        annotation="bool",
        says="go on with the run in ``out``, with its settings.",
        flag=Flag("--resume", help="go on with the run in DIR, with its settings", switch=True),
    )
    batch_size: int | str = option(
        "auto", annotation="int | str", says='crystals worked on together, or ``"auto"``; never changes a result.'
    )
    progress: bool | None = option(None, annotation="bool | None", says="show a bar; None shows it on a terminal.")


def make_exploration(system: Any = None, **options: Any) -> ExploreRequest:
    """Check everything that can be checked without a model.

    Args:
        system: one to four elements.
        **options: of :class:`ExploreRequest`; None is the default.

    Raises:
        RequestError: naming the value and the remedy. TypeError: an unknown option.
    """
    given = {"system": system, **options}
    known = {f.name: f for f in options_of(ExploreRequest)}
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(f"an exploration has no option {unknown[0]!r}")
    values: dict[str, Any] = {}
    for name, own in known.items():
        value, check = given.get(name, own.metadata["default"]), own.metadata["check"]
        values[name] = value if check is None else check(value)
    elements, cells, formulas = values["system"], values["num_atoms"], values["compositions"]
    values["n"] = DEFAULT_CRYSTALS[len(elements)] if values["n"] is None else values["n"]
    values["num_atoms"] = low, high = cells or (1, DEFAULT_CELL)
    if formulas is None:
        most = values["formula_atoms"] or (DEFAULT_FORMULA[len(elements)] if cells is None else high)
        values["formula_atoms"] = most
        if most > high:
            raise RequestError(
                f"formula_atoms={most} does not fit cells of at most {high} atoms; lower it, or raise num_atoms"
            )
        formulas = _fitting(elements, most, low, high, given)
    elif values["formula_atoms"] is not None:
        raise RequestError("formula_atoms and compositions both say what to generate; drop one of them")
    else:
        _check_formulas(formulas, elements, low, high)
    alone = tuple(((z, 1),) for z in elements)
    values["compositions"] = tuple(dict.fromkeys((*alone, *formulas)))
    return ExploreRequest(**values)


def _fitting(elements: Sequence[int], most: int, low: int, high: int, given: dict[str, Any]) -> tuple[Formula, ...]:
    found = []
    for formula in formulas_of(elements, most):
        size = sum(count for _, count in formula)
        if size * (high // size) >= low:  # some number of formula units lies in the range
            found.append(formula)
        if len(found) > MAX_COMPOSITIONS:
            raise RequestError(
                f"{given['system']!s} has more than {MAX_COMPOSITIONS} compositions of at most {most} atoms; give a "
                "smaller formula_atoms, or a list of compositions"
            )
    return tuple(found)


def _check_formulas(formulas: Sequence[Formula], elements: Sequence[int], low: int, high: int) -> None:
    for formula in formulas:
        text, size = formula_text(formula), sum(count for _, count in formula)
        if foreign := [symbol_of(z) for z, _ in formula if z not in elements]:
            raise RequestError(
                f"compositions: {text} has {', '.join(foreign)}, which {'-'.join(map(symbol_of, elements))} has not; "
                "leave it out, or explore a larger system"
            )
        if size * (high // size) < low:
            raise RequestError(
                f"compositions: no cell of {low} to {high} atoms holds whole formula units of {text} ({size} atoms "
                "each); change num_atoms, or leave it out"
            )


def formulas_of(elements: Sequence[int], most: int) -> Iterator[Formula]:
    """Every ratio of some of the elements whose formula unit has at most ``most`` atoms, each once.

    Fewer elements come first, then smaller formula units, then more of the elements that were named first.
    """
    for k in range(1, len(elements) + 1):
        parts = list(combinations(elements, k))
        for size in range(k, most + 1):
            for chosen in parts:
                for counts in _counts(size, k):
                    if math.gcd(*counts) == 1:
                        yield tuple(sorted(zip(chosen, counts, strict=True)))


def _counts(size: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``size`` as a sum of ``parts`` positive numbers, in order; the first falls slowest."""
    if parts == 1:
        yield (size,)
        return
    for first in range(size - parts + 1, 0, -1):
        for rest in _counts(size - first, parts - 1):
            yield (first, *rest)


def formula_text(formula: Formula) -> str:
    """The formula as pymatgen writes it: ``Li2O2`` for one lithium and one oxygen, ``O2`` for oxygen."""
    import warnings

    from pymatgen.core import Composition

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen has no electronegativity of helium to order a formula by
        return str(Composition({symbol_of(z): count for z, count in formula}).reduced_formula)


__all__ = ["ExploreOptions", "ExploreRequest", "formula_text", "formulas_of", "make_exploration"]
