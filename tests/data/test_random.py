"""Samples depend on (seed, index) and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperi.data.random import MAX_SEED, check_seed, numpy_generator, torch_generator
from autoperi.errors import AutoPeriError, RequestError

LAWS = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, MAX_SEED)
INDICES = st.lists(st.integers(0, 2**31), max_size=3).map(tuple)


def numpy_draw(seed: int, *index: int) -> list[float]:
    return numpy_generator(seed, *index).random(4).tolist()


def torch_draw(seed: int, *index: int) -> list[float]:
    return torch.rand(4, generator=torch_generator(seed, *index), dtype=torch.float64).tolist()


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
@LAWS
@given(seed=SEEDS, index=INDICES)
def test_the_same_numbers_again(draw, seed, index):
    assert draw(seed, *index) == draw(seed, *index)


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
@LAWS
@given(seed=SEEDS, a=INDICES, b=INDICES)
def test_another_index_gives_other_numbers(draw, seed, a, b):
    assert (draw(seed, *a) == draw(seed, *b)) == (a == b)


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_no_two_of_many_samples_agree(draw):
    draws = [
        tuple(draw(seed, *index))
        for seed in range(5)
        for index in [(), *((i,) for i in range(40)), *((i, 0) for i in range(40))]
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_a_sample_does_not_depend_on_those_drawn_before(draw):
    alone = draw(7, 3)
    for i in range(3):
        draw(7, i)
    assert draw(7, 3) == alone


def test_neighbouring_samples_are_not_correlated():
    normals = np.stack([numpy_generator(0, i).normal(size=2000) for i in range(6)])
    torch_normals = np.stack([torch.randn(2000, generator=torch_generator(0, i)).numpy() for i in range(6)])
    for drawn in (normals, torch_normals):
        off_diagonal = np.corrcoef(drawn)[~np.eye(6, dtype=bool)]
        assert np.abs(off_diagonal).max() < 0.1
        assert abs(drawn.mean()) < 0.05


def test_global_generators_are_left_alone():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    check_seed(None)
    numpy_draw(1, 2)
    torch_draw(1, 2)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert before[1][0] == after[1][0]
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2:] == after[1][2:]
    assert torch.equal(before[2], after[2])


def test_global_seeds_do_not_change_a_sample():
    torch.manual_seed(1)
    first = torch_draw(5, 0), numpy_draw(5, 0)
    torch.manual_seed(2)
    assert (torch_draw(5, 0), numpy_draw(5, 0)) == first


def test_torch_generator_lives_on_the_cpu():
    assert torch_generator(0).device.type == "cpu"


@pytest.mark.parametrize("seed", [0, 1, MAX_SEED, np.int64(3), np.uint8(4)])
def test_good_seeds_come_back_as_int(seed):
    assert check_seed(seed) == int(seed)
    assert type(check_seed(seed)) is int


def test_no_seed_means_a_fresh_one():
    fresh = {check_seed(None) for _ in range(20)}
    assert len(fresh) > 15
    assert all(check_seed(s) == s for s in fresh)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.0, "1", True, np.float64(2), [1], np.int64(-5)])
def test_bad_seeds_are_named(seed):
    with pytest.raises(RequestError) as error:
        check_seed(seed)
    assert repr(seed) in str(error.value)
    assert "None" in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, AutoPeriError)
    assert isinstance(error.value, ValueError)
