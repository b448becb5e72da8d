"""The stream of candidates of a request: what is tried, in which order.

Position ``index`` of the stream depends on the request and ``(seed, index)`` alone. For a composition it holds, first,
distinct prototypes, and orbits of the orbit network that no prototype has, by probability; then the prototypes that
match one already given; then, endlessly, crystals with random orbits and coordinates in the requested (or a random
likely) space group. Without a composition it is a sequence of draws that do not repeat one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autoperi.data.random import numpy_generator
from autoperi.errors import RequestError
from autoperi.pipelines.base import Candidate
from autoperi.pipelines.cell_sizes import MAX_ATOMS, cell_size_log_probabilities
from autoperi.pipelines.mixture import MAX_NEW_ATOMS, Mixture, NewOrbits
from autoperi.pipelines.request import Request
from autoperi.pipelines.template import Template, cell_of, fillings
from autoperi.prior.denovo import Constraints, DeNovo
from autoperi.prior.propose import Decoration, Proposer
from autoperi.prior.wyckoff_sampler import sample_crystal
from autoperi.symmetry.freedom import Orbit, equal_edges
from autoperi.symmetry.spacegroup import SpaceGroup
from autoperi.symmetry.spacegroup import space_group as group_of
from autoperi.symmetry.wyckoff import GENERIC, can_fit, wyckoff_positions

MAX_ANSWERS = 512
"""Distinct answers looked at per cell size. Fixed, so that the stream does not depend on how much of it is read."""
MAX_EMPTY_DRAWS = 50
"""Indices in a row that yield nothing, after which a stream without a composition ends: a narrow request has only so
many crystals.
"""
RANDOM_ATTEMPTS = 20
MAX_NATS_BELOW_LIKELIEST_SIZE = 4.0
"""Nats below the likeliest cell size from which the orbit network is not asked."""
MAX_UNKNOWN_SIZES = 4
"""Cell sizes that are tried where no prototype says which."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OrbitCandidate(Candidate):
    """A candidate that knows its orbits.

    Attributes:
        orbits: which orbit each atom is of, ``[n]``.
        prototype: row of the library, or None.
        sites: its orbits with their parameters, where they are known; of ``new`` orbits these are yet to be drawn.
        new: the geometry is still to be drawn: lattice and coordinates hold its place.
    """

    group: SpaceGroup
    orbits: np.ndarray
    prototype: int | None = None
    sites: tuple[Orbit, ...] | None = None
    new: bool = False


def candidates(request: Request, mixture: Mixture) -> Iterator[OrbitCandidate | None]:
    """The stream; None where an index yields nothing. It is endless where random crystals can always be tried."""
    if request.composition is None:
        yield from _de_novo(request, mixture.proposer)
    elif request.like is not None:
        yield from _alike(request, request.like, mixture)
    else:
        yield from _for_composition(request, mixture)


def _from_decoration(
    proposer: Proposer, decoration: Decoration, index: int, log_p: float | None, origin: str
) -> OrbitCandidate:
    lattice, coords, numbers, orbits = proposer.crystal(decoration)
    group = group_of(int(proposer.library["space_group"][decoration.prototype])).primitive
    sites = tuple(Orbit(decoration.elements[k], p, s) for k, p, s in proposer.library.sites(decoration.prototype))
    return OrbitCandidate(
        index,
        lattice,
        coords,
        numbers,
        log_p,
        origin,
        group=group,
        orbits=orbits,
        prototype=decoration.prototype,
        sites=sites,
    )


def _from_orbits(proposer: Proposer, new: NewOrbits, index: int, log_p: float) -> OrbitCandidate:
    """Orbits of the network, in the group's cell of equal edges and additive volume, at parameters that nothing depends
    on.
    """
    positions = wyckoff_positions(new.space_group)
    sites = tuple(
        Orbit(z, positions[letter], GENERIC)
        for z, letters in zip(new.elements, new.sentence, strict=True)
        for letter in letters
    )
    coords, numbers, orbits = cell_of(sites)
    volume = proposer.library.additive_volume(numbers.tolist(), [1] * len(numbers))
    lattice = equal_edges(new.space_group) * volume ** (1 / 3)
    group = group_of(new.space_group).primitive
    return OrbitCandidate(
        index, lattice, coords, numbers, log_p, "orbits", group=group, orbits=orbits, sites=sites, new=True
    )


def _alike(request: Request, template: Template, mixture: Mixture) -> Iterator[OrbitCandidate]:
    """The template's orbits with the elements of the composition in every way that keeps numbers of atoms, at the new
    elements' volume.
    """
    content = {z: request.units[0] * c for z, c in request.composition or ()}
    volumes = mixture.proposer.library.additive_volume
    ratio = volumes(list(content), list(content.values())) / volumes(
        list(template.content), list(template.content.values())
    )
    group = group_of(template.number).primitive
    for index, (orbits, log_p) in enumerate(fillings(template, content, mixture.network)):
        coords, numbers, places = cell_of(orbits)
        lattice = template.lattice * ratio ** (1 / 3)
        yield OrbitCandidate(
            index, lattice, coords, numbers, log_p, "like", group=group, orbits=places, sites=tuple(orbits)
        )


def _for_composition(request: Request, mixture: Mixture) -> Iterator[OrbitCandidate | None]:
    proposer = mixture.proposer
    formula = request.composition or ()
    elements, base = [z for z, _ in formula], [c for _, c in formula]
    sizes = cell_size_log_probabilities(request, proposer)
    answers: list[tuple[float, int, Decoration | NewOrbits]] = []
    sizes_asked = sizes or _unknown_sizes(request, mixture)
    for k, log_size in sizes_asked.items():
        likely = log_size > max(sizes_asked.values()) - MAX_NATS_BELOW_LIKELIEST_SIZE
        options = mixture.answers(
            elements, [k * c for c in base], limit=MAX_ANSWERS, space_group=request.space_group, asked=likely
        )
        answers += [(round(log_size + a.log_p, 9), k, a) for a in options]
    if request.space_group is not None and answers:
        # what a given group leaves is all there is: its probabilities are made to add up to one
        norm = math.log(sum(math.exp(a[0]) for a in answers))
        answers = [(round(log_p - norm, 9), k, c) for log_p, k, c in answers]
    answers.sort(key=lambda a: (-a[0], a[1]))
    given = set()
    index = 0
    for log_p, _, answer in answers:
        if isinstance(answer, NewOrbits):
            yield _from_orbits(proposer, answer, index, log_p)
        else:
            given.add((answer.prototype, answer.elements))
            yield _from_decoration(proposer, answer, index, log_p, "prototype")
        index += 1
    variants: list[tuple[float, int, Decoration]] = []
    for k, log_size in sizes.items():
        found = mixture.variants(elements, [k * c for c in base], limit=MAX_ANSWERS, space_group=request.space_group)
        variants += [(round(log_size + c.log_p, 9), k, c) for c in found if (c.prototype, c.elements) not in given]
    variants.sort(key=lambda a: (-a[0], a[1]))
    for log_p, _, candidate in variants:
        yield _from_decoration(proposer, candidate, index, log_p, "prototype variant")
        index += 1
    groups = _likely_groups(request, proposer)
    while True:
        yield _random(request, proposer, groups, index)
        index += 1


def _unknown_sizes(request: Request, mixture: Mixture) -> dict[int, float]:
    """ln p of the smallest cells, alike, where the prior knows none at any size and the orbit network is asked
    alone.
    """
    small = [k for k in request.units if k * request.atoms_per_unit <= MAX_NEW_ATOMS]
    few = small[:MAX_UNKNOWN_SIZES] if mixture.network is not None else []
    return dict.fromkeys(few, -math.log(max(1, len(few))))


def _likely_groups(request: Request, proposer: Proposer) -> list[tuple[int, int, float]]:
    """(formula units, space group, weight) that can hold the composition, weighted by how common the group is."""
    weight = (
        np.bincount(proposer.library["space_group"], weights=np.diff(proposer.library["member_start"]), minlength=231)
        + 1.0
    )
    groups = [request.space_group] if request.space_group is not None else list(range(1, 231))
    base = [c for _, c in request.composition or ()]
    # beyond a few formula units, random coordinates almost never keep atoms apart: prefer small cells
    units = request.units[:MAX_UNKNOWN_SIZES]
    return [(k, g, float(weight[g]) / k) for k in units for g in groups if can_fit([k * c for c in base], g)]


def _random(
    request: Request, proposer: Proposer, groups: list[tuple[int, int, float]], index: int
) -> OrbitCandidate | None:
    generator = numpy_generator(request.seed, index)
    p = np.array([w for _, _, w in groups])
    k, number, _ = groups[int(generator.choice(len(groups), p=p / p.sum()))]
    content = {z: k * c for z, c in request.composition or ()}
    volume = proposer.library.additive_volume(list(content), list(content.values()))
    made = sample_crystal(content, number, volume, generator, attempts=RANDOM_ATTEMPTS)
    if made is None:
        return None
    return OrbitCandidate(
        index,
        made.lattice,
        made.frac_coords,
        made.numbers,
        None,
        "random",
        group=group_of(number).primitive,
        fallback=True,
        orbits=made.orbits,
    )


def _de_novo(request: Request, proposer: Proposer) -> Iterator[OrbitCandidate | None]:
    low, high = request.num_elements or (1, request.max_atoms)
    draws = DeNovo(
        proposer,
        Constraints(
            request.min_atoms,
            request.max_atoms,
            request.space_group,
            request.chemical_system,
            request.exclude_elements,
            low,
            high,
            sized=(request.min_atoms, request.max_atoms) != (1, MAX_ATOMS),
        ),
        request.seed,
    )
    if not draws:
        limits = [f"{request.min_atoms} to {request.max_atoms} atoms"]
        limits += [f"space group {request.space_group}"] if request.space_group is not None else []
        limits += [f"{len(request.chemical_system)} elements"] if request.chemical_system is not None else []
        limits += [f"{low} to {high} elements"] if request.num_elements is not None else []
        limits += [f"{len(request.exclude_elements)} elements excluded"] if request.exclude_elements else []
        raise RequestError(
            f"no structure type of the model has {', '.join(limits)}; loosen one of them, or give a composition"
        )
    index = empty = 0
    while empty < MAX_EMPTY_DRAWS:
        candidate = draws.draw(index)
        yield None if candidate is None else _from_decoration(proposer, candidate, index, candidate.log_p, "de novo")
        index, empty = index + 1, empty + 1 if candidate is None else 0
