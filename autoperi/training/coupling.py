"""Which description of a crystal a flow's path should end at: the one nearest to where it starts, or any.

Orbits of one element on one position may be exchanged, each orbit has several representatives, and the origin may be
shifted; the network sees none of that. Paths to a fixed description cross each other and their velocities cancel; paths
to the nearest one are short. As the uniform density does not know descriptions either, the flow so learned still begins
there and ends at the crystals (minibatch optimal transport, Tong et al. 2024, over the symmetries of one crystal
instead of over a batch; Song et al. 2023 and Klein et al. 2023 for molecules). Random descriptions are what
augmentation by operations of the space group and shifts of the origin means here: the network itself is invariant under
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from autoperi.symmetry.equivalents import descriptions
from autoperi.symmetry.freedom import STRAINS, Freedom, Orbit
from autoperi.symmetry.wyckoff import LETTERS

FORBIDDEN_COST = 1e9
"""Squared distance that stands for an exchange of orbits of different kinds."""


@dataclass(frozen=True, eq=False)
class Equivalents:
    """All descriptions of B crystals whose letters are those of the first one.

    Attributes:
        shifts: origin shifts of each crystal, ``[B]``, orbits: how many orbits it has, ``[B]``.
        kind: element and position of each orbit, one number, first as given, ``[Σ O]``, then under each shift, ``[Σ
            shifts·O]``.
        shifted: as ``kind``, under each shift of each crystal.
        choices: representatives of each orbit under each shift, ``[Σ shifts·O]``.
        parameters: s of each of them, ``[Σ choices, 3]``.
    """

    shifts: Tensor
    orbits: Tensor
    kind: Tensor
    shifted: Tensor
    choices: Tensor
    parameters: Tensor

    def __len__(self) -> int:
        return len(self.shifts)

    @cached_property
    def _starts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where each crystal's orbits begin, where its rows of shifts and orbits do, and where each row's choices
        do.
        """
        lengths = (self.orbits, self.shifts * self.orbits, self.choices)
        orbits, rows, choices = (torch.cumsum(n, 0) - n for n in lengths)
        return orbits, rows, choices

    def take(self, rows: Tensor) -> list[Choices]:
        """The descriptions of the crystals of ``rows``, one object a crystal."""
        first_orbit, first_row, first_choice = self._starts
        found = []
        for b in rows.tolist():
            o, s, start, first = int(self.orbits[b]), int(self.shifts[b]), int(first_orbit[b]), int(first_row[b])
            counts = self.choices[first : first + s * o].numpy()
            begin = int(first_choice[first])
            values = self.parameters[begin : begin + int(counts.sum())].numpy()
            padded = np.full((s * o, int(counts.max()), 3), np.nan)
            padded[np.arange(padded.shape[1])[None] < counts[:, None]] = values
            kind, shifted = self.kind[start : start + o], self.shifted[first : first + s * o].reshape(s, o)
            found.append(Choices(kind.numpy(), shifted.numpy(), padded.reshape(s, o, -1, 3)))
        return found


@dataclass(frozen=True, eq=False)
class Choices:
    """The descriptions of one crystal of O orbits under S shifts, with up to R representatives an orbit.

    Attributes:
        kind: ``[O]``; shifted: ``[S, O]``.
        parameters: ``[S, O, R, 3]``, NaN beyond an orbit's own.
    """

    kind: np.ndarray
    shifted: np.ndarray
    parameters: np.ndarray

    def nearest(self, start: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """Parameters ``[O, 3]`` of the description nearest to ``start`` ``[O, 3]``; ``metric`` ``[O, 3, 3]`` measures
        each orbit's step.
        """
        d = self.parameters[:, None] - start[None, :, None, None]  # [S, slot, orbit, R, 3]
        d = d - np.floor(d + 0.5)
        square: np.ndarray = np.einsum("sijra,iab,sijrb->sijr", d, metric, d, optimize=True)
        best = np.where(np.isnan(square), np.inf, square).argmin(-1)
        cost = np.take_along_axis(square, best[..., None], -1)[..., 0]
        cost = np.where(self.shifted[:, None, :] == self.kind[None, :, None], cost, FORBIDDEN_COST)
        found, least = self.parameters[0, :, 0], np.inf
        for s in range(len(cost)):
            slots, orbits = linear_sum_assignment(cost[s])
            total = cost[s, slots, orbits].sum()
            if total < least - 1e-9:
                least, found = total, self.parameters[s, orbits, best[s, slots, orbits]]
        return found

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters ``[O, 3]`` of a description drawn uniformly: a shift, an exchange of like orbits, a representative
        of each.
        """
        s = int(rng.integers(len(self.shifted)))
        orbits = np.empty(len(self.kind), dtype=np.int64)
        for kind in np.unique(self.kind):
            orbits[self.kind == kind] = rng.permutation(np.nonzero(self.shifted[s] == kind)[0])
        counts = (~np.isnan(self.parameters[s, orbits, :, 0])).sum(1)
        return self.parameters[s, orbits, rng.integers(counts)]


def equivalents(groups: Sequence[int], orbits: Sequence[Sequence[Orbit]]) -> Equivalents:
    """The descriptions of crystals given by their orbits."""
    shifts, kinds, shifted, choices, parameters = [], [], [], [], []
    for number, members in zip(groups, orbits, strict=True):
        letters = [LETTERS.index(o.position.letter) for o in members]
        own = [_kind(o.element, k) for o, k in zip(members, letters, strict=True)]
        kinds += own
        count = 0
        for description in descriptions(number):
            new = [_kind(o.element, description.letters[k]) for o, k in zip(members, letters, strict=True)]
            if Counter(new) != Counter(own):
                continue
            count += 1
            shifted += new
            for o, k in zip(members, letters, strict=True):
                a, b = description.maps[k]
                s = np.unique(np.round((a @ o.parameters + b) % 1.0, 6) % 1.0, axis=0)
                choices.append(len(s))
                parameters.append(s)
        shifts.append(count)
    return Equivalents(
        torch.tensor(shifts),
        torch.tensor([len(o) for o in orbits]),
        torch.tensor(kinds, dtype=torch.int32),
        torch.tensor(shifted, dtype=torch.int32),
        torch.tensor(choices),
        torch.as_tensor(np.concatenate(parameters), dtype=torch.float32),
    )


def _kind(element: int, letter: int) -> int:
    return element * len(LETTERS) + letter


def nearest_ends(
    choices: Sequence[Choices], freedom: Freedom, start: Tensor, end: Tensor, *, rows: Tensor | None = None
) -> Tensor:
    """``end`` ``[B, D]`` with each crystal's positions in the description nearest to ``start`` ``[B, D]``; the crystals
    stay the same.

    Args:
        choices: of each crystal.
        freedom: the crystals.
        start, end: coordinates.
        rows: which crystals, ``[B]`` bool; None is all.
    """
    begin = start.detach().cpu().double().numpy()
    # how far an orbit's atoms go in Å² of the reference cell, all of them together
    cells = freedom.reference.double()[freedom.crystal][freedom.orbit]
    maps = torch.einsum("nij,nic->njc", freedom.maps.double(), cells)
    total = torch.zeros(len(freedom.free), 3, 3, dtype=torch.float64, device=maps.device)
    metric = total.index_add(0, freedom.orbit, maps @ maps.transpose(1, 2)).cpu().numpy()
    chosen = [True] * len(choices) if rows is None else rows.tolist()

    def nearest(b: int, columns: slice, orbits: slice) -> np.ndarray | None:
        return choices[b].nearest(begin[b, columns].reshape(-1, 3), metric[orbits]) if chosen[b] else None

    return _described(freedom, end, nearest)


def nearest_ways(start: Tensor, end: Tensor, atomic_numbers: Tensor, n_atoms: Tensor) -> Tensor:
    """The shortest ways from atoms at ``start`` to a crystal at ``end``, fractional, ``[N, 3]``, where equal atoms may
    be exchanged and the origin may be shifted: the ways of a crystal have the mean zero.

    Tried are the shift that the atoms as they are given suggest, and those that bring the first atom of the rarest
    element onto each of its like; the shift is then that of the best exchange, and the exchange is found once more.

    Args:
        start, end: fractional coordinates, ``[N, 3]``.
        atomic_numbers: ``[N]``; n_atoms: of each crystal, ``[B]``.
    """
    ends, starts, numbers = (x.detach().cpu().numpy() for x in (end.double(), start.double(), atomic_numbers))
    ways = np.empty_like(starts)
    first = 0
    for n in n_atoms.tolist():
        rows = slice(first, first + n)
        x, y, kinds = starts[rows], ends[rows], numbers[rows]
        given = _wrapped(y - x).mean(0)
        found, counts = np.unique(kinds, return_counts=True)
        rare = np.flatnonzero(kinds == found[counts.argmin()])
        way = min((_exchanged(x, y, kinds, s) for s in [given, *(y[rare] - x[rare[0]])]), key=_spread)
        way = _exchanged(x, y, kinds, way.mean(0))
        ways[rows] = way - way.mean(0)
        first += n
    return torch.as_tensor(ways).to(start)


def _exchanged(x: np.ndarray, y: np.ndarray, kinds: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The ways from x to y, ``[n, 3]``, in that exchange of equal atoms which is shortest beside a shift."""
    cost = (_wrapped(y[None] - x[:, None] - shift) ** 2).sum(-1)
    cost[kinds[:, None] != kinds[None]] = FORBIDDEN_COST
    return _wrapped(y[linear_sum_assignment(cost)[1]] - x - shift) + shift


def _spread(way: np.ndarray) -> float:
    return float(way.var(0).sum())


def _wrapped(d: np.ndarray) -> np.ndarray:
    wrapped: np.ndarray = d - np.floor(d + 0.5)
    return wrapped


def random_ends(choices: Sequence[Choices], freedom: Freedom, end: Tensor, rng: np.random.Generator) -> Tensor:
    """``end`` ``[B, D]`` with each crystal's positions in a description drawn at random; the crystals stay the same.

    Args:
        choices: of each crystal.
        freedom: the crystals.
        end: coordinates.
        rng: draws for one crystal after the other.
    """
    return _described(freedom, end, lambda b, columns, orbits: choices[b].random(rng))  # noqa: ARG005


def _described(freedom: Freedom, end: Tensor, parameters: Callable[[int, slice, slice], np.ndarray | None]) -> Tensor:
    """``end`` with the ``parameters`` ``[O, 3]`` of each crystal, asked for by its number, its columns and its orbits;
    None leaves it as it is.
    """
    out = end.detach().clone().cpu()
    first = 0
    for b, count in enumerate(torch.bincount(freedom.crystal, minlength=len(freedom)).tolist()):
        columns = slice(STRAINS, STRAINS + 3 * count)
        found = parameters(b, columns, slice(first, first + count))
        if found is not None:
            out[b, columns] = torch.as_tensor(found.reshape(-1)).to(out)
        first += count
    return out.to(end.device)
