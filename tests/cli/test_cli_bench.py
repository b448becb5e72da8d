"""``autoperi bench``: small sizes, whole reports, refusals before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoperi.cli.bench import sizes
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


def test_a_report_holds_times_ratios_memory_and_what_they_were_measured_with(
    cli: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    ran = cli(
        "bench", "calculator", "--model", model, "--device", "cpu", "--sizes", "8,64", "--scaling", "64,216", "--repeats", 2,
        "--against", "lj", "--out", out, "--json", "--quiet",
    ).done()  # fmt: skip
    report = ran.json
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


def test_a_table_alone_and_nothing_to_compare_with(cli: Callable[..., Any]) -> None:
    ran = cli(
        "bench",
        "calculator",
        "--untrained",
        "--sizes",
        "8",
        "--scaling",
        "none",
        "--repeats",
        1,
        "--against",
        "none",
        "--quiet",
    ).done()
    assert "against nothing" in ran.out
    assert ran.out.splitlines()[1].split()[0] == "8"


def test_sizes_are_whole_cubes() -> None:
    assert sizes("512,8,60,10000") == [8, 64, 512, 10648]
    assert sizes("none") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sizes", "eight"], ["'eight'", "8,64,512"]),
        (["--sizes", "0"], ["no list of atoms"]),
        (["--repeats", "0"], ["--repeats 0"]),
        (["--out", "bench.txt"], [".json"]),
        (["--untrained", "--against", "nobody"], ["'nobody'", "not known"]),
        (["--untrained", "--device", "tpu"], ["'tpu'"]),
    ],
)
def test_what_cannot_be_measured_is_refused(
    cli: Callable[..., Any], options: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    cli("bench", "calculator", *options).refused(*words)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_potential_is_refused_with_the_remedy(cli: Callable[..., Any], tiny_dir: Path) -> None:
    cli("bench", "calculator", "--model", tiny_dir).refused("has no potential", "autoperi train potential")
