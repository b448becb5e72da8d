"""``autoperi train autoperi-gnn``: the fifth that is held out, losses and paths, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from autoperi.data.io import read_table, write_crystals
from autoperi.data.splits import fold_of, held_out
from autoperi.hub import load_bundle
from autoperi.testing import tiny_crystals


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Crystals with ids."""
    path = tmp_path_factory.mktemp("flow") / "crystals.parquet"
    crystals = tiny_crystals()[:12]
    for k, crystal in enumerate(crystals):
        crystal.properties["material_id"] = f"x-{k}"
    write_crystals(crystals, path)
    return path


@pytest.fixture
def options(table, tiny_dir):
    small = ["--set", "channels=4", "--set", "layers=1", "--batch-size", 4, "--device", "cpu"]
    return ["--data", table, "--base", tiny_dir, "--epochs", 1, *small]


def test_a_fifth_is_held_out_by_its_ids():
    ids = [f"mp-{k}" for k in range(4000)]
    aside = held_out(ids)
    assert 0.18 < sum(aside) / len(ids) < 0.22
    assert aside == [fold_of(i, folds=5) == 0 for i in ids]
    assert held_out(reversed(ids)) == aside[::-1]  # each row's own matter
    assert all(a for i, a in zip(ids, aside, strict=True) if fold_of(i) == 0)  # the test tenth among them


def test_losses_paths_and_the_held_out_fifth(cli, options, table, tmp_path):
    run = tmp_path / "run"
    said = ("symmetry_weight=0.1", "reconstruction_weight=0.2", "adversarial_weight=0.01", "ends=random")
    weights = [word for option in said for word in ("--set", option)]
    ran = cli("train", "autoperi-gnn", *options, "--out", run, *weights, "--json").done()
    aside = sum(held_out(read_table(table).ids))
    assert aside > 0
    assert f"{aside} of 12 crystals are held out" in ran.err
    assert ran.json["summary"]["crystals"] == 12 - aside
    assert {"val_symmetry", "val_reconstruction", "train_discriminator"} <= set(ran.json["summary"]["final"])
    record = json.loads((run / "checkpoints" / "training.json").read_text())
    assert record["held_out"] == 0.2
    assert {k: record["task_config"][k] for k in ("symmetry_weight", "ends", "energy_weight", "near_share")} == {
        "symmetry_weight": 0.1,
        "ends": "random",
        "energy_weight": 0.0,
        "near_share": 0.5,
    }
    bundle = load_bundle(run / "model")
    assert "autoperi_gnn" in bundle.components
    assert "20 % of crystals.parquet, by its ids" in bundle.card
    assert "--set symmetry_weight=0.1" in bundle.card
    assert "--set ends=random" in bundle.card
    # settings need not be repeated, and cannot be changed
    again = [o if o != 1 or options[k - 1] != "--epochs" else 2 for k, o in enumerate(options)]
    resumed = cli("train", "autoperi-gnn", *again, "--out", run, "--resume", "--json", "--quiet").done().json
    assert resumed["settings"]["task_config"]["ends"] == "random"
    assert "train_discriminator" in resumed["summary"]["final"]
    cli("train", "autoperi-gnn", *again, "--out", run, "--resume", "--set", "symmetry_weight=1").refused(
        "symmetry_weight=1.0", "differs from 0.1"
    )
    cli("train", "autoperi-gnn", *again, "--out", run, "--resume", "--val", table).refused(
        "held_out=0.0", "differs from 0.2"
    )


@pytest.mark.parametrize(
    ("component", "more", "words"),
    [
        ("autoperi-gnn", ["--set", "energy_weight=0.1"], ["energy_weight=0.1", "potential", "--base"]),
        ("autoperi-gnn", ["--set", "kl_weight=-1"], ["kl_weight=-1.0", "0 or more"]),
        ("autoperi-gnn", ["--set", "near_share=1.5"], ["near_share=1.5", "from 0 to 1"]),
        ("autoperi-gnn", ["--set", "symmetry_weight=NaN"], ["symmetry_weight=nan"]),
        ("autoperi-gnn", ["--devices", "0"], ["--devices 0", "at least 1"]),
        ("autoperi-gnn", ["--label", "energy"], ["--label", "does not apply"]),
        ("orbits", ["--set", "ends=random"], ["ends='random'", "no option of orbit-network"]),
        ("prior", ["--set", "energy_weight=1"], ["energy_weight=1", "no option of prior"]),
        ("orbits", [], ["--val"]),
    ],
)
def test_refused(cli, table, tiny_dir, tmp_path, nothing_left, component, more, words):
    cli(
        "train", component, "--data", table, "--base", tiny_dir, "--device", "cpu", "--out", tmp_path / "run", *more
    ).refused(*words)
    nothing_left()


def test_too_few_to_hold_some_out(cli, tiny_dir, tmp_path):
    crystals = tiny_crystals()[:2]
    for crystal, name in zip(crystals, [f"x-{k}" for k in range(9) if fold_of(f"x-{k}", folds=5)], strict=False):
        crystal.properties["material_id"] = name
    write_crystals(crystals, tmp_path / "two.parquet")
    ran = cli(
        "train",
        "autoperi-gnn",
        "--data",
        tmp_path / "two.parquet",
        "--base",
        tiny_dir,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    ran.refused("two.parquet", "too few crystals")


def test_two_processes(options, tmp_path):
    """The command starts itself again for the second process; one of the two writes and prints."""
    words = [
        "-m",
        "autoperi",
        "train",
        "autoperi-gnn",
        *map(str, options),
        "--out",
        str(tmp_path / "run"),
        "--devices",
        "2",
        "--json",
    ]
    known = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    }
    environment = {**known, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("are held out") == 1
    summary = json.loads(ran.stdout)["summary"]
    assert summary["devices"] == 2
    assert summary["steps"] == 2
    assert len((tmp_path / "run" / "checkpoints" / "history.jsonl").read_text().splitlines()) == 1
    assert "autoperi_gnn" in load_bundle(tmp_path / "run" / "model").components
