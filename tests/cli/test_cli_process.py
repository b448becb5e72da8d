"""The command line as a process of its own: exit codes, signals, pipes, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoperi.data.io import read_crystals

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = """
import os, signal, sys
from autoperi.pipelines.accept import Judge
from autoperi.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # test runners may start children that ignore it
real, seen = Judge.verdicts, []
def verdicts(*arguments):
    for finished in real(*arguments):
        yield finished
        if not isinstance(finished, str):
            seen.append(finished)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)
Judge.verdicts = verdicts
sys.exit(main(sys.argv[1:]))
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *(str(word) for word in command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False, **options)


def test_generate(tiny_dir, tmp_path):
    ran = run(
        "-W",
        "default",
        "-m",
        "autoperi",
        "generate",
        "NaCl",
        "-n",
        1,
        "--seed",
        0,
        "--model",
        tiny_dir,
        "--out",
        "x.cif",
        "--json",
        cwd=tmp_path,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["files"] == ["x.cif"]
    assert len(read_crystals(tmp_path / "x.cif")) == 1


@pytest.mark.parametrize("words", [["Fe2O3-"], ["NaCl", "-n", "-1"]])
def test_bad_input_costs_no_time(words, tmp_path):
    code = (
        "import sys; from autoperi.cli.main import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    ran = run("-c", code, "generate", *words, "--out", "new/", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("autoperi: error: ")
    assert ran.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_is_finished(tiny_dir, tmp_path):
    ran = run(
        "-c", INTERRUPTED, "generate", "--seed", 0, "-n", 100000, "--model", tiny_dir, "--out", "new", cwd=tmp_path
    )
    assert ran.returncode == 130
    assert ran.stderr == "autoperi: interrupted after 6 of 100000 crystals; those are in new\n"
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert (summary["finished"], summary["interrupted"]) == (6, True)
    assert len(read_crystals(tmp_path / "new" / "generated.extxyz")) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


def test_a_closed_pipe():
    code = (
        "import sys, os; os.close(1); r, w = os.pipe(); os.close(r); os.dup2(w, 1); "
        "from autoperi.cli.main import main; sys.exit(main(['models', 'list']))"
    )
    ran = run("-c", code)
    assert (ran.returncode, ran.stderr) == (141, "")
