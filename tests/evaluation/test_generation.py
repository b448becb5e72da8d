"""The generation report: a set against itself, counts of what is missing, the same for any number of processes,
stability by a calculator.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri
from autoperi.data.convert import atoms_to_structure
from autoperi.data.io import write_crystals
from autoperi.errors import DataError, RequestError
from autoperi.evaluation.generation import evaluate_generation
from autoperi.figures.draw import draw

FAST = {"features": ("crystalnn",), "processes": 1, "progress": False, "oxidation_states": "pymatgen-all"}


@pytest.fixture(scope="module")
def peri() -> AutoPeri:
    return AutoPeri.from_pretrained()


def crystals() -> list[Structure]:
    made = [
        Structure.from_spacegroup(225, Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for cation, anion, a in (("Na", "Cl", 5.64), ("Mg", "O", 4.21), ("Li", "F", 4.03))
    ]
    made.append(Structure.from_spacegroup(216, Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]))
    made.append(
        Structure.from_spacegroup(
            221, Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        )
    )
    metals = [bulk("Cu"), bulk("Al"), bulk("Ni"), bulk("Au")]
    return [s.get_primitive_structure() for s in made] + [atoms_to_structure(a) for a in metals]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_crystals(crystals(), tmp_path_factory.mktemp("data") / "reference.parquet")[0]


@pytest.fixture(scope="module")
def against_itself(peri, table):
    return evaluate_generation(peri, table, crystals=crystals(), train=table, **FAST)


def test_a_set_against_itself_is_covered_and_at_no_distance(against_itself):
    coverage, distribution = against_itself["coverage"], against_itself["distribution"]
    assert coverage["cov_recall"]["value"] == coverage["cov_precision"]["value"] == 1.0
    assert coverage["amsd_recall"]["value"] == coverage["amcd_precision"]["value"] == 0.0
    assert all(
        distribution["all_crystals"][name]["value"] == 0.0
        for name in ("density", "n_elements", "min_distance", "max_distance")
    )
    assert against_itself["frechet"]["crystalnn"]["value"] == pytest.approx(0.0, abs=1e-6)
    real = against_itself["reference_validity"]
    assert {key: real[key] for key in ("valid", "structural", "compositional")} == {
        key: against_itself["validity"][key] for key in ("valid", "structural", "compositional")
    }
    assert against_itself["symmetry"]["space_group"]["jensen_shannon"]["value"] == 0.0
    novelty = against_itself["novelty"]
    assert novelty["unique"]["value"] == 1.0
    assert novelty["novel"]["value"] == novelty["new_composition"]["value"] == 0.0
    assert novelty["rediscovery"]["curve"][-1]["rediscovered"]["value"] == 1.0
    assert novelty["rediscovery"]["match_rate"]["value"] == 1.0


def test_without_entries_there_is_no_stability_and_a_reason_for_it(against_itself):
    assert against_itself["stability"]["reason"] == "no reference entries were given"
    assert "sun" not in against_itself["stability"]
    assert all(row["energy_above_hull_eV"] is None for row in against_itself["crystals"])


def test_the_result_is_plain_json_without_nan_and_every_figure_draws(against_itself):
    text = json.dumps({k: v for k, v in against_itself.items() if k != "series"}, allow_nan=False)
    assert {"parameters", "versions", "data_sha256", "train_sha256", "seed"} <= set(json.loads(text))
    for name, entry in against_itself["series"].items():
        assert draw(entry, name=name).axes, name


def test_processes_and_the_cache_change_nothing(peri, table, against_itself, tmp_path):
    again = evaluate_generation(
        peri, table, crystals=crystals(), train=table, **{**FAST, "processes": 2}, cache=str(tmp_path)
    )
    third = evaluate_generation(peri, table, crystals=crystals(), train=table, **FAST, cache=False)
    plain = [
        json.dumps({k: v for k, v in r.items() if k not in ("seconds", "series")}, sort_keys=True)
        for r in (against_itself, again, third)
    ]
    assert plain[0] == plain[1] == plain[2]


def test_bad_crystals_and_bad_files_are_counted(peri, table, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    good = crystals()[:2]
    for k, crystal in enumerate(good):
        crystal.to(filename=str(folder / f"{k}.cif"))
    crushed = Structure(Lattice.cubic(3.0), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    crushed.to(filename=str(folder / "crushed.cif"))
    (folder / "broken.cif").write_text("data_x\n_cell_length_a nonsense\n")
    found = evaluate_generation(peri, table, crystals=folder, **FAST)
    assert list(found["unreadable_files"]) == ["broken.cif"]
    assert found["files_read"] == 3
    assert found["validity"]["valid_of_all"] == {"value": 0.5, "count": 2, "of": 4, "missing": 0, "reason": None}
    assert found["validity"]["structural"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["coverage"]["cov_precision"]["of"] == 3  # what has no fingerprint counts against the precision
    assert found["coverage"]["cov_precision"]["count"] == 2


def test_a_calculator_relaxes_judges_and_finds_what_is_stable(peri, table, tmp_path):
    metals = [atoms_to_structure(bulk(x, "fcc", a)) for x, a in (("Cu", 3.7), ("Al", 4.0), ("Ni", 3.5))]
    high = atoms_to_structure(bulk("Cu", "bcc", 2.9))
    entries = write_crystals(crystals()[5:], tmp_path / "metals.parquet")[0]
    import pandas as pd

    frame = pd.read_parquet(entries)
    frame["formation_energy_per_atom"] = 0.0
    frame.to_parquet(entries)
    found = evaluate_generation(
        peri,
        table,
        crystals=[*metals, high],
        entries=entries,
        train=table,
        calculator="emt",
        relax_steps=300,
        mechanical=1,
        **FAST,
    )
    stability = found["stability"]
    assert stability["judge"] == "emt"
    assert stability["relaxation"]["status"]["converged"] == 4
    above = [row["energy_above_hull_eV"] for row in found["crystals"]]
    assert np.allclose(above[:3], 0.0, atol=2e-3)
    assert above[3] > 5e-3
    assert stability["metastable"]["value"] == 1.0
    assert stability["sun"]["value"] == 0.0  # all of them are known
    assert stability["mechanical"]["elastic"]["born_stable"]["value"] == 1.0
    assert stability["hull"]["mixed"] is False


def test_model_energies_judge_where_no_calculator_does(peri, table, tmp_path):
    entries = tmp_path / "entries.csv"
    entries.write_text("formula,formation_energy_per_atom\nNaCl,-2.0\nMgO,-3.0\nLiF,-3.1\n")
    found = evaluate_generation(peri, table, crystals=crystals()[:4], entries=entries, train=table, **FAST)
    above = [row["energy_above_hull_eV"] for row in found["crystals"]]
    assert [a is None for a in above] == [False, False, False, True]  # zinc and sulphur have no reference
    assert found["stability"]["metastable"]["of"] == 3
    assert found["stability"]["not_judged"]
    assert found["stability"]["hull"]["mixed"] is True


def test_what_is_no_crystal_is_not_judged_by_the_model(peri, table, tmp_path):
    entries = tmp_path / "entries.csv"
    entries.write_text("formula,formation_energy_per_atom\nNaCl,-2.0\nMgO,-3.0\n")
    squeezed = crystals()[:2]
    for crystal in squeezed:
        crystal.scale_lattice(crystal.volume * 0.1)
    dust = Structure(Lattice.cubic(0.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = evaluate_generation(peri, table, crystals=[*squeezed, dust], entries=entries, train=table, **FAST)
    assert found["stability"]["stable"]["value"] is None
    assert found["stability"]["sun"]["value"] == 0.0
    assert found["stability"]["not_judged"] == {"distances that no crystal has": 3}
    assert found["crystals"][2]["formation_energy_per_atom_eV"] is None


def test_relaxations_stay_in_the_report_where_the_references_cannot_be_used(peri, table, tmp_path):
    entries = tmp_path / "entries.csv"
    entries.write_text("formula,formation_energy_per_atom\nNaCl,-2.0\n")
    copper = [atoms_to_structure(bulk("Cu"))]
    found = evaluate_generation(peri, table, crystals=copper, entries=entries, calculator="emt", relax_steps=50, **FAST)
    assert found["stability"]["relaxation"]["converged"]["value"] == 1.0
    assert "emt" in found["stability"]["reason"]
    assert found["crystals"][0]["energy_above_hull_eV"] is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"features": ("nonsense",)}, RequestError, "nonsense"),
        ({"cutoffs": "mp40"}, RequestError, "mp40"),
        ({"oxidation_states": "mine"}, RequestError, "mine"),
        ({"calculator": "no_such"}, RequestError, "no_such"),
        ({"mechanical": 3}, RequestError, "calculator"),
        ({"processes": 0}, RequestError, "processes"),
        ({"entries": "nowhere.json"}, DataError, "nowhere.json"),
        ({"train": "nowhere.parquet"}, DataError, "nowhere.parquet"),
        ({"crystals": "nowhere/"}, DataError, "nowhere"),
        ({"tolerances": "loose"}, RequestError, "loose"),
        ({"n": 500}, RequestError, "500"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(peri, table, options, error, words):
    with pytest.raises(error, match=words):
        evaluate_generation(peri, table, **{"crystals": crystals(), **FAST, **options})


def test_a_missing_package_is_named_before_any_work(peri, table, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matminer" else real(name, *a))
    with pytest.raises(RequestError, match=r"autoperi\[metrics\]"):
        evaluate_generation(peri, table, crystals="nowhere/", **FAST)
