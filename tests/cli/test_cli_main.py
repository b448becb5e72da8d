"""What all commands have in common."""

from __future__ import annotations

import json
import sys

import pytest

from autoperi._version import __version__
from autoperi.cli import common
from autoperi.cli.main import BROKEN_PIPE, main
from autoperi.data.files import check_writable

COMMANDS = [
    ["generate"],
    ["relax"],
    ["score"],
    ["models"],
    ["data"],
    ["data", "fetch"],
    ["data", "import"],
    ["data", "split"],
    ["data", "show"],
    ["models", "list"],
    ["models", "info"],
    ["models", "download"],
    ["models", "verify"],
    ["train"],
    ["evaluate"],
    ["evaluate", "csp"],
]


def test_version(cli):
    ran = cli("--version").done()
    assert ran.out == f"autoperi {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(cli, command):
    ran = cli(*command, "--help").done()
    assert "examples:\n  autoperi " + command[0] in ran.out
    if command not in (["models"], ["evaluate"], ["data"]):
        assert "--json" in ran.out


def test_help_names_every_command(cli):
    text = cli("--help").done().out
    assert all(name in text for name in ("generate", "relax", "score", "models", "train", "evaluate", "examples:"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "autoperi --help"]),
        (["nonsense"], ["nonsense", "generate"]),
        (["generate", "NaCl", "--nonsense"], ["--nonsense"]),
        (["generate", "NaCl", "--se", "3"], ["--se"]),
        (["generate", "NaCl", "-n", "three"], ["-n", "'three'"]),
        (["generate", "NaCl", "-n", "1.5"], ["-n", "'1.5'"]),
        (["generate", "NaCl", "-n"], ["-n", "generate --help"]),
        (["generate", "NaCl", "--batch-size", "0"], ["--batch-size", "0"]),
        (["relax"], ["FILE", "--out"]),
        (["models"], ["VERB"]),
        (["models", "download", "x"], ["--to"]),
        (["train", "everything", "--data", "x", "--out", "y"], ["everything", "formation-energy"]),
        (["train", "prior", "--data", "x", "--out", "y", "--learning-rate", "fast"], ["--learning-rate", "fast"]),
    ],
)
def test_wrong_arguments(cli, arguments, words):
    cli(*arguments).refused(*words)


def test_an_error_is_json_too(cli):
    ran = cli("generate", "Xx2O3", "--json")
    line = ran.refused("'Xx'")
    assert line == f"autoperi: error: {ran.json['error']}\n"
    assert "error" in cli("generate", "-n", "x", "--json").json


def test_interrupting_before_work_begins(cli, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoperi.hub.store.list_pretrained", stop)
    monkeypatch.setattr("autoperi.cli.models._facts", stop)
    ran = cli("models", "info", "autoperi-base")
    assert (ran.code, ran.err) == (130, "autoperi: interrupted\n")


def test_nobody_reads_the_output(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", broken)
    assert main(["models", "list"]) == BROKEN_PIPE


def test_strange_warnings_are_not_shown(cli, monkeypatch):
    import warnings

    from autoperi.errors import AutoPeriWarning

    def noisy():
        warnings.simplefilter("default")
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
        warnings.warn("of ours\nin two lines", AutoPeriWarning, stacklevel=1)
        return []

    monkeypatch.setattr("autoperi.hub.store.list_pretrained", noisy)
    assert cli("models", "list").done().err == "autoperi: warning: of ours in two lines\n"


def test_json_is_strict():
    text = common.dumps({"a": float("nan"), "b": [float("inf"), 1.5], 3: {"c": None}, "d": True})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "3": {"c": None}, "d": True}


def test_tables():
    rows = [{"a": 1, "b": "x", "c": float("nan")}, {"a": 20, "b": None, "c": 0.5}, {"a": 3, "b": True}]
    assert common.format_table(rows, {"a": "A", "b": "long title", "c": "C"}).splitlines() == [
        " A  long title       C",
        " 1  x                -",
        "20  -           0.5000",
        " 3  yes              -",
    ]


@pytest.mark.parametrize("out", ["a/b/c/", "new.cif", "deep/new.cif"])
def test_a_writable_place_is_only_looked_at(tmp_path, nothing_left, out):
    check_writable(tmp_path / out, folder=out.endswith("/"))
    nothing_left()
