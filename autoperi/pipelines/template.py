"""``generate(composition, like=crystal)``: the orbits of a crystal that is given, filled with the elements of another
composition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product
from typing import Any

import numpy as np
import torch

from autoperi.data.convert import to_arrays
from autoperi.errors import RequestError
from autoperi.models.orbit_network import OrbitNetwork
from autoperi.symmetry.freedom import Orbit
from autoperi.symmetry.orbit_grammar import canonical, element_order
from autoperi.symmetry.orbits import contents_of, primitive_lattice, read_orbits
from autoperi.symmetry.spacegroup import FloatArray

SYMPRECS = (0.01, 0.001, 0.03, 0.1)
"""Tolerances in Å at which a template is read: that of ``score`` first, so that a small distortion is kept."""
MAX_ASSIGNMENTS = 512
"""Ways to put elements on the places of others that are looked at."""


@dataclass(frozen=True, eq=False)
class Template:
    """A crystal to be imitated.

    Attributes:
        number: its space group.
        lattice: of its standard primitive cell, rows in Å, ``[3, 3]``.
        orbits: its orbits.
        content: atoms of each element in the primitive cell.
        places: the element that takes each element's places; None tries every way that keeps numbers of atoms.
    """

    number: int
    lattice: FloatArray
    orbits: tuple[Orbit, ...]
    content: dict[int, int]
    places: Mapping[int, int] | None = None

    @property
    def n_atoms(self) -> int:
        """Atoms of the primitive cell."""
        return sum(self.content.values())


def template_of(crystal: Any) -> Template:
    """A ``Structure`` or ``Atoms`` as a template; a template is one already.

    Raises:
        RequestError: it cannot be read as orbits of a space group. StructureError: it cannot be read at all.
    """
    if isinstance(crystal, Template):
        return crystal
    found = read_orbits(*to_arrays(crystal), symprecs=SYMPRECS)
    if found is None:
        raise RequestError(
            "like is a crystal whose atoms lie on no Wyckoff positions of a space group; atoms may be on top of one "
            "another"
        )
    info, orbits = found
    return Template(info.number, primitive_lattice(info), tuple(orbits), contents_of(orbits)[1])


def check_like(template: Template, formula: Sequence[tuple[int, int]], asked: Any) -> int:
    """How many formula units the template's primitive cell holds.

    Raises:
        RequestError: the composition has not the template's numbers of atoms.
    """
    per_unit = sum(count for _, count in formula)
    wanted = sorted(count * template.n_atoms for _, count in formula)
    if wanted != sorted(count * per_unit for count in template.content.values()):
        ratio = reduced(list(template.content.values()))
        raise RequestError(
            f"like has elements in the ratio {':'.join(map(str, ratio))}, which {asked!r} has not; give a composition "
            "with these numbers of atoms, or another crystal"
        )
    return template.n_atoms // per_unit


def reduced(counts: list[int]) -> list[int]:
    """Counts over their greatest common divisor, ascending."""
    divisor = math.gcd(*counts)
    return sorted(c // divisor for c in counts)


def fillings(
    template: Template, content: dict[int, int], network: OrbitNetwork | None
) -> Iterator[tuple[list[Orbit], float]]:
    """The template's orbits with other elements, likeliest first, and ln p of each among all of them.

    Args:
        template: whose orbits.
        content: atoms of each new element in the primitive cell; the same numbers as the template's.
        network: in float64; None finds all alike.
    """
    maps: list[Mapping[int, int]] = [template.places] if template.places else []
    maps = maps or list(islice(_assignments(template.content, content), MAX_ASSIGNMENTS))
    sentences = []
    filled = []
    for mapping in maps:
        orbits = [Orbit(mapping[o.element], o.position, o.parameters) for o in template.orbits]
        sentence = (template.number, canonical(template.number, contents_of(orbits)[0])[1])
        if sentence in sentences and not any(o.position.dof for o in orbits):
            continue  # the same crystal from another origin, such as the two kinds of atoms of rock salt exchanged
        filled.append(orbits)
        sentences.append(sentence)
    log_p = torch.zeros(len(filled), dtype=torch.float64)
    if network is not None:
        order = element_order(list(content))
        log_p = network.log_probabilities(order, [content[z] for z in order], sentences)[1].double()
    log_p = torch.log_softmax(log_p, 0)
    for k in torch.argsort(log_p.round(decimals=9), descending=True, stable=True).tolist():
        yield filled[k], round(float(log_p[k]), 9)


def _assignments(old: dict[int, int], new: dict[int, int]) -> Iterator[dict[int, int]]:
    """Every map of elements that keeps numbers of atoms."""
    sizes = sorted(set(old.values()))
    olds = [[z for z in sorted(old) if old[z] == size] for size in sizes]
    news = [[z for z in sorted(new) if new[z] == size] for size in sizes]
    for chosen in product(*(permutations(group) for group in news)):
        yield {a: b for group, places in zip(chosen, olds, strict=True) for a, b in zip(places, group, strict=True)}


def cell_of(orbits: Sequence[Orbit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fractional coordinates ``[n, 3]``, atomic numbers and orbits ``[n]`` of the standard primitive cell that orbits
    fill.
    """
    points = [o.position.points(o.parameters, primitive=True) for o in orbits]
    sizes = [len(p) for p in points]
    return (
        np.concatenate(points),
        np.repeat([o.element for o in orbits], sizes),
        np.repeat(np.arange(len(orbits)), sizes),
    )
