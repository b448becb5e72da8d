"""Crystal structure prediction end to end: a tiny model, and predictions from a file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pymatgen.core import Lattice, Structure

from autoperi import AutoPeri
from autoperi.data.convert import to_arrays
from autoperi.data.io import write_crystals
from autoperi.errors import DataError, RequestError
from autoperi.evaluation import csp
from autoperi.evaluation.csp import _true_group, evaluate_csp
from autoperi.metrics.match import matcher
from autoperi.testing import tiny_crystals

TIMES = {"seconds", "seconds_generating", "crystals_per_second"}


def rock_salt(a: float = 5.64) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a: float = 3.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


def odd() -> Structure:
    return Structure(Lattice.cubic(4), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])


def table(crystals: list[Structure], path: Path) -> Path:
    for i, crystal in enumerate(crystals):
        crystal.properties = {"id": str(i)}
    write_crystals(crystals, path)
    return path


def predictions(rows: list[tuple[int, Structure]], path: Path) -> Path:
    for row, crystal in rows:
        crystal.properties = {"row": row}
    write_crystals([c for _, c in rows], path)
    return path


@pytest.mark.parametrize("suffix", ["json", "extxyz", "parquet"])
def test_predictions_by_hand(tmp_path: Path, suffix: str) -> None:
    truth = table([rock_salt(), caesium_chloride(), odd()], tmp_path / "truth.json")
    # row 0: wrong, right; row 1: wrong, and what row 0 wants; row 2: right at once
    file = predictions(
        [
            (2, odd()),
            (0, caesium_chloride()),
            (0, rock_salt(5.4)),
            (1, rock_salt(5.0)),
            (0, rock_salt()),
            (1, rock_salt()),
        ],
        tmp_path / f"made.{suffix}",
    )
    result = evaluate_csp(
        None, truth, k=2, predictions=file, oxidation_states="pymatgen-icsd", processes=1, progress=False
    )
    assert (result["n"], result["candidates"], result["no_candidate"], result["unreadable"]) == (
        3,
        5,
        0,
        0,
    )  # the third of row 0 is too many
    assert result["match_at"] == {"1": 0.3333, "2": 0.6667}
    assert (result["match_at_1"], result["match_at_5"], result["match_at_k"]) == (0.3333, None, 0.6667)
    # METRe: at 1, row 1's rock salt and row 0's caesium chloride find each other's truth
    assert [p["metre"]["count"] for p in result["per_k"]] == [3, 3]
    assert result["per_k"][0]["crmse"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["per_k"][0]["corrected_rmse"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    # NaCl2 is not valid
    assert (result["smact_valid"], result["match_at_1_smact"]) == (2, 0)
    assert [p["match_rate_filtered"]["count"] for p in result["per_k"]] == [0, 1]
    assert result["metre"]["all"]["metre"]["value"] == 1
    assert result["metre"]["valid"]["metre"]["count"] == 2
    assert result["model"] == file.name
    assert json.loads(json.dumps(result)) == result


def test_rows_without_predictions_are_counted(tmp_path: Path) -> None:
    truth = table([rock_salt(), rock_salt(5.7)], tmp_path / "truth.json")
    file = predictions([(1, rock_salt())], tmp_path / "made.json")
    result = evaluate_csp(None, truth, k=3, predictions=file, processes=1, progress=False)
    assert (result["no_candidate"], result["match_at_1"], result["match_at_k"]) == (1, 0.5, 0.5)
    assert result["per_k"][0]["metre"]["value"] == 1
    assert result["crystals_per_second"] is None


def test_match_series_and_parameters(tmp_path: Path) -> None:
    truth = table([rock_salt(), caesium_chloride(), odd()], tmp_path / "truth.json")
    made = [(2, odd()), (0, caesium_chloride()), (0, rock_salt(5.4)), (1, rock_salt(5.0)), (1, caesium_chloride())]
    file = predictions(made, tmp_path / "made.json")
    result = evaluate_csp(
        None,
        truth,
        k=2,
        limit=3,
        seed=4,
        predictions=file,
        oxidation_states="pymatgen-icsd",
        processes=1,
        progress=False,
    )
    match = result["match"]
    assert (match["at_1"]["count"], match["at_k"]["count"], match["at_1"]["of"]) == (1, 3, 3)
    assert match["at_5"]["value"] is None
    assert "5 or more" in match["at_5"]["reason"]
    assert match["rmse"] == result["per_k"][0]["rmse"]
    assert match["metre"] == result["metre"]["all"]["metre"]
    for path in result["headline"].values():
        assert match[path.removeprefix("match.")]["value"] is not None
    rates = result["series"]["match_rate"]["curves"]
    assert [q["count"] for q in rates["unfiltered"]["y"]] == [1, 3]
    assert [q["count"] for q in rates["SMACT-filtered"]["y"]] == [0, 2]
    rms = result["series"]["first_match_rms"]["sets"]
    assert (len(rms["first candidate"]), len(rms["first that matches"])) == (1, 3)
    assert result["parameters"] == {
        "k": 2,
        "limit": 3,
        "seed": 4,
        "space_group": False,
        "known": False,
        "steps": None,
        "finish": 0,
        "rank": "energy",
        "predictions": "made.json",
        "oxidation_states": "pymatgen-icsd",
    }
    five = evaluate_csp(None, truth, k=5, predictions=file, processes=1, progress=False)
    assert five["match"]["at_5"] == five["match"]["at_k"] == five["per_k"][4]["match_rate"]
    assert five["headline"]["match rate at 5"] == "match.at_5"
    pytest.importorskip("matplotlib")
    from autoperi.evaluation.report import figures_of

    assert list(figures_of(five)) == ["match_rate", "rmse", "first_match_rms"]
    nothing = evaluate_csp(None, truth, k=1, predictions=predictions([(0, odd())], file), processes=1, progress=False)
    assert len(figures_of(nothing)) == 3
    assert "matches" in nothing["match"]["rmse"]["reason"]


@pytest.mark.parametrize(
    ("value", "group"),
    [
        ("Fm-3m", 225),
        ("221", 221),
        (99.0, 99),
        (5, 5),
        ("no group", 225),
        (None, 225),
        (float("nan"), 225),
        (225.5, 225),
        (0, 225),
    ],
)
def test_the_true_group_of_a_row(value: object, group: int) -> None:
    """A number or a symbol of the table, else spglib's."""
    import pandas as pd

    column = pd.Series([value], dtype=object if isinstance(value, str) or value is None else None)
    assert _true_group(SimpleNamespace(labels=pd.DataFrame({"space_group": column})), 0, rock_salt()) == group


def test_bad_predictions(tmp_path: Path) -> None:
    truth = table([rock_salt()], tmp_path / "truth.json")
    for row in (1, -1, 0.5, None, "a"):
        file = predictions([(row, rock_salt())], tmp_path / "made.json")  # type: ignore[list-item]
        with pytest.raises(DataError, match="property 'row'"):
            evaluate_csp(None, truth, predictions=file)
    with pytest.raises(RequestError, match="either a model or predictions"):
        evaluate_csp(None, truth)
    with pytest.raises(RequestError, match="choose one of"):
        evaluate_csp(None, truth, predictions=file, oxidation_states="mine")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="k=0 is not"):
        evaluate_csp(None, truth, k=0, predictions=file)
    with pytest.raises(RequestError, match="processes=0"):
        evaluate_csp(None, truth, predictions=file, processes=0)


def test_with_a_model(tiny_dir: Path, tmp_path: Path) -> None:
    peri = AutoPeri.from_pretrained(str(tiny_dir))
    crystals = tiny_crystals()[::4]
    truth = table(crystals, tmp_path / "truth.parquet")
    one = evaluate_csp(peri, truth, k=3, seed=1, known=True, processes=1, progress=False)
    two = evaluate_csp(peri, truth, k=3, seed=1, known=True, processes=2, progress=False)
    assert {k: v for k, v in one.items() if k not in TIMES} == {k: v for k, v in two.items() if k not in TIMES}
    assert one["candidates"] > 0
    judge = matcher()
    made = [
        peri.generate(c.composition, n=3, num_atoms=len(c), seed=1, strict=False, progress=False)
        if i not in _none(peri, crystals)
        else []
        for i, c in enumerate(crystals)
    ]
    wanted = [[judge.get_rms_dist(p, c) is not None for p in row] for row, c in zip(made, crystals, strict=True)]
    for k in (1, 2, 3):
        rate = sum(any(row[:k]) for row in wanted) / len(crystals)
        assert one["per_k"][k - 1]["match_rate"]["value"] == round(rate, 6)
        assert one["match_at"][str(k)] == round(rate, 4)
    assert one["no_candidate"] == sum(not row for row in made)


def _none(peri: AutoPeri, crystals: list[Structure]) -> set[int]:
    """Crystals for whose composition the model has no candidate."""
    out = set()
    for i, c in enumerate(crystals):
        try:
            peri.generate(c.composition, n=1, num_atoms=len(c), seed=1, strict=False, progress=False)
        except RequestError:
            out.add(i)
    return out


def test_equal_candidates_of_several_rows_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = table([rock_salt(), rock_salt(5.7), caesium_chloride()], tmp_path / "truth.json")
    file = predictions(
        [(row, c) for row in range(3) for c in (rock_salt(), caesium_chloride())], tmp_path / "made.json"
    )
    compared: list[int] = []
    compare = csp.compare_pairs
    monkeypatch.setattr(csp, "compare_pairs", lambda *a, **k: compared.append(len(a[2])) or compare(*a, **k))
    result = evaluate_csp(None, truth, k=2, predictions=file, processes=1, progress=False)
    assert compared == [2 * 3]
    assert (result["candidates"], result["match_at_1"], result["match_at_k"]) == (6, 0.6667, 1.0)
    assert [point["metre"]["count"] for point in result["per_k"]] == [2, 3]


def test_rows_that_ask_the_same_share_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = table([rock_salt(), rock_salt(5.7), caesium_chloride(), odd()], tmp_path / "truth.json")
    asked: list[int] = []

    def answers(_: object, requests: list, **__: object) -> list:
        asked.append(len(requests))
        return [[to_arrays(rock_salt())] for _ in requests]

    monkeypatch.setattr(csp, "generate_all", answers)
    peri = SimpleNamespace(provenance=lambda: {"model": "m", "sha256": "0"}, settings=SimpleNamespace(known_weight=0.0))
    result = evaluate_csp(peri, truth, k=1, processes=1, progress=False)  # type: ignore[arg-type]
    assert asked == [3]  # Na4Cl4 twice, NaCl, NaCl2
    assert result["candidates"] == 4
    assert result["match_at"]["1"] == 0.5


def test_an_option_that_the_model_honours_for_no_composition_ends_the_run(tiny_dir: Path, tmp_path: Path) -> None:
    write_crystals(tiny_crystals()[:2], tmp_path / "two.parquet")
    with pytest.raises(RequestError, match="steps=99 is not a number of relaxation passes"):
        evaluate_csp(AutoPeri.from_pretrained(tiny_dir), tmp_path / "two.parquet", k=2, steps=99, processes=1)
