"""A fraction of nothing is None with its reason, and what could not be judged is counted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperi.metrics.counts import mean, quantity, share

verdicts = st.lists(st.sampled_from([True, False, None]))


@given(verdicts)
def test_a_share_counts_every_verdict_once(flags):
    found = share(flags)
    assert found["of"] + found["missing"] == len(flags)
    assert found["count"] == flags.count(True)
    if found["of"]:
        assert found["value"] == pytest.approx(flags.count(True) / (flags.count(True) + flags.count(False)), abs=1e-6)
        assert found["reason"] is None
    else:
        assert found["value"] is None
        assert found["reason"]


@given(verdicts)
def test_missing_verdicts_can_count_against_the_share(flags):
    found = share(flags, against=True)
    assert found["of"] == len(flags)
    assert found["missing"] == flags.count(None)
    assert found["value"] == (pytest.approx(flags.count(True) / len(flags), abs=1e-6) if flags else None)


def test_the_reason_says_why_nothing_is_left():
    assert share([])["reason"] == "no crystals"
    assert share([None, None], missing="no oxidation states")["reason"] == "no oxidation states"
    assert share([None], against=True) == {"value": 0.0, "count": 0, "of": 1, "missing": 1, "reason": None}


def test_a_mean_leaves_out_what_is_not_a_number_and_counts_it():
    assert mean([1.0, 3.0, None, math.nan, math.inf]) == {"value": 2.0, "of": 2, "missing": 3, "reason": None}
    assert mean([None], missing="no energies") == {"value": None, "of": 0, "missing": 1, "reason": "no energies"}
    assert mean([])["reason"] == "no crystals"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_no_nan_leaves_a_quantity(value):
    assert quantity(value, of=3, reason="singular")["value"] is None
    assert quantity(value, of=3, reason="singular")["reason"] == "singular"
