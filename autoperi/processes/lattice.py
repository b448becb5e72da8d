"""Lattice relaxation as a process: passes L' = L·exp(A) (EMPNN, eq. 10a) until a pass changes nothing, each crystal by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from autoperi.data.crystal import CrystalBatch
from autoperi.geometry.lattice import exponent_to, symmetric_exp
from autoperi.geometry.reduction import niggli_reduce
from autoperi.processes.start_shapes import unit_cells

LATTICE_DIGITS = 9
"""Decimals kept of relaxed lattices (Å): far above float64 noise, so batches cannot change a result."""
MAX_CONVERGED_STRAIN = 1e-2
"""Largest principal strain of A below which a crystal counts as converged."""
MIN_STRAIN_TO_CONTINUE = 6e-3
"""Largest principal strain of A below which a further pass would change nothing of interest: the crystal stays where it
is.
"""
MAX_LOG_VOLUME_CHANGE = 2.5
"""Change of the log volume beyond which a relaxation is called exploded or collapsed."""
MAX_LOG_VOLUME_DEFICIT = math.log(4.0)
"""A cell smaller than the volume of its composition by more than this factor (a log) is no crystal: it is brought to
that volume first.
"""
MAX_TRUSTED_LENGTH_ERROR = 0.02
"""Expected relative error of lengths above which a cell that was far too dense is tried again from other shapes."""
MAX_ERROR_RATIO_TO_PREFER = 0.7
"""One end is preferred to another for its smaller expected error alone where the ratio of the two errors is at most
this; ends whose errors are nearer to each other may be one lattice in several bases.
"""
ERROR_ROUNDING = 1e-4
"""Relative difference of expected errors that rounding makes, in float32."""
SHAPE_TO_VOLUME = 8.0
"""⟨d²⟩/⟨t²⟩ of a symmetric strain whose six entries are drawn alike with variance σ²: t² = (tr A)²/3 has the mean σ²,
‖A‖² the mean 9σ².
"""
MAX_BATCH_CRYSTALS, MAX_BATCH_ATOMS = 128, 1536
"""Crystals, and atoms, that a network reads together at most (one crystal at least)."""
CONFIDENT_LENGTH_ERROR = 0.02
"""Relative error of lengths that ``confidence`` speaks of."""


class LatticeStep(NamedTuple):
    """One pass of a network over B crystals.

    Attributes:
        strain: the exponent A, symmetric, ``[B, 3, 3]``.
        spread: expected size of the error that is left after it, ``[B, 2]``: of the volume part, |tr e|/√3, and of the
            shape, ‖e - I tr e/3‖.
        connected: whether there was an edge to go by, ``[B]``; A is zero elsewhere.
    """

    strain: Tensor
    spread: Tensor
    connected: Tensor


@runtime_checkable
class CalibratedNetwork(Protocol):
    """A network that says how large the error is that a pass leaves, such as
    :class:`~autoperi.models.lattice_relaxer.LatticeRelaxer`.

    Attributes:
        caution: how many times its expected error a relaxation must exceed to be believed, see :func:`cautious`.
    """

    caution: float

    def step(self, batch: CrystalBatch) -> LatticeStep:
        """One pass over B crystals."""

    def natural_volume(self, batch: CrystalBatch) -> Tensor:
        """The volume in Å³ that each composition suggests, ``[B]``."""

    def expected_error(self, spread: Tensor) -> Tensor:
        """Mean relative error of a cell's lengths, ``[B]``, from the ``spread`` ``[B, 2]`` of a step."""


Network = Callable[[CrystalBatch], Tensor] | CalibratedNetwork
"""Crystals to exponents A ``[B, 3, 3]``, or a network that also says how large an error it leaves."""
Told = Callable[[int], object]
"""Told how many crystals have come to rest."""


@dataclass(frozen=True, eq=False)
class LatticeRelaxation:
    """What became of B crystals.

    Attributes:
        crystals: with their last lattices; fractional coordinates are those of the start.
        strain: A of each crystal's last pass, ``[B, 3, 3]``.
        passes: how many it went through, ``[B]``.
        status: ``converged``, ``max_steps``, ``isolated``, ``exploded``, ``collapsed`` or ``nan``.
        expected_error: mean relative error of the lengths that the network expects to be left, ``[B]``, calibrated on
            crystals as they are returned; NaN for those without an edge or a volume, None if the network cannot tell.
    """

    crystals: CrystalBatch
    strain: Tensor
    passes: Tensor
    status: list[str]
    expected_error: Tensor | None

    @property
    def confidence(self) -> Tensor | None:
        """Probability that lengths are right within :data:`CONFIDENT_LENGTH_ERROR`, ``[B]``, if errors fall off
        exponentially; NaN and None as ``expected_error``.
        """
        if self.expected_error is None:
            return None
        return 1 - torch.exp(-CONFIDENT_LENGTH_ERROR / self.expected_error.clamp(min=1e-6))


def lattice_step(batch: CrystalBatch, strain: Tensor) -> CrystalBatch:
    """One step L' = L·exp(A) with fractional coordinates unchanged.

    Args:
        batch: B crystals.
        strain: symmetric A, ``[B, 3, 3]``.
    """
    return batch.replace(lattice=batch.lattice @ symmetric_exp(strain))


def relax_cells(
    network: Network,
    batch: CrystalBatch,
    *,
    passes: int,
    batch_size: int = MAX_BATCH_CRYSTALS,
    on_rest: Told | None = None,
) -> LatticeRelaxation:
    """At most ``passes`` passes over each crystal; no crystal's result depends on the others.

    A network that only gives A makes ``passes`` passes over every crystal. One that also says how large an error it
    leaves (:class:`CalibratedNetwork`) is used better: crystals that have come to rest are left out of the passes that
    follow, and the error that is left is estimated. Cells that are far too dense are brought to the volume of their
    composition before the first pass, because no network reads a crystal in which hundreds of atoms lie within a bond.
    Every other crystal goes only that part of its way that stands out from the expected error (:func:`cautious`).

    Args:
        network: crystals to exponents A, ``[B, 3, 3]``, or a :class:`CalibratedNetwork`.
        batch: B crystals.
        passes: 0 changes nothing but cells that are far too dense.
        batch_size: crystals that the network reads together: time and memory, never a result.
        on_rest: told how many crystals have come to rest.
    """
    told = on_rest if on_rest is not None else (lambda _: None)
    # a cell without volume has no neighbours to read, and would make NaN of every sum it enters
    solid = torch.isfinite(batch.lattice).flatten(1).all(1) & ~batch.flat
    if not bool(solid.all()):
        return _without_flat_cells(network, batch, solid, passes, batch_size, told)
    if not isinstance(network, CalibratedNetwork):
        return _plain(network, batch, passes, batch_size, told)
    natural = network.natural_volume(batch)
    start, too_dense = _plausible(batch, natural)
    found = _passes(network, start, natural, passes, batch_size, told)
    if passes and bool(too_dense.any()):
        _try_other_shapes(network, start, natural, too_dense, found, passes, batch_size)
    status = relaxation_status(start.lattice, found.lattice, found.strain)
    status = [
        "isolated" if alone and word == "converged" else word
        for word, alone in zip(status, found.isolated.tolist(), strict=True)
    ]
    usual = [word in ("converged", "max_steps") for word in status]
    # a cell that was scaled says nothing of where it came from, so caution is for the others alone
    near = torch.tensor(usual, dtype=torch.bool, device=start.lattice.device) & ~too_dense
    if passes and bool(near.any()):
        begin, end, spread = start.lattice[near], found.lattice[near], found.spread[near]
        found.lattice[near] = cautious(begin, end, spread, caution=network.caution)
    expected = torch.where(found.isolated, torch.nan, network.expected_error(found.spread)) if passes else None
    return LatticeRelaxation(batch.replace(lattice=found.lattice), found.strain, found.passes, status, expected)


def _without_flat_cells(
    network: Network, batch: CrystalBatch, solid: Tensor, passes: int, batch_size: int, told: Told
) -> LatticeRelaxation:
    """:func:`relax_cells` where some cells have no volume: these stay as they are, with the status ``nan``."""
    rows = solid.nonzero().squeeze(-1)
    told(len(batch) - len(rows))
    none = torch.full_like(batch.lattice, torch.nan)
    done = torch.zeros(len(batch), dtype=torch.long, device=none.device)
    if not len(rows):
        return LatticeRelaxation(batch, none, done, ["nan"] * len(batch), None)
    found = relax_cells(network, batch[rows], passes=passes, batch_size=batch_size, on_rest=told)
    words = dict(zip(rows.tolist(), found.status, strict=True))
    error = found.expected_error
    return LatticeRelaxation(
        batch.replace(lattice=batch.lattice.index_copy(0, rows, found.crystals.lattice)),
        none.index_copy(0, rows, found.strain),
        done.index_copy(0, rows, found.passes),
        [words.get(row, "nan") for row in range(len(batch))],
        None if error is None else none[:, 0, 0].index_copy(0, rows, error),
    )


class _Path(NamedTuple):
    """Where B crystals ended: lattices, the last A, the spread after it, how many passes, and whether there was no
    edge.
    """

    lattice: Tensor
    strain: Tensor
    spread: Tensor
    passes: Tensor
    isolated: Tensor


def _passes(
    network: CalibratedNetwork, start: CrystalBatch, natural: Tensor, passes: int, batch_size: int, told: Told
) -> _Path:
    lattice, strain = start.lattice.clone(), torch.zeros_like(start.lattice)
    spread = lattice.new_zeros(len(start), 2)
    done = torch.zeros(len(start), dtype=torch.long, device=lattice.device)
    isolated = torch.zeros_like(done, dtype=torch.bool)
    # only crystals that still move are read again; the others keep what their last pass gave
    moving = torch.arange(len(start), device=lattice.device)
    for _ in range(passes):
        # crystals of like density have like numbers of neighbours, which a batch pads to its largest
        density = torch.linalg.det(lattice[moving]).abs() / natural[moving]
        for chosen in _chunks(moving[torch.argsort(density, stable=True)], start.n_atoms, batch_size):
            part = start[chosen].replace(lattice=lattice[chosen])
            step = network.step(part)
            strain[chosen], spread[chosen], isolated[chosen] = step.strain, step.spread, ~step.connected
            lattice[chosen] = lattice_step(part, step.strain).lattice
            done[chosen] += 1
        usable = torch.isfinite(lattice[moving]).flatten(1).all(1)
        still = moving[usable & (largest_strain(strain[moving]) >= MIN_STRAIN_TO_CONTINUE)]
        told(len(moving) - len(still))
        moving = still
    told(len(moving))
    return _Path(lattice, strain, spread, done, isolated)


def _chunks(order: Tensor, n_atoms: Tensor, batch_size: int) -> list[Tensor]:
    """Crystals in order, as many together as ``batch_size`` and :data:`MAX_BATCH_ATOMS` allow."""
    sizes: list[int] = []
    atoms = 0
    for n in n_atoms[order].tolist():
        if sizes and sizes[-1] < batch_size and atoms + n <= MAX_BATCH_ATOMS:
            sizes[-1] += 1
            atoms += n
        else:
            sizes.append(1)
            atoms = n
    return list(order.split(sizes)) if sizes else []


def _try_other_shapes(
    network: CalibratedNetwork,
    start: CrystalBatch,
    natural: Tensor,
    too_dense: Tensor,
    found: _Path,
    passes: int,
    batch_size: int,
) -> None:
    """Where a cell that was far too dense ended with a large expected error, try every shape of
    :data:`~autoperi.processes.start_shapes.SHAPES` as a start, and take the end of the smallest expected error.

    The density said nothing of the lattice, so its shape need not either; and no equivariant pass can leave a cube
    whose atoms have all its symmetry. Shapes are taken in the Niggli-reduced basis of the start, which makes the answer
    one for all bases and orientations, but not for supercells: theirs are other shapes.
    """
    uncertain = (too_dense & (length_error(found.spread) > MAX_TRUSTED_LENGTH_ERROR)).nonzero().squeeze(-1)
    if not len(uncertain):
        return
    part = start[uncertain]
    reduced, transform = niggli_reduce(part.lattice)
    # a basis that is as short already stays: a cube has 24 reduced bases, and the one that was given is as good
    shorter = (reduced**2).sum((-1, -2)) < (1 - 1e-6) * (part.lattice**2).sum((-1, -2))
    transform = torch.where(shorter[:, None, None], transform.to(reduced), torch.eye(3).to(reduced))
    reduced = transform @ part.lattice
    ends = [_Path(*(x[uncertain] for x in found))]
    for shape in unit_cells(part.lattice):
        first = lattice_step(part, exponent_to(reduced, part.volume.pow(1 / 3)[:, None, None] * shape))
        ends.append(_passes(network, first, natural[uncertain], passes, batch_size, lambda _: None))
    error = torch.stack([length_error(end.spread) for end in ends])  # [shapes + 1, B], the first without a shape
    error = torch.where(torch.stack([torch.isfinite(end.lattice).flatten(1).all(1) for end in ends]), error, torch.inf)
    size = torch.stack([((transform @ end.lattice) ** 2).sum((-1, -2)) for end in ends])
    # Of ends whose expected errors are alike, the shortest basis is taken. Of equally short ones it is the one of the
    # smallest error, which no order of shapes decides. What is equal in both is one lattice in several bases, where
    # rounding must not decide: it is the first of them.
    alike = error <= error.amin(0) / MAX_ERROR_RATIO_TO_PREFER
    size = torch.where(alike, size, torch.inf)
    short = torch.where(size <= size.amin(0) * (1 + 1e-3), error, torch.inf)
    chosen = (short <= short.amin(0) * (1 + ERROR_ROUNDING)).long().argmax(0)
    every = torch.arange(len(uncertain), device=chosen.device)
    for own, *others in zip(found, *ends, strict=True):
        own[uncertain] = torch.stack(others)[chosen, every]


def _plain(
    network: Callable[[CrystalBatch], Tensor], batch: CrystalBatch, passes: int, batch_size: int, told: Told
) -> LatticeRelaxation:
    """:func:`relax_cells` with a network that only gives A: ``passes`` passes for every crystal."""
    lattice, strain = batch.lattice.clone(), torch.zeros_like(batch.lattice)
    for start in range(0, len(batch), batch_size):
        chosen = slice(start, start + batch_size)
        moved = batch[chosen]
        for _ in range(passes):
            strain[chosen] = network(moved)
            moved = lattice_step(moved, strain[chosen])
        lattice[chosen] = moved.lattice
        told(len(moved))
    done = torch.full((len(batch),), passes, device=strain.device)
    return LatticeRelaxation(
        batch.replace(lattice=lattice), strain, done, relaxation_status(batch.lattice, lattice, strain), None
    )


def length_error(spread: Tensor) -> Tensor:
    """Root mean square of uᵀeu over directions u, ``[B]``, for errors e with volume part |tr e|/√3 and shape ‖dev e‖ as
    in ``[B, 2]``.
    """
    return torch.sqrt(spread[:, 0] ** 2 / 3 + spread[:, 1] ** 2 * 2 / 15)


def cautious(start: Tensor, end: Tensor, spread: Tensor, *, caution: float) -> Tensor:
    """Lattices ``[B, 3, 3]`` on the way from ``start`` to ``end``: the nearer to ``end``, the more the way exceeds the
    errors that the network expects of it.

    The exponent from start to end is A = D + I tr A/3, with t = |tr A|/√3 and d = ‖D‖. Its parts are shortened by the
    factor x²/(x² + caution²), where x = d/b_dev for D, and x = √(t² + d²/8)/b_iso for the trace: a crystal that was
    deformed in shape was most likely deformed in volume too, and t² has the mean of d²/8 where strains are drawn entry
    by entry (:data:`SHAPE_TO_VOLUME`). A relaxed cell thus stays nearly where it is, and a deformed one goes all the
    way.

    Args:
        start, end: lattices, ``[B, 3, 3]``.
        spread: expected errors (b_iso, b_dev) of ``end``, ``[B, 2]``.
        caution: 0 goes all the way.
    """
    strain = exponent_to(start, end)
    trace = strain.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] / 3 * torch.eye(3).to(strain)
    shape = strain - trace
    t2, d2 = (trace**2).sum((-1, -2)), (shape**2).sum((-1, -2))
    limit = (caution * spread.clamp(min=1e-9)) ** 2
    # x² of the trace times b_iso²; clamped below, because an exact zero over zero is NaN
    both = t2 + d2 / SHAPE_TO_VOLUME
    volume_kept = both / (both + limit[:, 0]).clamp(min=1e-30)
    shape_kept = d2 / (d2 + limit[:, 1]).clamp(min=1e-30)
    return start @ symmetric_exp(volume_kept[:, None, None] * trace + shape_kept[:, None, None] * shape)


def largest_strain(strain: Tensor) -> Tensor:
    """Spectral norm of A ``[B, 3, 3]``, which no rotation changes, ``[B]``; infinite where A is not finite."""
    finite = torch.isfinite(strain).flatten(1).all(1)
    norm = torch.linalg.matrix_norm(torch.where(finite[:, None, None], strain, 0.0), ord=2)
    return torch.where(finite, norm, torch.inf)


def relaxation_status(start: Tensor, end: Tensor, last_strain: Tensor) -> list[str]:
    """``converged``, ``max_steps``, ``exploded``, ``collapsed`` or ``nan`` of each crystal.

    Args:
        start, end: lattices before and after, ``[B, 3, 3]``.
        last_strain: A of the last pass, ``[B, 3, 3]``.
    """
    strain = largest_strain(last_strain)
    growth = torch.log(torch.linalg.det(end).abs() / torch.linalg.det(start).abs())
    status = []
    for b in range(len(start)):
        if not bool(torch.isfinite(end[b]).all()):
            status.append("nan")
        elif float(growth[b]) > MAX_LOG_VOLUME_CHANGE:
            status.append("exploded")
        elif float(growth[b]) < -MAX_LOG_VOLUME_CHANGE:
            status.append("collapsed")
        else:
            status.append("converged" if float(strain[b]) < MAX_CONVERGED_STRAIN else "max_steps")
    return status


def _plausible(batch: CrystalBatch, natural: Tensor) -> tuple[CrystalBatch, Tensor]:
    """The crystals with every cell that is far too small grown to the volume of its composition, and which these are,
    ``[B]``. Nothing but a scaling, so every law of the field holds for it too.
    """
    ratio = natural / batch.volume
    too_dense = torch.log(ratio) > MAX_LOG_VOLUME_DEFICIT
    scale = torch.where(too_dense, ratio.pow(1 / 3), torch.ones_like(ratio))
    return batch.replace(lattice=batch.lattice * scale[:, None, None]), too_dense
