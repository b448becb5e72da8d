"""Continuous flows on lines and circles: densities that integrate to one, paths, solvers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.geometry.torus import Space
from autoperi.processes.flow import Base, integrate, log_likelihood, path

F64 = torch.float64


def space(n: int, circular: list[bool], present: list[bool] | None = None) -> Space:
    present = [True] * len(circular) if present is None else present
    return Space(torch.tensor([present] * n), torch.tensor([circular] * n))


def line_field(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(1.3 * y + t.unsqueeze(1)) - 0.4 * y.flip(1)


def circle_field(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    turn = 2 * math.pi
    return 0.2 * torch.sin(turn * y + t.unsqueeze(1)) + 0.1 * torch.cos(turn * y.flip(1) * 2)


def grid(low: float, high: float, n: int, dimensions: int) -> tuple[torch.Tensor, float]:
    step = (high - low) / n
    axis = low + step * (torch.arange(n, dtype=F64) + 0.5)
    return torch.cartesian_prod(*[axis] * dimensions).view(-1, dimensions), step**dimensions


@pytest.mark.parametrize(("dimensions", "n"), [(1, 2000), (2, 140)])
def test_density_integrates_to_one_on_lines(dimensions, n):
    points, cell = grid(-9.0, 9.0, n, dimensions)
    s = space(len(points), [False] * dimensions)
    base = Base(s, torch.full_like(points, 0.3), torch.full_like(points, 0.8))
    found = log_likelihood(line_field, base, points, steps=24)
    assert float(found.nats.exp().sum() * cell) == pytest.approx(1.0, abs=2e-4)
    assert bool((found.standard_error == 0).all())


@pytest.mark.parametrize("scale", [0.15, 2.0])
@pytest.mark.parametrize(("dimensions", "n"), [(1, 1000), (2, 120)])
def test_density_integrates_to_one_on_a_torus(dimensions, n, scale):
    points, cell = grid(0.0, 1.0, n, dimensions)
    s = space(len(points), [True] * dimensions)
    base = Base(s, torch.full_like(points, 0.9), torch.full_like(points, scale))
    found = log_likelihood(circle_field, base, points, steps=24)
    assert float(found.nats.exp().sum() * cell) == pytest.approx(1.0, abs=2e-4)


def test_density_integrates_to_one_on_a_cylinder():
    line, _ = grid(-8.0, 8.0, 160, 1)
    circle, _ = grid(0.0, 1.0, 80, 1)
    points = torch.cat([line.repeat_interleave(80, 0), circle.repeat(160, 1)], 1)
    s = space(len(points), [False, True])
    base = Base(s, torch.zeros_like(points), torch.tensor([0.7, 0.2], dtype=F64).expand_as(points))

    def field(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        turn = 2 * math.pi * y[:, 1]
        return torch.stack([torch.sin(turn) - 0.3 * y[:, 0], 0.2 * torch.cos(turn + y[:, 0])], 1) * (1 + t.unsqueeze(1))

    found = log_likelihood(field, base, points, steps=24)
    assert float(found.nats.exp().sum()) * (16 / 160) / 80 == pytest.approx(1.0, abs=2e-4)


def test_a_linear_field_gives_the_normal_it_must():
    # dy/dt = a y takes N(0, 1) to N(0, e^a)
    a = 0.7
    y = torch.linspace(-3, 3, 13, dtype=F64).unsqueeze(1)
    base = Base(space(13, [False]), torch.zeros_like(y), torch.ones_like(y))
    found = log_likelihood(lambda at, t: a * at, base, y, steps=20)  # noqa: ARG005
    truth = torch.distributions.Normal(0.0, math.exp(a)).log_prob(y[:, 0])
    torch.testing.assert_close(found.nats, truth, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bits_per_dimension, -truth / math.log(2), atol=1e-5, rtol=0)


def test_adapted_steps_give_the_density_of_many_equal_ones():
    y = torch.tensor([[0.3, 0.8], [0.9, 0.1]], dtype=F64)
    for s, field in ((space(2, [True, True]), circle_field), (space(2, [False, False]), line_field)):
        base = Base(s, torch.full_like(y, 0.5), torch.full_like(y, 0.3))
        fine = log_likelihood(field, base, y, steps=100)
        for k in range(2):
            one = Base(s[torch.tensor([k])], base.mean[k : k + 1], base.scale[k : k + 1])
            found = log_likelihood(field, one, y[k : k + 1], tolerance=1e-6)
            torch.testing.assert_close(found.nats, fine.nats[k : k + 1], atol=1e-5, rtol=0)
            torch.testing.assert_close(found.start, fine.start[k : k + 1], atol=1e-6, rtol=0)
            # a pass over copies is the same divergence
            again = log_likelihood(field, one, y[k : k + 1], tolerance=1e-6, copies=field)
            torch.testing.assert_close(again.nats, found.nats, atol=1e-9, rtol=0)
        with_probes = log_likelihood(field, base, y, tolerance=1e-6, exact=False, noise=torch.ones(2, 2, 2, dtype=F64))
        assert with_probes.standard_error.tolist() == [0.0, 0.0]  # the same probe twice


def test_hutchinson_agrees_within_its_standard_error():
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(40, 6, generator=generator, dtype=F64)
    s = space(40, [True] * 4 + [False] * 2)
    base = Base(s, torch.full_like(y, 0.5), torch.full_like(y, 0.3))
    mix = torch.randn(6, 6, generator=generator, dtype=F64) * 0.15

    def field(at: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.2 * torch.sin(2 * math.pi * at) @ mix + t.unsqueeze(1) * torch.cos(2 * math.pi * at) * 0.05

    exact = log_likelihood(field, base, y, steps=8)
    noise = torch.randint(0, 2, (64, 40, 6), generator=generator).to(F64) * 2 - 1
    rough = log_likelihood(field, base, y, steps=8, exact=False, noise=noise)
    z = (rough.nats - exact.nats) / rough.standard_error
    assert bool((rough.standard_error > 0).all())
    assert float(z.abs().max()) < 5
    assert float(z.square().mean()) < 2
    with pytest.raises(ValueError, match="two probes"):
        log_likelihood(field, base, y, steps=8, exact=False, noise=noise[:1])


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_orders_of_the_solvers(method):
    y = torch.tensor([[0.4, -0.8]], dtype=F64)
    s = space(1, [False, False])
    truth = integrate(line_field, y, s, steps=2000, method="rk4")
    errors = [float((integrate(line_field, y, s, steps=n, method=method) - truth).abs().max()) for n in (8, 16)]
    order = {"euler": 1, "midpoint": 2, "rk4": 4}[method]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5)


def test_there_and_back():
    y = torch.rand(10, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    s = space(10, [True] * 3)
    there = integrate(circle_field, y, s, steps=60, method="rk4")
    back = integrate(circle_field, there, s, steps=60, method="rk4", backwards=True)
    torch.testing.assert_close(s.difference(y, back), torch.zeros_like(y), atol=1e-7, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4), st.floats(0, 1))
def test_path_is_the_shortest_and_arrives(values, t):
    start, end = torch.tensor([values[:2]], dtype=F64), torch.tensor([values[2:]], dtype=F64)
    s = space(1, [True, False])
    point, velocity = path(start, end, torch.tensor([t], dtype=F64), s)
    assert abs(float(velocity[0, 0])) <= 0.5
    arrived, _ = path(start, end, torch.ones(1, dtype=F64), s)
    torch.testing.assert_close(s.difference(arrived, end), torch.zeros_like(end), atol=1e-12, rtol=0)
    # what is left of the way is (1 - t) of it; at half a turn both ways are shortest
    left = s.difference(point, end)
    if abs(float(velocity[0, 0])) < 0.4999:
        torch.testing.assert_close(left, (1 - t) * velocity, atol=1e-12, rtol=0)


def test_absent_coordinates_count_for_nothing():
    y = torch.rand(3, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    s1, s2 = space(3, [True, True]), space(3, [True, True, False], [True, True, False])
    base1 = Base(s1, torch.full_like(y, 0.2), torch.full_like(y, 0.3))
    wide = torch.cat([y, torch.full((3, 1), 7.0, dtype=F64)], 1)
    base2 = Base(s2, torch.full_like(wide, 0.2), torch.full_like(wide, 0.3))
    one = log_likelihood(circle_field, base1, y, steps=6)
    two = log_likelihood(lambda at, t: torch.cat([circle_field(at[:, :2], t), at[:, 2:] + 1], 1), base2, wide, steps=6)
    torch.testing.assert_close(one.nats, two.nats)
    assert two.dimensions.tolist() == [2, 2, 2]
    assert bool((two.start[:, 2] == 0).all())


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.5])
def test_draws_follow_their_density(scale):
    n = 20000
    s = space(n, [True, False])
    mean, sigma = (
        torch.tensor([[0.1, -1.0]], dtype=F64).expand(n, 2),
        torch.tensor([[scale, scale]], dtype=F64).expand(n, 2),
    )
    base = Base(s, mean, sigma)
    y = base.draw(torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=F64))
    centres, cell = grid(0.0, 1.0, 10, 1)
    fine, width = grid(0.0, 1.0, 1000, 1)
    one = Base(space(1000, [True]), torch.full_like(fine, 0.1), torch.full_like(fine, scale))
    expected = (one.log_prob(fine).exp() * width).view(10, 100).sum(1)
    observed = torch.histc(y[:, 0], bins=10, min=0, max=1) / n
    assert float((observed - expected).abs().max()) < 0.012, (centres, cell)
    assert float(y[:, 1].std()) == pytest.approx(scale, rel=0.03)


def test_one_crystal_does_not_see_the_others():
    y = torch.rand(5, 4, generator=torch.Generator().manual_seed(4), dtype=F64)
    s = space(5, [True] * 4)
    every = integrate(circle_field, y, s, steps=7)
    alone = torch.cat([integrate(circle_field, y[k : k + 1], s[slice(k, k + 1)], steps=7) for k in range(5)])
    torch.testing.assert_close(every, alone, atol=1e-14, rtol=0)


def test_bad_arguments():
    y = torch.zeros(1, 1, dtype=F64)
    with pytest.raises(ValueError, match="euler, midpoint, rk4"):
        integrate(circle_field, y, space(1, [True]), steps=3, method="heun")
    with pytest.raises(ValueError, match="positive"):
        integrate(circle_field, y, space(1, [True]), steps=0)


def straight(end: torch.Tensor, s: Space):
    """The field of paths that all end at one point."""
    return lambda y, t: s.difference(y, end) / (1 - t).unsqueeze(1).clamp(min=1e-9)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("anneal", [0.5, 3.0, 40.0])
def test_annealed_coordinates_arrive_sooner_and_no_step_goes_too_far(method, anneal):
    s = space(3, [True, True, False])
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.rand(3, 3, generator=generator, dtype=F64) for _ in range(2))
    field, plain, quick = straight(end, s), [], []
    integrate(field, start, s, steps=6, method=method, after=lambda y: plain.append(y) or y)
    integrate(field, start, s, steps=6, method=method, after=lambda y: quick.append(y) or y, anneal=anneal)
    left = [s.difference(y, end) for y in (start, *quick)]
    for before, after in itertools.pairwise(left):
        assert bool((after.abs() <= before.abs() + 1e-12).all())
        assert bool((after * before >= -1e-12).all()), "past the end"
    for slow, fast in zip(plain, quick, strict=True):
        torch.testing.assert_close(fast[:, 2], slow[:, 2])  # a line
        assert bool((s.difference(fast, end)[:, :2].abs() <= s.difference(slow, end)[:, :2].abs() + 1e-12).all())
    if method == "euler":
        torch.testing.assert_close(s.difference(quick[-1], end), torch.zeros_like(end), atol=1e-9, rtol=0)


def test_annealing_that_makes_no_sense_is_refused():
    y = torch.zeros(1, 1, dtype=F64)
    for options in ({"anneal": -1.0}, {"anneal": math.nan}, {"anneal": 1.0, "backwards": True}):
        with pytest.raises(ValueError, match="anneal"):
            integrate(line_field, y, space(1, [True]), steps=2, **options)
