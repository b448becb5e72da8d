"""Tables and figures that the documentation takes from benchmarks/results are those of the files as they are."""

from __future__ import annotations

import copy
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFRESH = runpy.run_path(str(ROOT / "tools" / "refresh_docs.py"))
CALCULATOR = ROOT / "docs" / "calculator.md"


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", REFRESH["PAGES"], ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_what_the_script_would_write(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert REFRESH["refreshed"](text) == text, "run python tools/refresh_docs.py"
    for command in re.findall(r"<!-- table \w+: python (\S+)", text):
        assert (ROOT / command).exists()


def test_another_number_would_be_noticed() -> None:
    text = CALCULATOR.read_text(encoding="utf-8")
    for old in (r"(\| Cu \| AutoPeri \| \d)", r"(in per cent \| \d)", r"(\| NaCl \| 64 \| \d)"):
        spoiled, count = re.subn(old, r"\g<1>9", text, count=1)
        assert count == 1
        assert REFRESH["refreshed"](spoiled) == text


def test_numbers_keep_their_form(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "| x | {} | `benchmarks/results/f.json`: `a.b` | `python x.py` |"
    for value, old, new in (
        (0.4567, "12.3 %", "45.7 %"),
        (-2.0, "**1.00** eV", "**−2.00** eV"),
        (12345.6, "999", "12,346"),
        (0.5, "−7.25", "0.50"),
    ):
        monkeypatch.setitem(REFRESH["refreshed"].__globals__, "results", lambda _, value=value: {"a": {"b": value}})
        assert REFRESH["refreshed"](row.format(old)) == row.format(new)


def test_the_figure_is_drawn_from_the_results_and_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    solids = runpy.run_path(str(ROOT / "benchmarks" / "potential" / "solids.py"))
    found, figure = results("solids.json"), ROOT / "docs" / "images" / "solids.png"
    with image.open(figure) as drawn:
        assert drawn.info["results"] == solids["fingerprint"](found), "run python tools/refresh_docs.py"
    assert figure.stat().st_size < 250_000
    # nothing found of a crystal leaves a gap, not an error
    lacking = copy.deepcopy(found)
    lacking["solids"]["Cu"]["autoperi"] |= {"bands": None, "K": None}
    lacking["solids"]["Cu"]["autoperi"]["phonons"] |= {"imaginary_modes": None, "modes": None}
    solids["draw"](lacking, tmp_path / "lacking.png")
    errors = solids["errors"](lacking["solids"], "autoperi")
    assert (errors["K_percent"], errors["imaginary_modes"]) == (None, None)
    assert errors["a_percent"] == found["summary"]["autoperi"]["a_percent"]


def test_experiment_is_stated_once_and_consistently() -> None:
    solids = runpy.run_path(str(ROOT / "benchmarks" / "potential" / "solids.py"))
    page = " ".join(CALCULATOR.read_text(encoding="utf-8").split())
    for formula, solid in results("solids.json")["solids"].items():
        known = solid["experiment"]
        assert {k: known[k] for k in solids["EXPERIMENT"][formula]} == solids["EXPERIMENT"][formula]
        assert known["K"] == pytest.approx((known["C11"] + 2 * known["C12"]) / 3, abs=0.06)
        year = re.search(r"\((\d{4})\)", known["source"])
        assert year is not None
        assert f"({year[1]}, {formula})" in page


def test_the_energy_is_conserved() -> None:
    """Less than 1 meV/atom over 2 ps with steps of 1 fs, 64 atoms near 300 K."""
    for run in results("nve.json")["runs"].values():
        assert (run["atoms"], run["ps"], run["timestep_fs"]) == (64, 2.0, 1.0)
        assert 240 < run["mean_temperature_K"] < 360
        assert run["drift_meV_per_atom"] < 1
        assert run["max_excursion_meV_per_atom"] < 1


def test_a_table_that_is_not_measured_yet_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = REFRESH["refreshed"].__globals__
    text = "<!-- table flow_losses: python x.py -->\n\nNot measured yet.\n\n<!-- end of table -->"
    monkeypatch.setitem(names, "RESULTS", tmp_path)
    assert REFRESH["refreshed"](text) == text
    errors = dict.fromkeys(("noise", "near", "energy", "symmetry", "reconstruction", "kl"), 0.25)
    matched = {"match_rate": 0.5, "rmse": 0.125}
    rows = {"nearest description": {"errors": errors, "noise": matched, "near": matched, "seconds": 61.2}}
    (tmp_path / "autoperi_gnn_losses_mp_val.json").write_text(json.dumps({"rows": rows}))
    made = REFRESH["refreshed"](text)
    assert (
        "| nearest description | 0.250 | 0.250 | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 50 %, 0.125 | 50 %, 0.125 | 61 |"
        in made
    )
    assert "Not measured" not in made
