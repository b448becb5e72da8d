"""``benchmarks/potential/calculator.py``: small sizes, whole reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calculator import main, sizes

from autoperi.errors import WeightsError
from autoperi.hub.bundle import Bundle, save_bundle
from autoperi.hub.networks import network_component
from autoperi.models.potential import Potential


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is nothing but a small potential."""
    directory = tmp_path_factory.mktemp("models") / "small"
    save_bundle(
        Bundle("small", {"potential": network_component(Potential(channels=8, layers=1))}, {"licence": "MIT"}),
        directory,
    )
    return directory


def test_a_report_holds_times_ratios_memory_and_what_they_were_measured_with(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    sizes_asked = ["--sizes", "8,64", "--scaling", "64,216", "--repeats", "2"]
    report = main(
        ["--model", str(model), "--device", "cpu", *sizes_asked, "--against", "lj", "--out", str(out), "--quiet"]
    )
    assert report == json.loads(out.read_text())
    assert [row["atoms"] for row in report["rows"]] == [8, 64]
    for row in report["rows"]:
        assert row["ratio"] == pytest.approx(row["other_ms"] / row["ms"])
        assert row["cpu_ratio"] == pytest.approx(row["other_cpu_ms"] / row["cpu_ms"])
        assert row["ratio_searching"] == pytest.approx(row["other_ms"] / row["ms_searching"])
    assert [row["atoms"] for row in report["scaling"]] == [64, 216]
    for row in report["scaling"]:
        assert row["us_per_atom"] == pytest.approx(1e3 * row["ms"] / row["atoms"])
    assert report["scaling"][0]["peak_memory_GB"] <= report["scaling"][1]["peak_memory_GB"]
    assert (report["model"], report["untrained"], report["dtype"], report["device"]) == (
        "small",
        False,
        "float32",
        "cpu",
    )
    assert report["against"]["calculator"] == "lj"
    assert report["threads"] >= 1
    assert {"autoperi", "torch"} <= set(report["versions"])


def test_a_table_alone_and_nothing_to_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--untrained", "--sizes", "8", "--scaling", "none", "--repeats", "1", "--against", "none", "--quiet"])
    out = capsys.readouterr().out
    assert "against nothing" in out
    assert out.splitlines()[1].split()[0] == "8"


def test_sizes_are_whole_cubes() -> None:
    assert sizes("512,8,60,10000") == [8, 64, 512, 10648]
    assert sizes("none") == []


def test_a_model_without_a_potential_is_refused_with_the_remedy(tiny_dir: Path) -> None:
    with pytest.raises(WeightsError, match=r"no component 'potential'.*autoperi train potential"):
        main(["--model", str(tiny_dir)])
