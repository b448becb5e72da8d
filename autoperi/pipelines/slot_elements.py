"""Which elements a crystal of base sites has, and in which group: drawn from what occurs in the training data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from autoperi.data.elements import symbol_of
from autoperi.errors import RequestError
from autoperi.pipelines.request import Request
from autoperi.symmetry.base_sites import in_slots
from autoperi.symmetry.spacegroup import FloatArray, IntArray
from autoperi.symmetry.wyckoff import wyckoff_positions

MAX_TRIES = 100
"""Draws of elements for a group, and of groups, after which none are found."""
UNSEEN = 0.1
"""Crystals that a group is taken to have of an element that it was never seen with, where elements are given."""


@dataclass(frozen=True, eq=False)
class SlotElements:
    """Draws (space group, elements): the group and the number of elements as often as they occur, then each slot's
    element from the crystals of that group, so that elements of several crystals mix; all pairs must have met in some
    crystal.

    Attributes:
        counts: crystals by group, number of elements less one, slot and element, ``[231, K, K, 119]``, without elements
            that must not occur.
        together: pairs of elements that meet, ``[119, 119]``.
        system: elements that are given, or None.
        weight: of each group and number of elements, ``[231, K]``.
    """

    counts: IntArray
    together: np.ndarray
    system: tuple[int, ...] | None
    weight: FloatArray

    @classmethod
    def of_request(cls, counts: IntArray, together: np.ndarray, request: Request) -> SlotElements:
        """What a request leaves.

        Raises:
            RequestError: nothing: naming the option and what there is.
        """
        slots = counts.shape[1]
        counts = counts.copy()
        if request.chemical_system is None:  # which holds none of them
            counts[..., list(request.exclude_elements)] = 0
        left = counts.sum(-1)
        # every slot that a number of elements fills must have some element left
        whole = np.all((left > 0) | (np.arange(slots) > np.arange(slots)[:, None]), axis=-1) & _meet(counts, together)
        # of crystals that hold an excluded element only some slots are left, the scarcest of which bounds the rest
        filled = np.arange(slots) <= np.arange(slots)[:, None]
        scarcest = np.where(filled, left, np.iinfo(np.int64).max).min(-1)
        weight = np.where(whole, scarcest, 0).astype(np.float64)
        if not weight.any():
            named = ", ".join(symbol_of(z) for z in sorted(request.exclude_elements))
            raise RequestError(f"exclude_elements={named} leaves this model no crystals; exclude fewer")
        sizes = [k + 1 for k in range(slots) if weight[:, k].any()]
        system = None
        if request.chemical_system is not None:
            system = tuple(in_slots(request.chemical_system))
            if len(system) not in sizes:
                raise RequestError(
                    f"chemical_system of {len(system)} elements; this model makes crystals of "
                    f"{' or '.join(map(str, sizes))}: name as many"
                )
            _check_known(system, counts)
            own = counts[:, len(system) - 1]
            share = np.prod([own[:, slot, z] + UNSEEN for slot, z in enumerate(system)], 0)
            total = weight[:, len(system) - 1]
            kept = np.zeros_like(weight)
            kept[:, len(system) - 1] = share / np.maximum(total, 1) ** (len(system) - 1) * (total > 0)
            weight = kept
        low, high = request.num_elements or (1, slots)
        if not any(low <= size <= high for size in sizes):
            raise RequestError(
                f"num_elements={request.num_elements!r}; this model makes crystals of {' or '.join(map(str, sizes))} "
                "elements: ask for as many"
            )
        weight[:, [k for k in range(slots) if not low <= k + 1 <= high]] = 0
        weight = weight * _room(weight, request)
        if not weight.any():
            raise RequestError(
                f"num_atoms={request.num_atoms!r} fits no crystal that this model makes for such a request, of an atom "
                "to as many as the space group has operations for each element; ask for other numbers"
            )
        if request.space_group is not None:
            known = np.nonzero(weight.sum(1))[0]
            if request.space_group not in known:
                raise RequestError(
                    f"space group {request.space_group} is none of those that this model learned for such crystals; "
                    f"it knows {', '.join(map(str, known))}"
                )
            weight[np.arange(len(weight)) != request.space_group] = 0
        return cls(counts, together, system, weight / weight.sum())

    @cached_property
    def _places(self) -> tuple[IntArray, FloatArray]:
        place = np.nonzero(self.weight.ravel())[0]
        return place, np.cumsum(self.weight.ravel()[place])

    def _slot(self, group: int, size: int, slot: int) -> FloatArray:
        key = (group, size, slot)
        found = self._cumulative.get(key)
        if found is None:
            found = self._cumulative[key] = np.cumsum(self.counts[group, size - 1, slot].astype(np.float64))
        return found

    @cached_property
    def _cumulative(self) -> dict[tuple[int, int, int], FloatArray]:
        return {}

    def draw(self, rng: np.random.Generator) -> tuple[int, list[int]] | None:
        """A group and elements in the order of slots; None where none that meet were found in many tries."""
        places, cumulative = self._places
        for _ in range(MAX_TRIES):
            place = places[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]
            group, last = divmod(int(place), self.weight.shape[1])
            own = self._elements(group, last + 1, rng) if self.system is None else list(self.system)
            if own is not None:
                return group, own
        return None

    def _elements(self, group: int, size: int, rng: np.random.Generator) -> list[int] | None:
        tables = [self._slot(group, size, slot) for slot in range(size)]
        if not all(table[-1] for table in tables):
            return None
        for u in rng.random((MAX_TRIES, size)):
            own = [int(np.searchsorted(t, x * t[-1], side="right")) for t, x in zip(tables, u, strict=True)]
            if len(set(own)) == size and self.together[np.ix_(own, own)].all() and in_slots(own) == own:
                return own
        return None


def _meet(counts: IntArray, together: np.ndarray) -> np.ndarray:
    """Of which groups and numbers of elements each pair of slots has elements that meet, ``[231, K]``."""
    there = (counts > 0).astype(np.float32)
    apart = np.where(np.eye(len(together), dtype=bool), 0, together).astype(np.float32)
    pairs = (there @ apart) @ there.swapaxes(-1, -2) > 0
    slot = np.arange(counts.shape[1])
    beyond = (slot[:, None] >= slot) | (slot > slot[:, None, None])  # of the pairs one < other <= last
    return np.all(pairs | beyond, axis=(-2, -1))


def _room(weight: FloatArray, request: Request) -> np.ndarray:
    """Which groups and numbers of elements can have a number of atoms that is asked for, ``[231, K]``."""
    wanted = sum(1 << n for n in range(request.min_atoms, request.max_atoms + 1))
    room = np.zeros(weight.shape, dtype=bool)
    for group in np.nonzero(weight.any(1))[0]:
        room[group] = [bool(sums & wanted) for sums in _sums(int(group), weight.shape[1])]
    return room


@lru_cache(maxsize=512)
def _sums(group: int, most: int) -> tuple[int, ...]:
    """Numbers of atoms of primitive cells of 1 to ``most`` orbits, each as a set bit; a position without a free
    coordinate holds one orbit.
    """
    sums = [1] + [0] * most
    for position in wyckoff_positions(group):
        before = list(sums)
        for k in range(1, most + 1):
            source = sums if position.free_axes else before
            sums[k] |= source[k - 1] << position.primitive_multiplicity
    return tuple(sums[1:])


def _check_known(system: tuple[int, ...], counts: IntArray) -> None:
    unknown = [symbol_of(z) for z in system if not counts[..., z].any()]
    if unknown:
        raise RequestError(f"{', '.join(unknown)} occurs in no crystal that this model learned from; choose others")
