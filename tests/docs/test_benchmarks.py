"""What the benchmark scripts do with their numbers: tables beside published ones, dealing of candidates, probes of the
latent space.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri

ROOT = Path(__file__).resolve().parents[2]
GNN = ROOT / "benchmarks" / "autoperi_gnn"


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


@pytest.fixture
def latent_map(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(GNN))
    return runpy.run_path(str(GNN / "latent_map.py"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("steps_curve", "steps_curve_mp_val.json"),
        ("latent_map", "latent_map.json"),
        ("gemsdiff_steps", "gemsdiff_steps_mp20_test.json"),
        ("gemsdiff_frechet", "gemsdiff_frechet.json"),
        ("three_systems", "three_systems_mp20_test.json"),
        ("pgcgm_lengths", "pgcgm_relaxed.json"),
    ],
)
def test_figures_are_drawn_from_the_results_and_small(name: str, source: str) -> None:
    image = pytest.importorskip("PIL.Image")
    figures = runpy.run_path(str(GNN / "figures.py"))
    figure = ROOT / "docs" / "images" / f"{name}.png"
    with image.open(figure) as drawn:
        assert drawn.info["results"] == figures["fingerprint"](results(source))
    assert figure.stat().st_size < 300_000


def test_figures_of_gemsdiff_belong_to_the_bundled_model() -> None:
    from autoperi.hub.store import resolve

    bundled = AutoPeri.from_pretrained("gemsdiff").provenance()["sha256"]
    for name in ("gemsdiff_mp20_test", "gemsdiff_csp_mp20_test", "gemsdiff_steps_mp20_test"):
        assert results(f"{name}.json")["model"]["sha256"] == bundled, name
    path = resolve("gemsdiff").path
    assert path is not None
    card = (path / "README.md").read_text(encoding="utf-8")
    assert f"{results('gemsdiff_csp_mp20_test.json')['runs'][0]['match_rate']['20']:.4g}" in card


def test_figures_of_score_langevin_belong_to_the_bundled_model() -> None:
    bundled = AutoPeri.from_pretrained("score-langevin").provenance()["sha256"]
    assert results("score_langevin_mp20_test.json")["model"]["sha256"] == bundled
    assert results("score_langevin_known.json")["model"]["sha256"] == bundled
    models = results("three_systems_mp20_test.json")["models"]
    assert models["gemsdiff"] == AutoPeri.from_pretrained("gemsdiff").provenance()["sha256"]


def test_figures_of_pgcgm_belong_to_the_bundled_model() -> None:
    bundled = AutoPeri.from_pretrained("pgcgm").provenance()["sha256"]
    for name in ("pgcgm_mp20_test", "pgcgm_relaxed", "pgcgm_rediscovery", "pgcgm_stream"):
        assert results(f"{name}.json")["model"]["sha256"] == bundled, name
    assert results("pgcgm_generation_mp20_test_1000.json")["model_sha256"] == bundled


def test_tables_of_gemsdiff_wait_for_draws() -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks" / "gemsdiff" / "tables.py"))
    frechet = {key: value for key, value in results("gemsdiff_frechet.json").items() if key != "draws"}
    assert tables["table_3"](frechet) is None
    assert tables["table_2"](results("gemsdiff_mp20_test.json"), frechet) is None
    for text in (tables["noise_table"](frechet), tables["sizes_table"](frechet)):
        rows = [line for line in text.split("\n") if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1


def test_tables_beside_published_numbers_wait_for_ours() -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks" / "published.py"))
    for name in ("published_table", "perov_carbon_table"):
        text = tables[name](lambda _: None)
        assert "not measured yet" in text
        columns = {line.count("|") for line in text.split("\n") if line.startswith("|")}
        assert columns == {8}
    point = {f"{key}{suffix}": {"value": 0.5} for key in ("match_rate", "rmse") for suffix in ("", "_filtered")}
    found = {"n": 4702, "per_k": [point, point], "match_at_1": 0.5, "match_at_k": 0.9, "rmse": 0.1, "metre_dealt": 0.25}
    found["distinct_requests"] = 9
    found["match_at_1_by_composition"] = {
        "in_training": {"rows": 9, "match_at_1": 0.7},
        "new": {"rows": 8, "match_at_1": 0.5},
    }
    text = tables["published_table"](lambda name: found if "csp" in name else None)
    assert text.count("| **AutoPeri** | 50.0 | 0.500 | 50.0 |") == 2
    text = tables["perov_carbon_table"](lambda name: None if "whole" in name else found | {"n": 2030})
    assert "official, 2,030 of 3,785" in text
    assert "| AutoPeri, its prior alone | 50.0 | 0.100 | 90.0 | unfiltered | official, 2,030 |" in text
    assert text.count("| AutoPeri, the whole system | not measured yet |") == 2
    assert text.count("2,030 rows are 9 different questions") == text.count("is 1.1 points") == 2
    assert text.count("dealt: 25.0 %") == text.count("70.0 % of 9; of new ones: 50.0 % of 8") == 2


def test_candidates_are_dealt_and_repeated() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "perov_carbon.py"))
    one, two = (
        Structure(Lattice.cubic(a), ["C"] * n, np.linspace(0, 0.9, 3 * n).reshape(n, 3)) for a, n in ((3, 2), (4, 4))
    )
    one.properties = {"log_likelihood": -1.0, "potential_energy_per_atom_eV": -9.0}
    two.properties = {"log_likelihood": -0.5, "potential_energy_per_atom_eV": -8.0}
    request, half = ((6, 4),), ((6, 2),)
    sizes = {4: {4: 0.5, 2: 0.5}}
    made = {request: [two], half: [one]}
    by_p = script["merged"](request, made, sizes, float("inf"))
    assert [len(s) for s in by_p] == [4, 4]
    assert [round(s.lattice.c) for s in by_p] == [4, 3]
    assert [round(s.lattice.c) for s in script["merged"](request, made, sizes, 0.5)] == [3, 4]
    lists = {request: by_p, half: [one]}
    oxygen = Structure(one.lattice, ["O", "O"], one.frac_coords)
    assert script["by_composition"]([[one], [], [two]], [one, one, oxygen], [True, True, False], 1) == {
        "in_training": {"rows": 2, "match_at_1": 0.5},
        "new": {"rows": 1, "match_at_1": 0.0},
    }
    asked = [request, half, request, request]
    assert [len(own) for own in script["ranked"](asked, lists, 20)] == [2, 1, 2, 2]
    assert script["dealt"](asked, lists) == [[by_p[0]], [one], [by_p[1]], []]


def test_probes_find_what_is_there(latent_map: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    systems = rng.integers(0, 7, 400)
    energy = rng.normal(size=400)
    mean = np.stack([systems, energy, 0.01 * rng.normal(size=400)], 1) + 0.01 * rng.normal(size=(400, 3))
    fractions = np.eye(119)[rng.integers(1, 5, 400)]
    _, found = latent_map["summary"](mean, np.full(mean.shape, -4.0), fractions, systems, energy)
    assert found["formation_energy"]["z"]["linear"]["r2"] > 0.99
    assert found["crystal_system"]["z"]["nearest"] > 0.6
    assert found["crystal_system"]["composition"]["linear"] < 0.4
    assert found["active_dimensions"] == 2
    assert found["variance_in_map"] > 0.99
    assert found["kl_nats"] == pytest.approx(float((0.5 * (mean**2 + np.exp(-4) - 1 + 4)).mean(0).sum()), abs=1e-3)
    # nothing there, nothing found
    _, nothing = latent_map["summary"](rng.normal(size=mean.shape), np.zeros(mean.shape), fractions, systems, energy)
    assert nothing["formation_energy"]["z"]["linear"]["r2"] < 0.1
    assert nothing["crystal_system"]["z"]["linear"] < nothing["crystal_system"]["majority"] + 0.1
