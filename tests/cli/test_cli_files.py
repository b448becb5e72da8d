"""``autoperi relax`` and ``autoperi score``, and files that they refuse."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from autoperi.data.io import read_crystals, write_crystals
from autoperi.testing import tiny_crystals


def frame(cell="5 0 0 0 5 0 0 0 5", atoms="Na 0 0 0\nCl 2.5 2.5 2.5", pbc="T T T"):
    return f'{len(atoms.splitlines())}\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="{pbc}"\n{atoms}\n'


DISORDERED = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 0.5
K1 K 0 0 0 0.5
Cl1 Cl 0.5 0.5 0.5 1
"""

BAD = {
    "disordered.cif": (DISORDERED, ["disordered", "order it first"]),
    "nan_cell.extxyz": (frame(cell="nan 0 0 0 5 0 0 0 5"), ["NaN"]),
    "flat_cell.extxyz": (frame(cell="5 0 0 5 0 0 0 0 5"), ["volume"]),
    "nan_position.extxyz": (frame(atoms="Na nan 0 0"), ["NaN"]),
    "molecule.extxyz": (frame(pbc="F F F"), ["not periodic"]),
    "slab.extxyz": (frame(pbc="T T F"), ["not periodic"]),
    "empty.cif": ("", ["empty"]),
    "empty.extxyz": ("", ["empty"]),
    "empty.parquet": ("", ["cannot be read"]),
    "text.cif": ("hello", ["CIF"]),
    "text.json": ("hello", ["cannot be read"]),
    "unknown.extxyz": (frame(atoms="Qq 0 0 0"), ["Qq"]),
    "crystals.docx": ("hello", [".docx", ".cif"]),
    "missing.cif": (None, ["does not exist"]),
}


@pytest.mark.parametrize("command", ["relax", "score"])
@pytest.mark.parametrize("name", BAD)
def test_bad_files(cli, monkeypatch, tmp_path, command, name):
    content, words = BAD[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "autoperi.cli.common.load_model", lambda _: pytest.fail("a file is read before the model is loaded")
    )
    ran = cli(command, tmp_path / name, "--out", tmp_path / "out.json", "--json")
    ran.refused(str(tmp_path / name), *words)
    assert ran.json["error"]
    assert set(tmp_path.rglob("*")) == before


def test_the_bad_crystal_is_named(cli, tmp_path):
    (tmp_path / "x.extxyz").write_text(frame() + frame() + frame(cell="5 0 0 5 0 0 0 0 5"))
    cli("score", tmp_path / "x.extxyz").refused("x.extxyz", "2")


# --- relax -----------------------------------------------------------------------------------------------------------


def test_relax(cli, rock_salt, tiny_dir, tmp_path):
    out = tmp_path / "relaxed.extxyz"
    ran = cli("relax", rock_salt, "--out", out, "--steps", 2, "--model", tiny_dir, "--quiet").done()
    assert "V/V_before" in ran.out
    assert f"written to {out}" in ran.out
    for before, after in zip(read_crystals(rock_salt), read_crystals(out), strict=True):
        assert before.composition == after.composition
        assert after.properties["autoperi"]["relaxation"]["passes"] == 2
        assert abs(before.volume - after.volume) > 1e-6


def test_relax_json_and_symmetry(cli, rock_salt, tiny_dir, tmp_path):
    ran = (
        cli("relax", rock_salt, "--out", f"{tmp_path}/cifs/", "--fix-symmetry", "--model", tiny_dir, "--json")
        .done()
        .json
    )
    assert [row["formula"] for row in ran["rows"]] == ["NaCl", "TiO2"]
    assert ran["rows"][0]["a"] == ran["rows"][0]["b"] == ran["rows"][0]["c"]
    assert ran["rows"][0]["status"] in ("converged", "max_steps")
    assert ran["files"] == [str(tmp_path / "cifs" / name) for name in ("001_NaCl.cif", "002_TiO2.cif")]
    assert ran["provenance"]["model"] == "tiny"
    again = cli(
        "relax",
        rock_salt,
        "--out",
        f"{tmp_path}/cifs/",
        "--fix-symmetry",
        "--model",
        tiny_dir,
        "--batch-size",
        1,
        "--json",
    )
    assert again.done().json["rows"] == ran["rows"]


def test_relax_says_what_it_could_not_do(cli, rock_salt, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("autoperi.processes.lattice.relaxation_status", lambda start, *_: ["exploded"] * len(start))
    ran = cli("relax", rock_salt, "--out", tmp_path / "x.json", "--model", tiny_dir).done()
    assert ran.err == "autoperi: warning: 2 of 2 crystals left the model's range and are written as they were given\n"


def test_relax_positions(cli, rock_salt, tmp_path):
    out = tmp_path / "relaxed.extxyz"
    ran = cli("relax", rock_salt, "--out", out, "--positions", "--steps", 40, "--json").done().json
    for row, crystal in zip(ran["rows"], read_crystals(out), strict=True):
        assert row["status"] == "converged"
        assert row["energy_eV_per_atom"] <= row["energy_before_eV_per_atom"]
        assert row["largest_force_eV_per_A"] < 0.05
        assert 0 <= crystal.properties["autoperi"]["relaxation"]["steps"] <= 40
    assert "eV/A" in cli("relax", rock_salt, "--out", out, "--positions", "--steps", 0).done().out


def test_relax_positions_says_why_it_could_not(cli, rock_salt, tiny_dir, tmp_path):
    cli("relax", rock_salt, "--out", tmp_path / "x.cif", "--positions", "--model", tiny_dir).refused(
        "positions", "potential", "tiny"
    )
    (tmp_path / "close.extxyz").write_text(frame(atoms="Na 0 0 0\nCl 0.02 0 0"))
    ran = cli("relax", tmp_path / "close.extxyz", "--out", tmp_path / "x.json", "--positions").done()
    assert "1 of 1 crystals failed" in ran.err
    assert "crystal 0: a force of" in ran.err


@pytest.mark.parametrize("options", [[], ["--positions"]])
def test_relax_says_that_a_crystal_without_a_group_failed(cli, tmp_path, options):
    (tmp_path / "same.extxyz").write_text(frame(atoms="Na 0 0 0\nNa 0 0 0"))
    ran = cli("relax", tmp_path / "same.extxyz", "--out", tmp_path / "x.json", "--fix-symmetry", *options).done()
    assert "1 of 1 crystals failed and are written as they were given" in ran.err
    assert "model's range" not in ran.err
    assert "no space group" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--positions", "--steps", "-1"], ["steps=-1"]),
        (["--steps", "-1"], ["steps=-1"]),
        (["--steps", "99"], ["steps=99", "20"]),
        (["--out", "x.docx"], [".docx"]),
        (["--out", "x.vasp"], ["x.vasp", "one crystal, not 2"]),
        (["--out", "/proc/nowhere/x.cif"], ["/proc/nowhere/x.cif"]),
    ],
)
def test_relax_refuses(cli, rock_salt, tmp_path, monkeypatch, nothing_left, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "autoperi.cli.common.load_model", lambda _: pytest.fail("options are checked before the model is loaded")
    )
    cli("relax", rock_salt, "--out", "y.cif", *options).refused(*words)
    nothing_left()


# --- score -----------------------------------------------------------------------------------------------------------


def test_score(cli, rock_salt, tiny_dir):
    ran = cli("score", rock_salt, "--model", tiny_dir, "--quiet").done()
    head, *rows = ran.out.splitlines()
    assert all(
        name in head for name in ("formula", "valid", "formation_energy_per_atom_eV", "space_group", "log_likelihood")
    )
    assert [row.split()[1] for row in rows] == ["NaCl", "TiO2"]


def test_score_json(cli, rock_salt, tiny_dir):
    ran = (
        cli("score", rock_salt, "--model", tiny_dir, "--properties", "formula,symmetry formation_energy", "--json")
        .done()
        .json
    )
    assert [row["space_group"] for row in ran["rows"]] == [225, 136]
    assert set(ran["rows"][0]) == {
        "crystal",
        "formula",
        "n_atoms",
        "space_group",
        "space_group_symbol",
        "formation_energy_per_atom_eV",
    }


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_score_writes_a_table(cli, rock_salt, tiny_dir, tmp_path, suffix):
    out = tmp_path / "deep" / f"scores{suffix}"
    cli("score", rock_salt, "--model", tiny_dir, "--properties", "formula,density,log_likelihood", "--out", out).done()
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix]
    table = read(out)
    assert list(table.columns) == [
        "crystal",
        "formula",
        "n_atoms",
        "density_g_per_cm3",
        "volume_per_atom_A3",
        "log_likelihood",
    ]
    assert list(table.formula) == ["NaCl", "TiO2"]
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_score_keeps_names(cli, tiny_dir, tmp_path):
    crystals = tiny_crystals()[:2]
    for name, crystal in zip(("mine", "007"), crystals, strict=True):
        crystal.properties["id"] = name
    write_crystals(crystals, tmp_path / "x.parquet")
    rows = (
        cli("score", tmp_path / "x.parquet", "--properties", "formula", "--model", tiny_dir, "--json")
        .done()
        .json["rows"]
    )
    assert [row["id"] for row in rows] == ["mine", "007"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "formula,energy\nNaCl,-2.1\nTiO2,-3.2\n"),
        ("b.csv", "formula,formation_energy_per_atom,other\nNaCl,-2.1,x\nTiO2,-3.2,y\n"),
        ("c.json", '{"NaCl": -2.1, "TiO2": -3.2}'),
        ("d.json", '[["NaCl", -2.1], ["TiO2", -3.2]]'),
        ("e.json", '[{"formula": "NaCl", "energy": -2.1}, {"formula": "TiO2", "energy": -3.2}]'),
    ],
)
def test_score_against_references(cli, rock_salt, tiny_dir, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    options = (
        "--properties",
        "formula,formation_energy",
        "--references",
        tmp_path / name,
        "--model",
        tiny_dir,
        "--json",
    )
    rows = cli("score", rock_salt, *options).done().json["rows"]
    for row, hull in zip(rows, (-2.1, -3.2), strict=True):
        assert row["energy_above_hull_eV"] == pytest.approx(row["formation_energy_per_atom_eV"] - hull, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", ["empty"]),
        ("a.csv", "formula,energy\n", ["empty"]),
        ("a.csv", "name,value\nNaCl,1\n", ["name, value", "formula and energy"]),
        ("a.csv", "formula,energy\nNaCl,low\n", ["low", "formula and energy"]),
        ("a.json", "[1, 2]", ["formula and energy"]),
        ("a.json", "{", ["formula and energy"]),
        ("a.txt", "x", [".txt", ".csv"]),
        ("missing.csv", None, ["missing.csv", "no such file"]),
        ("missing.json", None, ["missing.json", "no such file"]),
    ],
)
def test_bad_references(cli, rock_salt, tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    cli("score", rock_salt, "--references", tmp_path / name, "--model", "not-looked-at").refused(name, *words)


def test_references_of_nonsense(cli, rock_salt, tiny_dir, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"Qq3": -1.0}))
    cli("score", rock_salt, "--references", tmp_path / "x.json", "--model", tiny_dir).refused("'Qq3'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--properties", "beauty,formula"], ["beauty", "formation_energy"]),
        (["--properties", ","], ["not known"]),
        (["--out", "x.xlsx"], [".xlsx", ".csv"]),
        (["--out", "table"], ["''", ".csv"]),
        (["--out", "/proc/nowhere/x.csv"], ["/proc/nowhere/x.csv"]),
        (["--out", "folder.csv"], ["folder.csv", "folder"]),
    ],
)
def test_score_refuses(cli, rock_salt, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(
        "autoperi.cli.common.load_model", lambda _: pytest.fail("options are checked before the model is loaded")
    )
    cli("score", rock_salt, *options).refused(*words)


def test_an_interrupted_relaxation_is_written_as_far_as_it_came(cli, rock_salt, tmp_path, monkeypatch):
    import autoperi.relax.positions as module

    real, calls = module.relax, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) == 3:  # the first call checks settings
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "relax", stopped)
    ran = cli("relax", rock_salt, "--out", tmp_path / "part.extxyz", "--positions", "--steps", 2, "--batch-size", 1)
    assert ran.code == 130
    assert "interrupted after 1 of 2 crystals" in ran.err
    assert len(read_crystals(tmp_path / "part.extxyz")) == 1
