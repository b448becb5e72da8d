"""``autoperi explore``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoperi.hub import save_bundle
from autoperi.hub.networks import network_component
from autoperi.models.potential import Potential
from autoperi.testing import tiny_model
from autoperi.workflows import explore as workflow

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--formula-atoms", 2, "-n", 2, "--num-atoms", 4, "--relax", 1, "--seed", 1, "--quiet")


@pytest.fixture(scope="module")
def judging_dir(tmp_path_factory):
    bundle = tiny_model(name="judging")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        bundle.components["potential"] = network_component(
            Potential(channels=8, layers=1, cutoff=4.0, n_radial=4, hidden=8)
        )
    directory = tmp_path_factory.mktemp("models") / "judging"
    save_bundle(bundle, directory)
    return directory


def test_table_json_and_resume(cli, judging_dir, tmp_path):
    words = ("explore", "Na-Cl", *SMALL, "--model", judging_dir)
    ran = cli(*words).done()
    assert "E_form (eV/atom)" in ran.out
    assert "all energies by the potential of judging (sha256 " in ran.out
    assert not list(tmp_path.iterdir())
    told = cli(*words, "--out", tmp_path / "run", "--json").done().json
    assert told["counts"]["finished"] == 3
    assert told["settings"]["seed"] == 1
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == told["rows"]
    cli(*words, "--out", tmp_path / "run").refused("holds an earlier run", "--resume")
    again = cli("explore", "Na-Cl", "--model", judging_dir, "--out", tmp_path / "run", "--resume", "--json").done()
    assert again.json == told
    cli("explore", "Na-Cl", "-n", 3, "--model", judging_dir, "--out", tmp_path / "run", "--resume").refused("n=3", "2")


def test_interrupted(cli, judging_dir, tmp_path, monkeypatch):
    def generate(_peri, request, _batch_size):
        raise KeyboardInterrupt(request)

    monkeypatch.setattr(workflow, "generate", generate)
    run = tmp_path / "run"
    ran = cli("explore", "Na-Cl", *SMALL, "--model", judging_dir, "--out", run)
    assert (ran.code, ran.out) == (130, "")
    again = cli("explore", "--model", judging_dir, "--out", run, "--resume", "--quiet")
    assert again.err.endswith(f"go on with: autoperi explore --out {run} --resume --model {judging_dir}\n")
    assert ran.err == (
        f"autoperi: interrupted after 0 of 3 compositions; go on with: autoperi explore Na-Cl --out {run} --resume "
        f"--model {judging_dir}\n"
    )
    assert [p.name for p in run.iterdir()] == ["explore.json"]


@pytest.mark.parametrize("words", [["Na-Xx"], ["Na-Cl", "--compositions", "KCl"], ["Na-Cl", "--resume"], []])
def test_bad_input_costs_no_time(words, tmp_path):
    code = (
        "import sys; from autoperi.cli.main import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ran = subprocess.run(
        [sys.executable, "-c", code, "explore", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("autoperi: error: ")
    assert ran.stderr.count("\n") == 1
