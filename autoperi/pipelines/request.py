"""What a user asks for: read once into numbers on which everything after it may rely, and refused before any work.

:class:`Request` declares each option of ``generate`` once: what it may be, what it is checked by, what the command line
calls it and how it is echoed. Each refusal is one line that names the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from autoperi.chemistry.formula import Formula, element_list, parse_formula, parse_sites
from autoperi.data.checks import whole_number
from autoperi.data.elements import symbol_of
from autoperi.data.random import check_seed
from autoperi.errors import RequestError
from autoperi.pipelines.cell_sizes import MAX_ATOMS, MAX_REQUESTED_ATOMS, formula_units
from autoperi.pipelines.contradictions import check_beside_sites, check_number_of_elements
from autoperi.pipelines.options import Flag, first_crystal, named_numbers, number_range, option, whole
from autoperi.pipelines.target import check_target
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from autoperi.pipelines.template import Template

MAX_SAMPLES, MAX_IN_MEMORY = 1_000_000_000, 1_000_000
"""Crystals that a stream gives at most, and those of a list."""
MAX_FINISH_STEPS = 10_000
MAX_STEPS = 10_000
_NO_PASSES = "is not a number of relaxation passes; give an integer from 0 to 20, or None"
_NO_STEPS = "is not a number of relaxation passes, 0 to 20, nor one of a sampler's steps; give one, or None"
RANKINGS = ("energy", "probability", "none")


# --- checks of one option -----------------------------------------------------------------------------------------


def _check_rank(rank: Any) -> str:
    if rank not in RANKINGS:
        raise RequestError(f"rank={rank!r} is not known; choose one of {', '.join(RANKINGS)}")
    return str(rank)


def _check_model(model: Any) -> str | None:
    if model is not None and not isinstance(model, str):
        raise RequestError(f"model={model!r} is not the name of a part of the model; give one, or leave it out")
    return model and model.replace("_", "-")


def _check_space_group(given: Any) -> int | None:
    from autoperi.symmetry.spacegroup import parse_space_group  # NumPy, which the command line starts without

    return None if given is None else parse_space_group(given)


def _symbols_of(numbers: Iterable[int] | None) -> list[str] | None:
    return None if numbers is None else [symbol_of(z) for z in sorted(numbers)]


# --- the request --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A checked request; make one with :func:`make_request`.

    Attributes:
        composition: atoms of each element in one reduced formula unit, or None for crystals of any composition.
        n: crystals wanted.
        space_group: 1..230 or None.
        sites: sites of each element, instead of a composition, or None.
        num_atoms: fewest and most atoms of the primitive cell.
        chemical_system: elements that must all be there and nothing else, or None.
        exclude_elements: elements that must not be there.
        num_elements: fewest and most distinct elements, or None.
        target: names of properties and what they should be.
        like: the crystal to be imitated, or None.
        model: a part of the model that generates alone, or None.
        steps: of the pipeline's process, or None for the model's default.
        finish: steps with the potential after that.
        rank: one of :data:`RANKINGS`.
        seed: of all randomness.
        units: admissible numbers of formula units in the cell; empty without a composition.
        asked: the composition as it was given, for messages.
    """

    composition: Formula | None = option(
        None,
        annotation="str | Composition | Mapping[str, float] | None",
        says='``"LiFePO4"``, a pymatgen ``Composition``, or None to draw compositions too (de novo).',
        check=lambda given: None if given is None else parse_formula(given),
        flag=Flag(
            "composition",
            "COMPOSITION",
            "a formula such as LiFePO4; without one, compositions are drawn too",
        ),
    )
    n: int = option(
        1,
        annotation="int",
        says="crystals wanted.",
        check=lambda n: whole_number(n, "n", most=MAX_SAMPLES),
        flag=Flag("-n", "N", "crystals wanted (default: 1)", type=whole),
    )
    space_group: int | None = option(
        None,
        annotation="int | str | None",
        says="number 1..230 or Hermann-Mauguin symbol; holds for every crystal at symprec 0.01 Å.",
        check=_check_space_group,
        flag=Flag("--space-group", "GROUP", "number 1 to 230 or symbol, e.g. 225 or Fm-3m; holds for every crystal"),
    )
    sites: Formula | None = option(
        None,
        annotation="str | Mapping[str, int] | None",
        says=(
            'sites that are not equivalent, by element, such as ``"NaCl2"``, instead of a composition; how many atoms '
            "each stands for is what comes out, within ``num_atoms``. Needs ``space_group``, and a generator of sites."
        ),
        check=lambda given: None if given is None else parse_sites(given),
        echo=lambda sites: None if sites is None else {symbol_of(z): count for z, count in sites},
        flag=Flag("--sites", "SITES", "non-equivalent sites by element, e.g. NaCl2, instead of a composition"),
    )
    num_atoms: tuple[int, int] = option(
        (1, MAX_ATOMS),
        annotation="int | tuple[int, int] | None",
        given=None,
        says="atoms in the primitive cell, a number or a (smallest, largest) pair.",
        check=lambda given: (1, MAX_ATOMS) if given is None else _range(given, "num_atoms", MAX_REQUESTED_ATOMS),
        echo=list,
        flag=Flag(
            "--num-atoms", "N_or_RANGE", "atoms in the primitive cell, e.g. 8 or 4-20", number_range("num_atoms")
        ),
    )
    chemical_system: frozenset[int] | None = option(
        None,
        annotation="str | Iterable[str] | None",
        says='``"Li-Fe-O"``: exactly these elements (de novo).',
        check=lambda given: None if given is None else frozenset(element_list(given, "chemical_system")),
        echo=_symbols_of,
        flag=Flag("--chemical-system", "ELEMENTS", "exactly these elements, e.g. Li-Fe-O"),
    )
    exclude_elements: frozenset[int] = option(
        frozenset(),
        annotation="str | Iterable[str]",
        given=(),
        says="elements that must not occur (de novo).",
        check=lambda given: frozenset(element_list(given, "exclude_elements")),
        echo=_symbols_of,
        flag=Flag("--exclude", "ELEMENTS", "elements that must not occur, e.g. Pb,Cd"),
    )
    num_elements: tuple[int, int] | None = option(
        None,
        annotation="int | tuple[int, int] | None",
        says="distinct elements, a number or a (fewest, most) pair (de novo).",
        check=lambda given: None if given is None else _range(given, "num_elements", MAX_ATOMIC_NUMBER),
        echo=lambda pair: None if pair is None else list(pair),
        flag=Flag(
            "--num-elements",
            "N_or_RANGE",
            "distinct elements, e.g. 3 or 2-4, of crystals without a composition",
            number_range("num_elements"),
        ),
    )
    like: Template | None = option(
        None,
        annotation="Structure | Atoms | None",
        says=(
            "a ``Structure`` or ``Atoms``: its space group and orbits, with the elements of ``composition`` on its "
            "places in every way that keeps numbers of atoms, likeliest first."
        ),
        echo=lambda like: None if like is None else {"space_group": like.number, "atoms": like.n_atoms},
        flag=Flag(
            "--like",
            "FILE",
            "a crystal whose space group and orbits are filled with the composition's elements",
            first_crystal,
        ),
    )
    target: tuple[tuple[str, float], ...] = option(
        (),
        annotation="Mapping[str, float] | None",
        given=None,
        says=(
            'such as ``{"band_gap": 1.5}``, of ``formation_energy, band_gap, bulk_modulus, shear_modulus, '
            "last_phonon_peak`` in the units of ``score``: ten times as many candidates are made, and those with the "
            'nearest predictions returned, which ``["target"]`` of the provenance tells.'
        ),
        check=lambda given: () if given is None else tuple(check_target(given).items()),
        echo=lambda pairs: dict(pairs) or None,
        flag=Flag(
            "--target",
            "NAME=VALUE",
            "a property to come near to, e.g. band_gap=1.5; may be repeated",
            named_numbers,
            repeated=True,
        ),
    )
    rank: str = option(
        "energy",
        annotation="str",
        says=(
            '``"energy"`` (energy of the potential and log-probability), ``"probability"`` or ``"none"`` (stream '
            "order). "
            "A model that predicts no energy ranks by probability and says so."
        ),
        check=_check_rank,
        flag=Flag("--rank", "BY", "energy, probability or none (default: energy)"),
    )
    steps: int | None = option(
        None,
        annotation="int | None",
        says=(
            "of the pipeline's process: lattice-relaxation passes of the prototype pipeline (0 leaves the cells that "
            "the flow gave), steps of a sampler's."
        ),
        check=lambda given: check_steps(given, most=MAX_STEPS, refusal=_NO_STEPS),
        flag=Flag(
            "--steps",
            "K",
            "lattice-relaxation passes, 0 to 20, or steps of a sampler (default: the model's)",
            type=whole,
        ),
    )
    finish: int = option(
        0,
        annotation="int",
        says=(
            "steps of positions and cell with the potential, inside the space group, for the crystals that are "
            "returned (``relax_lattice(positions=True, fix_symmetry=True)``). Neither their choice nor their order "
            "changes, and energies of the provenance but those of its ``relaxation`` are those before. Where it would "
            "break what was asked for, or fails, a crystal stays as it was."
        ),
        check=lambda given: whole_number(given, "finish", least=0, most=MAX_FINISH_STEPS),
        flag=Flag("--finish", "N", "steps of positions and cell with the potential (default: 0)", type=whole),
    )
    seed: int = option(
        0,
        annotation="int | None",
        given=None,
        says="of all randomness; None draws one, which the provenance records.",
        check=check_seed,
        flag=Flag("--seed", "S", "of all randomness (default: a fresh one, which is printed)", type=whole),
    )
    model: str | None = option(
        None,
        annotation="str | None",
        says=(
            'one part of the model alone: ``"autoperi-gnn"``, orbits of the network with geometries from noise (cells '
            'of up to 24 atoms, larger ones are refused; needs a composition), or ``"prior"``, structure types as they '
            "are. None is all of it."
        ),
        check=_check_model,
        flag=Flag(
            "--generator", "PART", "one part of the model alone: autoperi-gnn (no prototypes, from noise) or prior"
        ),
    )
    units: tuple[int, ...] = ()
    asked: Any = field(default=None, compare=False)

    @property
    def min_atoms(self) -> int:
        """Fewest atoms of the primitive cell."""
        return self.num_atoms[0]

    @property
    def max_atoms(self) -> int:
        """Most atoms of the primitive cell."""
        return self.num_atoms[1]

    @property
    def atoms_per_unit(self) -> int:
        """Atoms of one formula unit."""
        return sum(count for _, count in self.composition or ())

    def wanted(self) -> dict[str, Any]:
        """The options that ask for something, by name: those that differ from their default."""
        return {f.name: getattr(self, f.name) for f in _options() if getattr(self, f.name) != f.default}

    def echo(self) -> dict[str, Any]:
        """The request in plain JSON that repeats it; ``model`` is called ``generator``, as on the command line."""
        found = {f.name: f.metadata["echo"](getattr(self, f.name)) for f in _options()}
        generator = found.pop("model")
        return {**found, "composition": None if self.asked is None else str(self.asked), "generator": generator}


@dataclass(frozen=True)
class RunOptions:
    """How a request is answered: nothing of it changes a crystal."""

    batch_size: int | str = option(
        "auto",
        annotation="int | str",
        says='candidates worked on together, or ``"auto"``; never changes a result.',
    )
    strict: bool = option(
        True,
        annotation="bool",
        says="raise where fewer than ``n`` crystals can be had; False returns those with a warning.",
        flag=Flag("--no-strict", help="accept fewer crystals than asked for, with a warning", negates=True),
    )
    progress: bool | None = option(None, annotation="bool | None", says="show a bar; None shows it on a terminal.")
    callback: Callable[[Any], None] | None = option(
        None,
        annotation="Callable[[Structure], None] | None",
        says=(
            'called with each crystal as it passes the checks, before ranking and ``finish``; with ``rank="energy"`` '
            "more are finished than returned."
        ),
    )
    as_ase: bool = option(False, annotation="bool", says="return ASE ``Atoms``.")


def _options() -> list[Any]:
    return [f for f in fields(Request) if "says" in f.metadata]


def make_request(composition: Any = None, **options: Any) -> Request:
    """Check everything that can be checked without a model.

    Args:
        composition: as in ``generate``; or a :class:`Request`, which is given back.
        **options: of :class:`Request`.

    Raises:
        RequestError: naming the value and the remedy. TypeError: an unknown option.
    """
    if isinstance(composition, Request):
        if options:
            raise RequestError(
                f"{', '.join(options)} cannot be given beside a Request, which says it already; leave it out"
            )
        if composition.composition is not None and not composition.units:
            raise RequestError(f"{composition!r} has not been checked; make a request with make_request")
        return composition
    given = {"composition": composition, **options}
    unknown = set(given) - {f.name for f in _options()}
    if unknown:
        raise TypeError(f"a request has no option {sorted(unknown)[0]!r}")
    # a formula is read after what is quicker to refuse
    order = sorted(_options(), key=lambda f: f.name == "composition")
    values = {
        f.name: f.metadata["check"](given.get(f.name, f.metadata["default"])) for f in order if f.metadata["check"]
    }
    request = Request(**values, asked=composition)
    system, excluded = request.chemical_system, request.exclude_elements
    if system is not None and not system:
        raise RequestError(f"chemical_system={given['chemical_system']!r} names no element; give one such as 'Li-Fe-O'")
    if system and system & excluded:
        both = ", ".join(sorted(symbol_of(z) for z in system & excluded))
        raise RequestError(f"{both} is both in chemical_system and in exclude_elements; drop it from one of them")
    if request.sites is not None:
        check_beside_sites(request, given["sites"], given.get("num_atoms"))
    if request.num_elements is not None:
        check_number_of_elements(request, given["num_elements"])
    if request.composition is not None:
        request = replace(request, units=formula_units(request, given.get("num_atoms")))
    like = given.get("like")
    return request if like is None else _with_template(request, like)


def _with_template(request: Request, like: Any) -> Request:
    """The request with its template, and the template's number of formula units alone."""
    if request.composition is None:
        raise RequestError(
            "like needs a composition, whose elements take the places of the crystal's own; give one such as 'KCl'"
        )
    # reads crystals, which takes torch: a bad formula is refused without it
    from autoperi.pipelines.template import check_like, template_of

    template = template_of(like)
    count = check_like(template, request.composition, request.asked)
    if request.space_group is not None and request.space_group != template.number:
        raise RequestError(
            f"like is a crystal of space group {template.number}, not {request.space_group}; drop space_group"
        )
    if count not in request.units:
        raise RequestError(
            f"like has {template.n_atoms} atoms in its primitive cell, which num_atoms excludes; drop num_atoms"
        )
    return replace(request, like=template, units=(count,))


def check_steps(steps: Any, *, most: int = 20, refusal: str = _NO_PASSES) -> int | None:
    """``steps`` if it is None or a number of relaxation passes, or of what ``most`` and ``refusal`` say.

    Raises:
        RequestError: it is neither.
    """
    if steps is None:
        return None
    return whole_number(steps, "steps", least=0, most=most, refusal=refusal)


def _range(value: Any, name: str, most: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, Integral) for v in pair) or pair[0] > pair[1]:
        raise RequestError(f"{name}={value!r} is not a size or an ascending (smallest, largest) pair")
    low, high = (whole_number(v, name, most=most) for v in pair)
    return low, high
