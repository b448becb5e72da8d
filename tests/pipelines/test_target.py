"""generate(target=...): of many candidates those with the nearest predictions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from autoperi import AutoPeri
from autoperi.errors import RequestError
from autoperi.pipelines.options import named_numbers
from autoperi.pipelines.target import candidates_for, check_target, nearest


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"colour": 1.0}, "choose from formation_energy"),
        ({"band_gap": "wide"}, "not a number"),
        ({"band_gap": math.nan}, "not a number"),
        ({"bulk_modulus": 0}, "not positive"),
        ({}, "names no property"),
        ("band_gap", "names no property"),
    ],
)
def test_bad_targets(target: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_target(target)


def test_options_of_the_command_line() -> None:
    assert named_numbers(["band_gap=1.5", "bulk_modulus=100"]) == {"band_gap": 1.5, "bulk_modulus": 100.0}
    for bad in ("band_gap", "band_gap=wide", "=1"):
        with pytest.raises(RequestError):
            check_target(named_numbers([bad]))


def test_the_nearest_first_and_of_equals_the_likeliest() -> None:
    table = pd.DataFrame({"band_gap_eV": [0.0, 3.0, 1.4, np.nan, 3.0], "band_gap_eV_std": [0.1] * 5})
    chosen = nearest({"band_gap": 3.0}, table, [-1.0, -5.0, -1.0, -1.0, -2.0], 3)
    assert [k for k, _ in chosen] == [4, 1, 2]
    assert chosen[0][1] == {"band_gap": {"wanted": 3.0, "predicted": 3.0, "std": 0.1}}
    assert nearest({"band_gap": 3.0}, table, [None] * 5, 10)[-1][0] == 3  # no prediction comes last


def test_pool() -> None:
    assert [candidates_for(n) for n in (1, 5, 200, 5000)] == [10, 50, 2000, 5000]


def test_a_target_moves_what_is_generated() -> None:
    peri = AutoPeri.from_pretrained()
    plain = peri.score(peri.generate(n=8, chemical_system="Mg-O", seed=0, progress=False), properties=["bulk_modulus"])[
        "bulk_modulus_GPa"
    ]
    found = peri.generate(n=3, chemical_system="Mg-O", target={"bulk_modulus": 60}, seed=0, progress=False)
    told = [s.properties["autoperi"]["target"]["bulk_modulus"] for s in found]
    assert all(t["wanted"] == 60 and t["std"] > 0 for t in told)
    scored = peri.score(found, properties=["bulk_modulus"])["bulk_modulus_GPa"]
    assert np.allclose(scored, [t["predicted"] for t in told], rtol=1e-4)
    assert np.abs(np.log(scored / 60)).mean() < np.abs(np.log(plain / 60)).mean()
    assert {e.symbol for s in found for e in s.composition} == {"Mg", "O"}
