"""A request in plain JSON."""

from __future__ import annotations

import json

import pytest

from autoperi.errors import RequestError
from autoperi.pipelines.request import Request, make_request
from autoperi.testing import tiny_crystals


def test_an_echo_names_each_option_once_and_repeats_the_request():
    request = make_request("NaCl", n=2, seed=3, model="prior", num_atoms=(2, 8), exclude_elements="Pb", space_group=225)
    echo = json.loads(json.dumps(request.echo()))
    assert echo["generator"] == "prior"
    assert "model" not in echo
    again = {k: v for k, v in echo.items() if v is not None and k != "generator"}
    assert make_request(**again, model=echo["generator"]) == request


def test_a_request_is_given_back_as_it_is():
    request = make_request("KBr", like=tiny_crystals()[0], n=4, seed=1)
    assert isinstance(request, Request)
    assert make_request(request) is request
    assert request.echo()["like"] == {"space_group": 225, "atoms": 2}


def test_a_request_that_was_not_checked_is_refused():
    with pytest.raises(RequestError, match="has not been checked; make a request with make_request"):
        make_request(Request(composition=((11, 1), (17, 1))))
