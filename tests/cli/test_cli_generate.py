"""``autoperi generate``."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from pymatgen.core import Composition

from autoperi.data.io import read_crystals
from autoperi.pipelines import accept
from autoperi.pipelines.prototype import PrototypePipeline

FAST = ("--quiet", "--device", "cpu")


def test_a_table(cli, tiny_dir, tmp_path, monkeypatch, nothing_left):
    monkeypatch.chdir(tmp_path)
    ran = cli("generate", "NaCl", "-n", 3, "--seed", 1, "--model", tiny_dir).done()
    head, *rows = ran.out.splitlines()
    for title in ("rank", "formula", "space group", "E_form (eV/atom)", "log-likelihood", "atoms", "V (A^3/atom)"):
        assert title in head
    assert [row.split()[:2] for row in rows[:3]] == [["1", "NaCl"], ["2", "NaCl"], ["3", "NaCl"]]
    assert rows[-1] == "model tiny, seed 1"
    nothing_left()


def test_json(cli, tiny_dir):
    options = (
        "generate",
        "TiO2",
        "-n",
        2,
        "--num-atoms",
        "3-6",
        "--rank",
        "probability",
        "--model",
        tiny_dir,
        "--json",
    )
    summary = cli(*options, "--seed", 7).done().json
    assert summary["request"]["composition"] == "TiO2"
    assert summary["request"]["num_atoms"] == [3, 6]
    assert summary["request"]["seed"] == summary["provenance"].get("seed", 7) == 7
    assert summary["provenance"]["model"] == "tiny"
    assert len(summary["provenance"]["sha256"]) == 64
    assert (summary["finished"], summary["interrupted"]) == (2, False)
    assert [row["rank"] for row in summary["rows"]] == [1, 2]
    assert summary["rows"][0]["log_likelihood"] >= summary["rows"][1]["log_likelihood"]
    assert all(3 <= row["n_atoms"] <= 6 for row in summary["rows"])
    assert cli(*options, "--seed", 7, "--batch-size", 1).done().json == summary


def test_a_folder(cli, tiny_dir, tmp_path):
    out = tmp_path / "deep" / "crystals"
    ran = cli("generate", "NaCl", "-n", 3, "--seed", 0, "--out", f"{out}/", "--model", tiny_dir, *FAST).done()
    assert f"written to {out}" in ran.out
    names = ["001_NaCl.cif", "002_NaCl.cif", "003_NaCl.cif", "generated.extxyz", "summary.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    summary = json.loads((out / "summary.json").read_text())
    assert [row["file"] for row in summary["rows"]] == names[:3]
    crystals = read_crystals(out / "generated.extxyz")
    for row, crystal in zip(summary["rows"], crystals, strict=True):
        (alone,) = read_crystals(out / row["file"])
        assert abs(alone.volume - crystal.volume) < 1e-4
        assert crystal.properties["autoperi"]["index"] == row["index"]
        assert crystal.properties["autoperi"]["seed"] == 0
    # a second run replaces the files of the first, and no others
    (out / "004_mine.cif").write_text("mine")
    cli("generate", "NaCl", "-n", 1, "--seed", 0, "--out", out, "--model", tiny_dir, *FAST).done()
    assert sorted(p.name for p in out.iterdir()) == ["001_NaCl.cif", "004_mine.cif", "generated.extxyz", "summary.json"]
    # scoring the folder takes each crystal once
    assert len(cli("score", out, "--properties", "formula", "--model", tiny_dir, "--json").done().json["rows"]) == 1


@pytest.mark.parametrize("name", ["x.cif", "x.extxyz", "x.json", "x.parquet"])
def test_a_file(cli, tiny_dir, tmp_path, name):
    cli(
        "generate",
        "NaCl",
        "-n",
        2,
        "--space-group",
        "Fm-3m",
        "--no-strict",
        "--out",
        tmp_path / name,
        "--model",
        tiny_dir,
        *FAST,
    ).done()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert {c.composition.reduced_formula for c in read_crystals(tmp_path / name)} == {"NaCl"}


def test_a_poscar(cli, tiny_dir, tmp_path, nothing_left):
    cli("generate", "NaCl", "-n", 2, "--out", tmp_path / "x.vasp", "--model", tiny_dir).refused("x.vasp", "one crystal")
    nothing_left()
    ran = cli("generate", "NaCl", "--out", tmp_path / "x.vasp", "--model", tiny_dir, "--json", *FAST).done()
    assert ran.json["files"] == [str(tmp_path / "x.vasp")]


def test_de_novo(cli, tiny_dir):
    rows = (
        cli("generate", "--chemical-system", "Na-Cl", "--exclude", "Pb,Cd", "--seed", 0, "--model", tiny_dir, "--json")
        .done()
        .json["rows"]
    )
    assert rows[0]["origin"] == "de novo"
    assert rows[0]["formula"] == "NaCl"
    ran = (
        cli("generate", "--num-elements", "1-1", "-n", 2, "--seed", 0, "--model", tiny_dir, "--json", *FAST).done().json
    )
    assert ran["request"]["num_elements"] == [1, 1]
    assert all(len(Composition(row["formula"])) == 1 for row in ran["rows"])


def test_a_space_group_holds(cli, tiny_dir):
    for group in ("221", "Pm-3m"):
        ran = cli(
            "generate", "SrTiO3", "--space-group", group, "--num-atoms", 5, "--steps", 1, "--model", tiny_dir, "--json"
        ).done()
        assert ran.json["rows"][0]["space_group"] == 221


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Xx2O3"], ["'Xx'", "not an element"]),
        (["Fe2O3-"], ["'Fe2O3-'", "'-'"]),
        ([""], ["composition=''"]),
        (["NaCl0"], ["'NaCl0'", "0"]),
        (["NaCl", "-n", "0"], ["n=0", "from 1 to"]),
        (["NaCl", "-n", "-1"], ["n=-1", "from 1 to"]),
        (["NaCl", "--num-atoms", "7"], ["num_atoms=7", "NaCl", "multiple of 2"]),
        (["NaCl", "--num-atoms", "0"], ["num_atoms=0"]),
        (["NaCl", "--num-atoms", "-4"], ["num_atoms=-4"]),
        (["NaCl", "--num-atoms", "20-4"], ["num_atoms=(20, 4)"]),
        (["NaCl", "--num-atoms", "many"], ["num_atoms='many'", "4-20"]),
        (["NaCl", "--num-elements", "3"], ["num_elements=3", "NaCl", "drop one"]),
        (["NaCl", "--num-elements", "many"], ["num_elements='many'"]),
        (["NaCl", "--space-group", "231"], ["231", "230"]),
        (["NaCl", "--space-group", "0"], ["0", "230"]),
        (["NaCl", "--space-group", "Fm-4m"], ["'Fm-4m'", "Fm-3m"]),
        (["NaCl", "--space-group", "230", "--num-atoms", "2"], ["Ia-3d (230)", "NaCl", "choose another"]),
        (["--chemical-system", "Na-Xx"], ["chemical_system", "'Xx'"]),
        (["--exclude", "Qq"], ["exclude_elements", "'Qq'"]),
        (["--chemical-system", "Na-Cl", "--exclude", "Cl"], ["Cl", "chemical_system"]),
        (["NaCl", "--exclude", "Cl"], ["NaCl", "Cl"]),
        (["NaCl", "--rank", "beauty"], ["'beauty'", "energy"]),
        (["NaCl", "--steps", "-1"], ["steps=-1", "0 to 20"]),
        (["NaCl", "--seed", "-1"], ["seed=-1"]),
    ],
)
def test_bad_requests(cli, monkeypatch, tmp_path, nothing_left, arguments, words):
    monkeypatch.setattr(
        "autoperi.cli.common.load_model", lambda _: pytest.fail("a request is checked before the model is loaded")
    )
    cli("generate", *arguments, "--out", tmp_path / "out").refused(*words)
    nothing_left()


@pytest.mark.parametrize(
    "out", ["file.txt/new/", "file.txt/x.cif", "folder.cif/x.cif/", "x.docx", "file.txt/", "/proc/nowhere/x.cif"]
)
def test_bad_places(cli, monkeypatch, tmp_path, out):
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "folder.cif").write_text("mine")
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "autoperi.cli.common.load_model", lambda _: pytest.fail("a place is checked before the model is loaded")
    )
    cli("generate", "NaCl", "--out", out if out.startswith("/") else f"{tmp_path}/{out}").refused(
        out.split("/")[-2 if out.endswith("/") else -1]
    )
    assert set(tmp_path.rglob("*")) == before


def test_no_write_permission(cli, monkeypatch, tmp_path, nothing_left):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("autoperi.data.files.tempfile.TemporaryFile", refuse)
    for out in (f"{tmp_path}/new/", tmp_path / "x.cif"):
        cli("generate", "NaCl", "--out", out).refused(str(out), "permission denied", "choose a place you may write to")
    nothing_left()


@pytest.mark.parametrize("out", ["x.cif", "new/"])
def test_a_disk_that_fails_late_leaves_nothing(cli, monkeypatch, tmp_path, tiny_dir, nothing_left, out):
    real = Path.write_bytes

    def refuse(path, data):
        if path.is_relative_to(tmp_path):
            real(path, data[:10])
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    cli("generate", "NaCl", "--out", f"{tmp_path}/{out}", "--model", tiny_dir, *FAST).refused("No space left on device")
    nothing_left()


def test_too_few(cli, monkeypatch, tiny_dir, tmp_path, nothing_left):
    real = PrototypePipeline.candidates
    monkeypatch.setattr(PrototypePipeline, "candidates", lambda *arguments: islice(real(*arguments), 4))
    monkeypatch.setattr(accept, "MIN_DISTANCE_RATIO", 9.0)
    options = ("generate", "NaCl", "-n", 1, "--num-atoms", 2, "--space-group", 225, "--model", tiny_dir, *FAST)
    cli(*options, "--out", tmp_path / "x.cif").refused("only 0 of 1 crystals of NaCl", "strict=False")
    ran = cli(*options, "--no-strict", "--out", tmp_path / "x.cif").done()
    assert ran.err.startswith("autoperi: warning: only 0 of 1 crystals of NaCl")
    assert ran.err.count("\n") == 1
    nothing_left()


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C after some crystals are finished."""

    def after(k):
        real, seen = accept.Judge.verdicts, []

        def stop(*arguments):
            for finished in real(*arguments):
                if len(seen) == k:
                    raise KeyboardInterrupt
                seen.append(finished)
                yield finished

        monkeypatch.setattr(accept.Judge, "verdicts", stop)

    return after


@pytest.mark.parametrize("out", ["new/", "x.extxyz"])
def test_interrupting_keeps_what_is_finished(cli, interrupt, tiny_dir, tmp_path, out):
    interrupt(3)
    ran = cli(
        "generate", "NaCl", "-n", 1000, "--seed", 0, "--out", f"{tmp_path}/{out}", "--model", tiny_dir, "--json", *FAST
    )
    assert ran.code == 130
    assert ran.err == f"autoperi: interrupted after 3 of 1000 crystals; those are in {tmp_path}/{out}\n"
    assert ran.json["interrupted"] is True
    assert len(ran.json["rows"]) == ran.json["finished"] == 3
    crystals = read_crystals(tmp_path / "new" / "generated.extxyz" if out == "new/" else tmp_path / out)
    assert [c.properties["autoperi"]["index"] for c in crystals] == [row["index"] for row in ran.json["rows"]]


def test_interrupting_before_anything_is_finished(cli, interrupt, tiny_dir, tmp_path, nothing_left):
    interrupt(0)
    ran = cli("generate", "NaCl", "-n", 10, "--out", tmp_path / "new", "--model", tiny_dir, *FAST)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == "autoperi: interrupted after 0 of 10 crystals; nothing was written\n"
    nothing_left()
