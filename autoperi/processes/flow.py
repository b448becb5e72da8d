"""Continuous normalizing flows on products of lines and circles: flow matching, fixed-step integration, exact
log-likelihoods.

A flow carries a base density p₀ along a field v_θ(y, t), and (AutoPeri-GNN, section 3.2.2; Chen et al. 2018)

    log p₁(y₁) = log p₀(y₀) − ∫₀¹ tr(∂v_θ/∂y) dt.

The field is learned by flow matching (Lipman et al. 2023; on manifolds Chen & Lipman 2024): along the shortest path
from y₀ ~ p₀ to y₁ the velocity is constant. No network is in here: a field is any function of coordinates and time.
Steps are fixed and each crystal has its own coordinates, hence a sample never depends on those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoperi.geometry.torus import Space
from autoperi.symmetry.freedom import STRAINS, Freedom

Field = Callable[[Tensor, Tensor], Tensor]
"""Coordinates ``[B, D]`` and times ``[B]`` to velocities ``[B, D]``; row b depends on row b alone."""
EXACT_DIMENSIONS = 48
"""Free coordinates up to which the divergence is exact."""
UNIFORM_SCALE = 1.0
"""Standard deviation, in turns, from which a wrapped normal counts as uniform: it then differs from it by less than
1e-8.
"""
_TABLEAUS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # nodes of the stages (each stage starts from the previous one's slope), weights of their slopes
    "euler": ((0.0,), (1.0,)),
    "midpoint": ((0.0, 0.5), (0.0, 1.0)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
METHODS = tuple(_TABLEAUS)


@dataclass(frozen=True, eq=False)
class Base:
    """Independent normals on lines, wrapped normals or the uniform density on circles.

    Attributes:
        space: the coordinates.
        mean: ``[B, D]``.
        scale: standard deviations, ``[B, D]``; a circle with at least :data:`UNIFORM_SCALE` is uniform.
    """

    space: Space
    mean: Tensor
    scale: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """Samples from standard normal ``noise`` ``[B, D]``; the caller seeds it crystal by crystal."""
        # the normal's distribution function makes the same noise uniform on the circle
        uniform = 0.5 * (1 + torch.erf(noise / math.sqrt(2)))
        free = self.space.circular & (self.scale >= UNIFORM_SCALE)
        return self.space.wrap(torch.where(free, uniform, self.mean + self.scale * noise))

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density at ``y`` in nats, ``[B]``."""
        # a wrapped normal is a sum over turns; six to either side are all that a scale below one turn can reach
        offset = self.space.difference(self.mean, y)
        scale = self.scale.clamp(min=1e-12)
        normal = -0.5 * (offset / scale) ** 2
        turns = torch.arange(-6, 7, dtype=y.dtype, device=y.device)
        wrapped = torch.logsumexp(-0.5 * ((offset.unsqueeze(-1) + turns) / scale.unsqueeze(-1)) ** 2, -1)
        log = torch.where(self.space.circular, wrapped, normal) - torch.log(scale) - 0.5 * math.log(2 * math.pi)
        log = torch.where(self.space.circular & (self.scale >= UNIFORM_SCALE), torch.zeros_like(log), log)
        return torch.where(self.space.present, log, torch.zeros_like(log)).sum(1)


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log densities of B crystals over their free coordinates.

    Attributes:
        nats: ``[B]``.
        standard_error: of ``nats``, ``[B]``; 0 where the divergence was exact.
        dimensions: free coordinates, ``[B]``.
        start: where the flow came from, ``[B, D]``.
    """

    nats: Tensor
    standard_error: Tensor
    dimensions: Tensor
    start: Tensor

    @property
    def bits_per_dimension(self) -> Tensor:
        """Negative log density in bits per free coordinate, ``[B]``; NaN for crystals that have none."""
        return -self.nats / math.log(2) / self.dimensions


def crystal_noise(freedom: Freedom, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise ``[B, D]`` in float64; each crystal draws as many numbers as it has columns itself,
    whatever stands beside it.

    Args:
        freedom: B crystals.
        generators: one a crystal (:func:`autoperi.data.random.torch_generator` of seed and index).
    """
    orbits = torch.bincount(freedom.crystal, minlength=len(freedom)).tolist()
    noise = torch.zeros(len(freedom), freedom.width, dtype=torch.float64)
    for b, (count, generator) in enumerate(zip(orbits, generators, strict=True)):
        noise[b, : STRAINS + 3 * count] = torch.randn(STRAINS + 3 * count, generator=generator, dtype=torch.float64)
    return noise


def path(start: Tensor, end: Tensor, t: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Flow matching's shortest path: the point at time t and its constant velocity, each ``[B, D]``.

    Args:
        start, end: coordinates at t = 0 and 1, ``[B, D]``.
        t: times in [0, 1], ``[B]``.
        space: the coordinates.
    """
    velocity = space.difference(start, end)
    return space.wrap(start + t.unsqueeze(1) * velocity), velocity


def integrate(
    field: Field,
    y: Tensor,
    space: Space,
    *,
    steps: int,
    method: str = "midpoint",
    backwards: bool = False,
    after: Callable[[Tensor], Tensor] | None = None,
    anneal: float = 0.0,
) -> Tensor:
    """Follow a field from t = 0 to 1, or backwards, in equal steps, ``[B, D]``.

    Annealed velocities (FlowMM, Miller et al. 2024; CrystalFlow, Luo et al. 2025) draw coordinates to where the field
    points sooner than its paths would. Here no step goes past the end of a straight path: in the last step but k they
    are at most k + 1 times as fast. What is reached is sharper than the flow's density, and not distributed as
    :func:`log_likelihood` says.

    Args:
        field: the velocity.
        y: coordinates at the start, ``[B, D]``.
        space: the coordinates.
        steps: number of steps.
        method: ``euler``, ``midpoint`` or ``rk4`` (1, 2 or 4 evaluations a step).
        backwards: from t = 1 to 0.
        after: brings coordinates back to where they may be, after each step.
        anneal: velocities on circles are 1 + ``anneal`` · t times as fast; those on lines stay. 0 follows the field.
    """
    if not anneal >= 0 or (anneal and backwards):
        raise ValueError(f"anneal={anneal!r} must be at least 0, and 0 where time runs backwards")
    with torch.no_grad():
        options: dict[str, Any] = {"steps": steps, "method": method, "backwards": backwards}
        return _solve(lambda at, t: (field(at, t), None), y, space, **options, after=after, anneal=anneal)[0]


def log_likelihood(
    field: Field,
    base: Base,
    y: Tensor,
    *,
    steps: int | None = None,
    method: str = "rk4",
    tolerance: float = 1e-2,
    exact: bool = True,
    copies: Field | None = None,
    noise: Tensor | None = None,
) -> LogLikelihood:
    """Log density of the flow at ``y``.

    The integral is that of the differential equation, to the accuracy of the steps. Those of a flow that was learned
    from crystals want to be short in some places and may be long in others, which a Runge-Kutta method of order 5(4)
    finds by itself (Dormand and Prince 1980, in SciPy); equal steps of rk4 have an error of steps⁻⁴ where the field is
    smooth. Hutchinson's estimate tr J = E[εᵀJε] (FFJORD; Grathwohl et al. 2019) keeps its probes along the way.

    Args:
        field: the velocity, differentiable in the coordinates.
        base: density at t = 0.
        y: coordinates at t = 1, ``[B, D]``.
        steps, method: equal steps instead of adapted ones.
        tolerance: nats that an adapted step may be wrong by, and hundredths of it for coordinates. Rows share their
            steps: give one at a time for results that do not depend on others.
        exact: one backward pass a coordinate; otherwise Hutchinson's estimate.
        copies: for a single row, the field of as many copies of it as it has coordinates that are present: all passes
            become one.
        noise: probes ±1, ``[K, B, D]``, K at least 2; seeded by the caller, crystal by crystal.
    """
    space = base.space
    if not exact and (noise is None or len(noise) < 2):
        raise ValueError("an estimate needs at least two probes; give noise of shape [K, B, D]")

    def augmented(at: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if exact and copies is not None:
            return _trace_of_copies(copies, at, t, space)
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            velocity = field(leaf, t) * space.present
            if exact:
                trace = _trace(velocity, leaf, space).unsqueeze(0)
            else:
                assert noise is not None
                trace = torch.stack([_probe(velocity, leaf, probe * space.present) for probe in noise])
        return velocity.detach(), trace

    if steps is None:
        start, integral = _adapted(augmented, y, space, tolerance, traces=1 if exact or noise is None else len(noise))
    else:
        start, found = _solve(augmented, y, space, steps=steps, method=method, backwards=True)
        assert found is not None
        integral = found
    nats = base.log_prob(start) + integral.mean(0)  # integrated from 1 to 0, hence the sign
    error = torch.zeros_like(nats) if exact else integral.std(0) / len(integral) ** 0.5
    return LogLikelihood(nats, error, space.dimensions, start)


def _adapted(
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], y: Tensor, space: Space, tolerance: float, *, traces: int
) -> tuple[Tensor, Tensor]:
    """As :func:`_solve`, backwards, with steps as short as they must be; ``slopes`` gives ``traces`` of each row beside
    its velocity.
    """
    from scipy.integrate import solve_ivp

    size = y.numel()

    def rates(t: float, state: np.ndarray) -> np.ndarray:
        at = space.wrap(torch.as_tensor(state[:size], dtype=y.dtype, device=y.device).reshape(y.shape))
        velocity, trace = slopes(at, torch.full((len(y),), t, dtype=y.dtype, device=y.device))
        return torch.cat([velocity.flatten(), trace.flatten()]).double().cpu().numpy()

    # SciPy integrates one vector: all coordinates, then the integrals of all traces, each with its own tolerance
    start = np.concatenate([y.flatten().double().cpu().numpy(), np.zeros(traces * len(y))])
    allowed = np.where(np.arange(len(start)) < size, tolerance / 100, tolerance)
    end = solve_ivp(rates, (1.0, 0.0), start, method="RK45", rtol=1e-9, atol=allowed).y[:, -1]
    found = torch.as_tensor(end, dtype=y.dtype, device=y.device)
    return space.wrap(found[:size].reshape(y.shape)), found[size:].reshape(traces, len(y))


def _trace(velocity: Tensor, leaf: Tensor, space: Space) -> Tensor:
    """Divergence ``[B]``, exactly: one backward pass a coordinate gives that of all rows, since no row sees another."""
    total = torch.zeros_like(velocity[:, 0]) if velocity.shape[1] else velocity.new_zeros(len(velocity))
    if not velocity.requires_grad:
        return total
    for d in range(velocity.shape[1]):
        if bool(space.present[:, d].any()):
            (slope,) = torch.autograd.grad(velocity[:, d].sum(), leaf, retain_graph=True, materialize_grads=True)
            total = total + slope[:, d].detach() * space.present[:, d]
    return total


def _trace_of_copies(copies: Field, at: Tensor, t: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Velocity ``[1, D]`` and divergence ``[1, 1]`` of one row: copy d gives the d-th slope."""
    columns = torch.nonzero(space.present[0]).squeeze(1)
    own = torch.arange(len(columns), device=at.device)
    # copies do not see one another, so the gradient of Σ_d v_d(copy d) holds every ∂v_d/∂y_d in a row of its own
    with torch.enable_grad():
        leaf = at.detach().expand(len(columns), -1).clone().requires_grad_()
        velocity = copies(leaf, t.expand(len(columns)))
        (slope,) = torch.autograd.grad(velocity[own, columns].sum(), leaf)
    return velocity[:1].detach() * space.present, slope[own, columns].sum().reshape(1, 1)


def _probe(velocity: Tensor, leaf: Tensor, probe: Tensor) -> Tensor:
    """εᵀJε ``[B]`` for one probe ε ``[B, D]``."""
    if not velocity.requires_grad:
        return torch.zeros_like(velocity).sum(1)
    (slope,) = torch.autograd.grad((velocity * probe).sum(), leaf, retain_graph=True, materialize_grads=True)
    return (slope * probe).sum(1).detach()


def _solve(
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    y: Tensor,
    space: Space,
    *,
    steps: int,
    method: str,
    backwards: bool,
    after: Callable[[Tensor], Tensor] | None = None,
    anneal: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """The last coordinates, and the integral over time of whatever comes beside the velocity."""
    if method not in _TABLEAUS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if steps < 1:
        raise ValueError(f"steps={steps} is not a positive number of steps")
    nodes, weights = _TABLEAUS[method]
    h = (-1.0 if backwards else 1.0) / steps
    integral: Tensor | None = None
    for step in range(steps):
        time = (1.0 if backwards else 0.0) + step * h
        slope, moved, beside = torch.zeros_like(y), torch.zeros_like(y), None
        for node, weight in zip(nodes, weights, strict=True):
            t = torch.full((len(y),), time + node * h, dtype=y.dtype, device=y.device)
            slope, extra = slopes(space.wrap(y + node * h * slope), t)
            slope = slope * space.present
            if anneal:
                # a factor of steps - step takes a straight path to its end in one step: no faster
                slope = torch.where(space.circular, slope * min(1 + anneal * (time + node * h), steps - step), slope)
            moved = moved + weight * slope
            if extra is not None:
                beside = weight * extra if beside is None else beside + weight * extra
        y = space.wrap(y + h * moved)
        if after is not None:
            y = after(y)
        if beside is not None:
            integral = h * beside if integral is None else integral + h * beside
    return y, integral
