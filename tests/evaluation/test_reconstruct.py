from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from autoperi.data.elements import covalent_radii
from autoperi.data.io import read_table, write_crystals
from autoperi.errors import RequestError
from autoperi.evaluation.reconstruct import (
    PACKING,
    RADII_CUBE,
    UNIT_CUBE,
    evaluate_reconstruct,
    radii_volume,
    start_structures,
)
from autoperi.testing import tiny_crystals

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    crystals = tiny_crystals()
    for crystal in crystals:
        crystal.properties["source"] = "textbook"
    path = tmp_path_factory.mktemp("data") / "crystals.parquet"
    write_crystals(crystals, path)
    return path


def perfect(starts: list[Any]) -> list[Any]:
    known = {s.composition.formula: s for s in tiny_crystals()}
    return [known[s.composition.formula] for s in starts]


def identity(starts: list[Any]) -> list[Any]:
    return starts


def test_start_lattices(table):
    crystals = read_table(table)
    for protocol in (UNIT_CUBE, RADII_CUBE):
        for start, truth in zip(start_structures(crystals, protocol), tiny_crystals(), strict=True):
            np.testing.assert_allclose(start.frac_coords, truth.frac_coords)
            assert start.composition == truth.composition
            assert set(start.lattice.angles) == {90.0}
            assert not start.properties, "a label could tell the answer"
            if protocol == UNIT_CUBE:
                np.testing.assert_allclose(start.lattice.abc, 1.0)
            else:
                spheres = sum(4 / 3 * np.pi * covalent_radii()[site.specie.Z] ** 3 for site in truth)
                assert start.volume == pytest.approx(spheres / PACKING)
                assert radii_volume(np.array([s.specie.Z for s in truth])) == pytest.approx(start.volume)


def test_perfect_prediction_has_no_error(table):
    found = evaluate_reconstruct(None, table, predict=perfect)
    for protocol in (UNIT_CUBE, RADII_CUBE):
        errors = found["protocols"][protocol]
        assert errors["length_mae_A"]["value"] == pytest.approx(0, abs=1e-6)
        assert errors["length_r2"]["value"] == 1.0
        assert errors["length_outliers"]["value"] == 0.0
        assert errors["volume_relative_error"]["value"] == pytest.approx(0, abs=1e-6)


def test_identity_is_the_baseline_of_its_start(table):
    found = evaluate_reconstruct(None, table, predict=identity)
    for protocol in (UNIT_CUBE, RADII_CUBE):
        for key, value in found["baselines"][protocol].items():
            assert found["protocols"][protocol][key] == value, key


def test_mean_volume_cube_by_hand(table):
    crystals = tiny_crystals()
    per_atom = np.mean([s.volume / len(s) for s in crystals])
    errors = [np.abs((per_atom * len(s)) ** (1 / 3) - np.array(s.lattice.abc)).mean() for s in crystals]
    angles = [np.abs(90 - np.array(s.lattice.angles)).mean() for s in crystals]
    found = evaluate_reconstruct(None, table, predict=identity)["baselines"]["cube of the mean volume per atom"]
    assert found["length_mae_A"]["value"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert found["angle_mae_deg"]["value"] == pytest.approx(np.mean(angles), abs=1e-6)
    assert found["volume_per_atom_A3"] == pytest.approx(per_atom, abs=1e-4)


def test_baselines_come_from_the_table_that_is_given(table, tmp_path):
    train = tmp_path / "train.parquet"
    write_crystals(
        [
            Structure(Lattice.cubic(3.0), ["Cu"], [[0, 0, 0]]),
            Structure(Lattice.cubic(5.0), ["Cu"] * 5, np.eye(5)[:, :3] / 2),
        ],
        train,
    )
    found = evaluate_reconstruct(None, table, predict=identity, train=train)
    assert found["baselines_fitted_on"] == "train.parquet"
    assert found["baselines"]["cube of the mean volume per atom"]["volume_per_atom_A3"] == pytest.approx((27 + 25) / 2)
    additive = found["baselines"]["cube of element volumes"]
    assert set(found["parameters"]) == {
        "protocols",
        "cells",
        "train",
        "limit",
        "seed",
        "steps",
        "predict",
        "max_pairs",
        "packing",
    }
    assert (found["parameters"]["train"], found["parameters"]["predict"]) == ("train.parquet", "identity")
    assert found["train_sha256"] != found["data_sha256"]
    assert additive["volume_mae_A3"]["missing"] == 0, "an element that the table lacks gets the mean"
    well = evaluate_reconstruct(None, table, predict=identity, train=table)["baselines"]
    assert (
        well["cube of element volumes"]["volume_mae_A3"]["value"]
        < well["cube of the mean volume per atom"]["volume_mae_A3"]["value"]
    )


def test_what_is_not_predicted_is_missing(table):
    found = evaluate_reconstruct(None, table, predict=lambda s: [None, *perfect(s)[1:]], protocols=[RADII_CUBE])
    errors = found["protocols"][RADII_CUBE]
    assert errors["volume_mae_A3"]["missing"] == 1
    assert errors["status"] == {"answered": found["n"] - 1, "no answer": 1}


def test_model_and_the_memory_of_the_unit_cube(table, tiny_bundle):
    from autoperi import AutoPeri

    peri = AutoPeri(tiny_bundle, device="cpu")
    found = evaluate_reconstruct(peri, table, limit=8, seed=1, steps=1, max_pairs=4000, progress=False)
    sizes = [len(s) for s in tiny_crystals()]
    cube = found["protocols"][UNIT_CUBE]
    assert min(sizes) == 2, "two atoms are 2,094 pairs, four are 8,378"
    assert cube["status"]["not tried: too many pairs"] == cube["volume_mae_A3"]["missing"] > 0
    assert found["protocols"][RADII_CUBE]["volume_mae_A3"]["missing"] == 0
    assert found["model"] == "tiny"
    series = found.pop("series")
    json.dumps(found, allow_nan=False)
    assert {e["kind"] for e in series.values()} == {"errors", "parity"}
    again = evaluate_reconstruct(peri, table, limit=8, seed=1, steps=1, max_pairs=4000, progress=False)
    assert again["protocols"][RADII_CUBE]["length_mae_A"] == found["protocols"][RADII_CUBE]["length_mae_A"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ["sphere"]}, "'unit cube'"),
        ({"protocols": []}, "at least one"),
        ({"cells": "conventional"}, "'given' or 'niggli'"),
        ({"predict": None}, "nothing to measure"),
        ({"predict": lambda s: s[:1]}, "returned 1 of"),
        ({"predict": lambda s: [s[1], *s[1:]]}, "changed the atoms"),
        ({"predict": lambda s: [7] * len(s)}, "what is no crystal"),
    ],
)
def test_bad_requests(table, options, message):
    with pytest.raises(RequestError, match=message):
        evaluate_reconstruct(None, table, **{"predict": identity, **options})


def test_moved_atoms_are_refused_but_whole_cells_are_not(table):
    def shifted(by: float) -> Any:
        return lambda starts: [Structure(s.lattice, s.species, np.array(s.frac_coords) + by) for s in starts]

    evaluate_reconstruct(None, table, predict=shifted(1.0), protocols=[RADII_CUBE])
    with pytest.raises(RequestError, match="only the lattice may change"):
        evaluate_reconstruct(None, table, predict=shifted(0.1), protocols=[RADII_CUBE])
