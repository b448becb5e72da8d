"""Exploring a chemical system: compositions, one judge, the hull, and the same files however often it was killed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from explored import SMALL, contents
from pymatgen.analysis.phase_diagram import PDEntry
from pymatgen.core import Composition, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from autoperi import AutoPeri
from autoperi.data.io import read_crystals, write_crystals
from autoperi.errors import AutoPeriWarning, DataError, ExplorationInterrupted, RequestError
from autoperi.testing import tiny_crystals
from autoperi.workflows import explore as workflow
from autoperi.workflows.explore import part_names
from autoperi.workflows.explore_parts import Part, note_of, part_of
from autoperi.workflows.explore_request import formula_text, formulas_of, make_exploration

ROOT = Path(__file__).resolve().parents[2]
FILES = {"explore.json", "table.csv", "table.json", "crystals.extxyz", "hull.png", "hull.svg", "hull.html"}
KILLED = """
import os, signal, sys
from autoperi.cli.main import main
from autoperi.workflows import explore
real = explore.write_atomically
def write(path, content):
    if path.name == sys.argv[1]:
        path.with_name(f".{path.name}.0123456789ab.tmp").write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, content)
explore.write_atomically = write
sys.exit(main(sys.argv[2:]))
"""
FLAGS = ("--formula-atoms", 3, "-n", 2, "--num-atoms", 6, "--relax", 2, "--seed", 1)


def crystal(formula: str) -> Structure:
    return next(c for c in tiny_crystals() if c.composition.reduced_formula == formula)


# --- compositions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [(3,), (3, 8), (3, 26, 8), (3, 26, 15, 8)])
def test_compositions_are_all_ratios_once(elements):
    found = list(formulas_of(elements, 6))
    assert len(set(found)) == len(found)
    assert all(math.gcd(*(count for _, count in f)) == 1 and sum(c for _, c in f) <= 6 for f in found)
    assert [f for f in found if len(f) == 1] == [((z, 1),) for z in elements]
    expected = {
        Composition(dict(zip(map(str, ("Li", "Fe", "P", "O")), counts, strict=False))).reduced_formula
        for counts in np.ndindex(*(7,) * len(elements))
        if 0 < sum(counts) <= 6
    }
    assert len(found) == len(expected), "a ratio is missing"


def test_defaults_and_lists():
    assert len(make_exploration("Li-O").compositions) * make_exploration("Li-O").n >= 200
    request = make_exploration("O-Li", compositions="Li4O2, Li2O2 O", num_atoms=8)
    assert [formula_text(f) for f in request.compositions] == ["O2", "Li", "Li2O", "Li2O2"]
    assert request.echo()["system"] == "O-Li"
    assert max(sum(c for _, c in f) for f in make_exploration("Li-O", num_atoms=5).compositions) == 5
    assert len(make_exploration("Li").compositions) == 1


def test_names_differ_without_capitals():
    names = part_names(make_exploration("C-O-Co", formula_atoms=2).compositions)
    assert len({name.lower() for name in names}) == len(names)
    assert {"CO", "C", "O2"} <= {name.split("_")[0] for name in names}


@pytest.mark.parametrize(
    ("system", "options", "words"),
    [
        ("Li-Fe-P-O-S", {}, ["5 elements", "one to four"]),
        ("Li-Xx", {}, ["Xx"]),
        ("", {}, ["one to four"]),
        (None, {}, ["no chemical system", "Li-Fe-O"]),
        ("Li-O", {"compositions": "NaCl"}, ["NaCl", "Na, Cl", "Li-O"]),
        ("Li-O", {"compositions": ""}, ["empty"]),
        ("Li-O", {"compositions": "Li2O", "formula_atoms": 3}, ["drop one"]),
        ("Li-O", {"compositions": "Li9O", "num_atoms": 6}, ["Li9O", "num_atoms"]),
        ("Li-O", {"formula_atoms": 9, "num_atoms": 6}, ["formula_atoms=9", "num_atoms"]),
        ("Li-Fe-P-O", {"formula_atoms": 40, "num_atoms": 40}, ["more than 5000", "formula_atoms"]),
        ("Li-O", {"num_atoms": (8, 4)}, ["(8, 4)", "smallest"]),
        ("Li-O", {"n": 0}, ["n=0"]),
        ("Li-O", {"n": 1_000_001}, ["n=1000001"]),
        ("Li-O", {"relax": -1}, ["relax=-1"]),
        ("Li-O", {"judge": 3}, ["judge=3", "name"]),
        ("Li-O", {"rank": "best"}, ["rank='best'"]),
        ("Li-O", {"resume": True}, ["out"]),
        ("Li-O", {"batch_size": 0}, ["batch_size=0"]),
        ("Li-O", {"model": "orbits"}, ["orbits"]),
        ("Li-O", {"known": {"Li2O": -2.0}}, ["Li2O", "no structure", "never mixed", "ComputedStructureEntry"]),
        ("Li-O", {"known": [PDEntry("Li2O", -14.0)]}, ["no structure", "judging"]),
        ("Li-O", {"known": [crystal("NaCl")]}, ["no crystal of Li-O"]),
        ("Li-O", {"known": "missing.json"}, ["missing.json", "does not exist"]),
        ("Li-O", {"known": []}, ["known is empty"]),
        ("Li-O", {"known": 5}, ["known is a int", "list"]),
        ("Li-O", {"compositions": {"Na": 1, "Cl": 1}}, ["NaCl", "Li-O"]),
        ("Li-O", {"judge": "missing"}, ["missing"]),
    ],
)
def test_refusals_come_before_any_work(judging, monkeypatch, tmp_path, system, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoPeri, "generate", None)
    where = {} if "resume" in options else {"out": "new"}
    with pytest.raises((RequestError, DataError, ValueError)) as caught:
        judging.explore(system, **options, **where)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option(judging):
    with pytest.raises(TypeError, match="temperature"):
        judging.explore("Li-O", temperature=300)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_result_and_files_agree(judging, whole):
    found = judging.explore("Na-Cl", **SMALL)
    table = found.table
    assert set(contents(whole)) >= FILES | {f"parts/{name}.json" for name in ("Na", "Cl2", "NaCl", "Na2Cl", "NaCl2")}
    above = table["energy_above_hull_eV"].dropna()
    assert above.is_monotonic_increasing
    assert above.min() == 0
    assert len(found.crystals) == len(above)
    written = read_crystals(whole / "crystals.extxyz")
    for k, one in enumerate(found.crystals):
        note, row = note_of(one), table.iloc[k]
        assert note["energy_above_hull_eV"] == row["energy_above_hull_eV"]
        assert note["judge"] == found.judge == {k: judging.provenance()[k] for k in ("model", "revision", "sha256")}
        assert (row["crystal"], row["formula"]) == (k + 1, one.composition.reduced_formula)
        assert note_of(written[k]) == note
    diagram = found.phase_diagram
    assert len(diagram.all_entries) == len(found.crystals)
    for entry in diagram.all_entries:
        rank = int(re.fullmatch(r"crystal (\d+), .*", entry.entry_id)[1])
        note = note_of(found.crystals[rank - 1])
        assert diagram.get_e_above_hull(entry) == pytest.approx(note["energy_above_hull_eV"], abs=2e-6)
        assert diagram.get_form_energy_per_atom(entry) == pytest.approx(note["formation_energy_per_atom_eV"], abs=2e-6)
    read = pd.read_csv(whole / "table.csv")
    assert list(read.columns) == list(table.columns)
    assert read["crystal"].dropna().tolist() == list(range(1, len(found.crystals) + 1))
    assert json.loads((whole / "table.json").read_text()) == found.rows
    record = json.loads((whole / "explore.json").read_text())
    assert record["complete"]
    assert record["judge"]["sha256"] == record["model"]["sha256"] is not None
    assert record["counts"]["generated"] == record["counts"]["crystals"] + record["counts"]["merged"]
    assert set(record["files"]) | {"explore.json"} == {n for n in contents(whole) if not n.startswith("parts/")}
    near = table[table["energy_above_hull_eV"] <= 0.1]
    assert sorted(near["file"]) == sorted(n for n in contents(whole) if n.startswith("cifs/"))


def test_every_energy_is_the_judges(judging):
    found = judging.explore("Na-Cl", known=[crystal("NaCl")], **{**SMALL, "relax": 0})
    assert set(found.table["status"]) == {"not_relaxed"}
    for one in found.crystals:
        atoms = one.to_ase_atoms()
        atoms.calc = judging.calculator(dtype="float64")
        assert atoms.get_potential_energy() / len(atoms) == pytest.approx(note_of(one)["energy_per_atom_eV"], abs=2e-6)


def test_known_crystals_are_judged_like_the_others(judging, tmp_path):
    entry = ComputedStructureEntry(crystal("NaCl"), -999.0, entry_id="mine-1")
    found = judging.explore("Na-Cl", known=[entry], **SMALL)
    known = found.table[found.table["origin"] == "known"]
    assert known["known"].tolist() == ["mine-1"]
    assert abs(known["energy_per_atom_eV"].iloc[0]) < 10
    again = found.table[(found.table["known"] == "mine-1") & (found.table["origin"] != "known")]
    assert again["formula"].tolist() == ["NaCl"], "the rock salt that was generated is the known one"
    write_crystals([crystal("NaCl"), crystal("SrTiO3")], tmp_path / "known.extxyz")
    from_file = judging.explore("Na-Cl", known=tmp_path / "known.extxyz", **SMALL)
    assert from_file.record["known"]["crystals"] == 1
    assert from_file.record["known"]["sha256"] == found.record["known"]["sha256"]


def test_same_crystals_at_another_batch_size(judging, whole):
    found = judging.explore("Na-Cl", batch_size=1, **SMALL)
    assert json.loads((whole / "table.json").read_text()) == json.loads(json.dumps(found.rows))


def test_one_crystal_is_kept_of_several_that_are_one():
    low, high, failed = (crystal("NaCl").copy() for _ in range(3))
    for one, energy in ((high, -1.0), (low, -2.0), (failed, None)):
        one.properties["autoperi"] = {"explore": {"energy_per_atom_eV": energy, "merged": 0}}
    part = part_of("NaCl", [high, low, failed], requested=3, note=None)
    assert (part.merged, len(part.crystals), len(part.usable)) == (1, 2, 1)
    assert note_of(part.crystals[0]) == {"energy_per_atom_eV": -2.0, "merged": 1}
    again = Part.from_text(part.to_text())
    assert again.to_text() == part.to_text()


def test_nothing_made_is_reported(judging, monkeypatch, recwarn):
    real = AutoPeri.generate

    def generate(self, request, **how):
        if request.asked == "NaCl2":
            raise RequestError("nothing of NaCl2 could be made; ask for less")
        if request.asked == "NaCl":
            warnings.warn("only 1 of 2 crystals of NaCl could be made", AutoPeriWarning, stacklevel=2)
            return real(self, request, **how)[:1]
        if request.asked == "Na2Cl":
            warnings.warn("ranked by probability", AutoPeriWarning, stacklevel=2)
        return real(self, request, **how)

    monkeypatch.setattr(AutoPeri, "generate", generate)
    found = judging.explore("Na-Cl", **SMALL)
    last = found.table.iloc[-1]
    assert (last["formula"], last["status"], last["reason"]) == (
        "NaCl2",
        "nothing_made",
        "nothing of NaCl2 could be made; ask for less",
    )
    assert found.record["counts"]["nothing_made"] == 1
    assert not [w for w in recwarn if "could be made" in str(w.message)], (
        "warnings are in the record, not on the screen"
    )
    notes = {formula: told["note"] for formula, told in found.record["compositions"].items()}
    assert notes["NaCl"] == "only 1 of 2 crystals of NaCl could be made"
    assert notes["Na2Cl"] is None


def test_an_element_without_an_energy(judging, monkeypatch):
    monkeypatch.setattr(workflow.EnergyJudge, "settle", lambda _self, _crystals: [])
    with pytest.raises(RequestError, match=r"element Na .*raise n or num_atoms.*known"):
        judging.explore("Na-Cl", **SMALL)


def test_failed_crystals_take_no_part(judging, monkeypatch):
    real = workflow.EnergyJudge.settle

    def settle(self, crystals):
        found = real(self, crystals)
        for one in found:
            if one.composition.reduced_formula == "NaCl":
                note_of(one).update(status="failed", reason="a force", energy_per_atom_eV=None, space_group=None)
        return found

    monkeypatch.setattr(workflow.EnergyJudge, "settle", settle)
    found = judging.explore("Na-Cl", known=[ComputedStructureEntry(crystal("NaCl"), 0.0, entry_id="k")], **SMALL)
    assert (found.record["counts"]["known"], found.record["counts"]["known_failed"]) == (0, 1)
    assert found.table[found.table["origin"] == "known"]["known"].tolist() == ["k"]
    assert found.table.iloc[-1][["formula", "status", "reason"]].tolist() == ["NaCl", "failed", "a force"]
    assert "NaCl" not in {e.composition.reduced_formula for e in found.phase_diagram.all_entries}


def test_a_judge_of_its_own(tiny_bundle, judging, judging_dir):
    without = AutoPeri(tiny_bundle)
    found = without.explore("Na-Cl", judge=str(judging_dir), **SMALL)
    assert found.judge["model"] == "judging"
    assert found.record["model"]["model"] == "tiny"
    with pytest.raises(RequestError, match="no potential"):
        judging.explore("Na-Cl", judge=without, **SMALL)


def test_one_and_four_elements(judging, tmp_path):
    how = {**SMALL, "n": 1, "num_atoms": 4}
    (one := judging.explore("Na", **{**how, "formula_atoms": 1})).write(tmp_path / "one")
    assert one.html() is None
    assert not list((tmp_path / "one").glob("hull.*"))
    assert "no hull diagram" in json.loads((tmp_path / "one" / "explore.json").read_text())["note"]
    judging.explore("Na-Cl-K-Br", **{**how, "formula_atoms": 2}).write(tmp_path / "four")
    assert {p.name for p in (tmp_path / "four").glob("hull.*")} == {"hull.png", "hull.svg", "hull.html"}


class _Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.asked = []

    def handle_starttag(self, _tag, attrs):
        self.asked += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_needs_no_network(whole):
    page = (whole / "hull.html").read_text(encoding="utf-8")
    parser = _Resources()
    parser.feed(page)
    assert parser.asked == []
    assert len(page) > 3_000_000, "plotly is not in the page"
    assert "potential of judging (sha256 " in page
    assert "NaCl" in page.replace("<sub>", "")


# --- killed, interrupted, resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["NaCl2.json"])
def test_killed_and_resumed_gives_the_same_files(judging, judging_dir, whole, tmp_path, at):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", KILLED, at, "explore", "Na-Cl", *FLAGS, "--model", judging_dir, "--out", "run"]
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    run = tmp_path / "run"
    assert not json.loads((run / "explore.json").read_text())["complete"]
    assert not (run / "table.csv").exists()
    assert list(run.rglob(".*.tmp"))
    judging.explore("Na-Cl", out=run, resume=True, progress=False)  # settings and seed are those of the run
    assert contents(run) == contents(whole)


def test_interrupted_keeps_what_is_done(judging, whole, tmp_path, monkeypatch):
    real = workflow.generate
    with monkeypatch.context() as patch:

        def generate(peri, request, batch_size):
            if request.asked == "Na2Cl":
                raise KeyboardInterrupt
            return real(peri, request, batch_size)

        patch.setattr(workflow, "generate", generate)
        patch.setattr(workflow, "BLOCK", 1)
        with pytest.raises(ExplorationInterrupted, match="interrupted after 3 of 5 compositions") as caught:
            judging.explore("Na-Cl", out=tmp_path / "run", **SMALL)
        assert caught.value.finished.record["counts"]["finished"] == 3
        assert set(contents(tmp_path / "run")) >= FILES
        assert not json.loads((tmp_path / "run" / "explore.json").read_text())["complete"]
        patch.setattr(workflow, "generate", real)
        judging.explore("Na-Cl", out=tmp_path / "run", resume=True, progress=False)
    assert contents(tmp_path / "run") == contents(whole)


def test_a_run_is_not_mixed_with_another(judging, tiny_bundle, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    before = contents(run)
    with pytest.raises(DataError, match=r"earlier run.*--resume"):
        judging.explore("Na-Cl", out=run, **SMALL)
    for system, options, words in (
        ("Na-Cl", {"n": 3}, r"n=3 differs from 2"),
        ("Na-Cl", {"seed": 2}, r"seed=2 differs from 1"),
        ("Na-Cl", {"compositions": "NaCl"}, "compositions=.* differs"),
        ("Na-K", {}, "system='Na-K' differs from 'Na-Cl'"),
        ("Na", {}, "system='Na' differs from 'Na-Cl'"),
        ("Na-Cl", {"known": [crystal("NaCl")]}, "known="),
    ):
        with pytest.raises(RequestError, match=words):
            judging.explore(system, out=run, resume=True, **options)
    with pytest.raises(RequestError, match=r"model: model='tiny' differs from 'judging'"):
        AutoPeri(tiny_bundle).explore("Na-Cl", out=run, resume=True)
    with pytest.raises(RequestError, match=r"model_settings: known_weight=0.* differs"):
        judging.with_settings(known_weight=0).explore("Na-Cl", out=run, resume=True)
    assert contents(run) == before
    for text in ("{", "{}", '{"settings": {}, "model": {}, "judge": {}}'):
        (run / "explore.json").write_text(text)
        with pytest.raises(DataError, match=r"explore\.json cannot be read"):
            judging.explore("Na-Cl", out=run, resume=True)
    (run / "explore.json").unlink()  # nothing says whose the parts are
    for resume in (False, True):
        with pytest.raises(DataError, match=r"parts of a run but no explore\.json"):
            judging.explore("Na-Cl", out=run, resume=resume, **SMALL)


@pytest.mark.parametrize("text", ["", "null", "[]", '{"formula": "Na"}', "emptied", "unnamed"])
def test_a_damaged_part_is_made_again(judging, whole, tmp_path, text):
    run = shutil.copytree(whole, tmp_path / "run")
    part = run / "parts" / "Na.json"
    content = json.loads(part.read_text())
    words = {"emptied": json.dumps({**content, "crystals": []}), "unnamed": part.read_text().replace("explore", "e")}
    part.write_text(words.get(text, text))
    judging.explore("Na-Cl", out=run, resume=True, progress=False)
    assert contents(run) == contents(whole)


def test_cifs_of_others_are_kept(judging, tmp_path):
    own = tmp_path / "cifs" / "001_NaCl.cif"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(DataError, match=r"001_NaCl\.cif, which is not of a run"):
        judging.explore("Na-Cl", out=tmp_path, **SMALL)
    judging.explore("Na", **{**SMALL, "formula_atoms": 1}).write(tmp_path)
    assert own.read_text() == "mine"
