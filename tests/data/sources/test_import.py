"""Files that people have: each format gives the same crystals and labels, and what cannot be read is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import ase.db
import numpy as np
import pandas as pd
import provider_forms as forms
import pytest
from pymatgen.core import Structure

from autoperi.cli.main import main
from autoperi.data.convert import structure_to_atoms
from autoperi.data.io import read_table, write_crystals
from autoperi.data.sources.files import import_files
from autoperi.errors import DataError, RequestError
from autoperi.hub import load_bundle

N = 6


def summaries(path):
    path.write_text(json.dumps([forms.summary(k) for k in range(N)]))


def rest_answer(path):
    path.write_text(json.dumps({"data": [forms.summary(k) for k in range(N)], "meta": {"total_doc": N}}))


def mp_2018(path):
    """``mp.2018.6.1.json``: CIFs as text."""
    rows = [
        {
            "material_id": f"mp-{1000 + k}",
            "structure": forms.primitive(k).to(fmt="cif"),
            "formation_energy_per_atom": -2.0 - 0.01 * k,
            "band_gap": 5.0,
            "graph": {"bond": [0.1], "index1": [0], "index2": [1], "atom": [3]},
        }
        for k in range(N)
    ]
    path.write_text(json.dumps(rows))


def oqmd(path):
    path.write_text(json.dumps(forms.oqmd_answer([forms.oqmd(k) for k in range(N)])))


def optimade(path):
    path.write_text(json.dumps(forms.optimade_answer([forms.optimade(k) for k in range(N)])))


def optimade_lines(path):
    head = [{"x-optimade": {"meta": {"api_version": "1.2.0"}}}, {"type": "info", "id": "structures"}]
    path.write_text("\n".join(json.dumps(d) for d in (*head, *(forms.optimade(k) for k in range(N)))))


def entries(path):
    path.write_text(json.dumps([forms.computed_entry(k) for k in range(N)]))


def cdvae(path):
    rows = [
        {
            "material_id": f"mp-{1000 + k}",
            "formation_energy_per_atom": -2.0 - 0.01 * k,
            "band_gap": 5.0,
            "pretty_formula": "LiF",
            "e_above_hull": 0.0,
            "elements": "['F', 'Li']",
            "cif": forms.primitive(k).to(fmt="cif"),
            "spacegroup.number": 225,
        }
        for k in range(N)
    ]
    pd.DataFrame(rows).to_csv(path)


def matbench(path):
    """A table of matminer and matbench: what pandas writes with ``orient="split"``, structures as dictionaries."""
    data = [[forms.primitive(k).as_dict(), -2.0 - 0.01 * k] for k in range(N)]
    content = {"index": list(range(N)), "columns": ["structure", "e_form"], "data": data}
    with gzip.open(path, "wt") as file:
        json.dump(content, file)


def by_columns(path):
    frame = pd.DataFrame({"structure": [forms.primitive(k).as_dict() for k in range(N)], "gap pbe": 5.0})
    frame["formation_energy_per_atom"] = [-2.0 - 0.01 * k for k in range(N)]
    path.write_text(frame.to_json())


def ase_database(path):
    from ase.calculators.singlepoint import SinglePointCalculator

    with ase.db.connect(path) as database:
        for k in range(N):
            atoms = structure_to_atoms(forms.primitive(k))
            atoms.calc = SinglePointCalculator(atoms, energy=-6.0 - 0.02 * k)
            database.write(atoms, name=f"salt{k}", formation_energy_per_atom=-2.0 - 0.01 * k)


def structures(path):
    crystals = [forms.primitive(k) for k in range(N)]
    for k, crystal in enumerate(crystals):
        crystal.properties |= {"material_id": f"mp-{1000 + k}", "formation_energy_per_atom": -2.0 - 0.01 * k}
    write_crystals(crystals, path)


def cif_folder(path):
    path.mkdir()
    (path / "more").mkdir()
    for k in range(N):
        place = path if k % 2 else path / "more"
        forms.primitive(k).to(str(place / f"salt{k}.cif"))
    (path / "README.txt").write_text("not a crystal")


FILES = {
    "docs.json": (summaries, "records with a structure"),
    "answer.json": (rest_answer, "records with a structure"),
    "mp.2018.6.1.json": (mp_2018, "records with a structure"),
    "oqmd.json": (oqmd, "an answer of OQMD"),
    "optimade.json": (optimade, "OPTIMADE resources"),
    "optimade.jsonl": (optimade_lines, "OPTIMADE resources"),
    "entries.json": (entries, "ComputedStructureEntry objects"),
    "mp_20.csv": (cdvae, "records with a structure"),
    "matbench_mp_e_form.json.gz": (matbench, "records with a structure"),
    "columns.json": (by_columns, "records with a structure"),
    "salts.db": (ase_database, "an ASE database"),
    "salts-ase.json": (ase_database, "an ASE database"),
    "structures.json": (structures, "pymatgen structures"),
    "salts.extxyz": (structures, "a table of crystals"),
    "salts.parquet": (structures, "a table of crystals"),
    "cifs": (cif_folder, "a folder of crystals"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_crystals_and_trains(tmp_path, tiny_dir, name):
    write, kind = FILES[name]
    write(tmp_path / name)
    facts = import_files([tmp_path / name], tmp_path / "out.parquet", licence="mine", progress=False)
    assert (facts["format"], facts["crystals"], facts["refused"]) == (kind, N, {})
    assert facts["files"] == [str(tmp_path / "out.parquet")]
    table = read_table(tmp_path / "out.parquet")
    assert set(table.labels["licence"]) == {"mine"}
    assert len(set(table.ids)) == N
    found = {s.composition.reduced_formula: s for s in table.structures()}
    for k in range(N):
        true = forms.primitive(k)
        crystal = found[true.composition.reduced_formula]
        assert crystal.volume == pytest.approx(true.volume, rel=1e-5)
        assert crystal.get_distance(0, 1) == pytest.approx(true.get_distance(0, 1), rel=1e-5)
    labelled = name not in ("cifs", "entries.json", "optimade.json", "optimade.jsonl")
    if labelled:
        energies = sorted(table.labels["formation_energy_per_atom"])
        first = -1.9 if name == "oqmd.json" else -2.0
        np.testing.assert_allclose(energies, [first - 0.01 * k for k in reversed(range(N))], rtol=1e-12)
    train("formation-energy" if labelled else "lattice-relaxer", tmp_path / "out.parquet", tiny_dir)


def train(kind, table, base):
    """One epoch of ``autoperi train`` from the table."""
    how = ["--base", base, "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--quiet"]
    words = ["train", kind, "--data", table, "--val", table, "--out", table.parent / "run", *how]
    assert main([str(word) for word in words]) == 0
    load_bundle(table.parent / "run" / "model")


def test_corrections_are_columns(tmp_path):
    entries(tmp_path / "entries.json")
    import_files([tmp_path / "entries.json"], tmp_path / "entries.parquet", progress=False)
    row = read_table(tmp_path / "entries.parquet").labels.iloc[0]
    assert row["uncorrected_energy_per_atom_eV"] == pytest.approx(-11.5 / 2)
    assert row["correction_per_atom_eV"] == pytest.approx(-0.687 / 2)
    assert row["energy_per_atom_eV"] == pytest.approx((-11.5 - 0.687) / 2)
    assert (row["corrections"], row["run_type"]) == ("MP2020 anion correction (oxide)", "GGA")
    text = forms.cod_cif(0, 9008000, more="_cod_duplicate_entry 1000001\n_cod_depositor_comments\n;\n Cell mended.\n;")
    (tmp_path / "9008000.cif").write_text(text)
    import_files([tmp_path / "9008000.cif"], tmp_path / "cod.parquet", progress=False)
    row = read_table(tmp_path / "cod.parquet").labels.iloc[0]
    assert (row["duplicate_of"], row["cod_comments"].strip(), row["source"]) == ("1000001", "Cell mended.", "COD")


def test_a_folder_of_cod_with_twenty_bad_files(tmp_path):
    bad = forms.cod_folder(tmp_path / "cifs")
    facts = import_files([tmp_path / "cifs"], tmp_path / "cod.parquet", progress=False)
    assert (facts["crystals"], facts["entries"], sum(facts["refused"].values())) == (80, 100, 20)
    named = pd.read_csv(tmp_path / "cod.refused.csv")
    assert dict(zip(named["source_file"].str.removesuffix(".cif"), named["reason"], strict=True)) == bad
    assert named["detail"].str.len().between(10, 200).all()
    assert set(read_table(tmp_path / "cod.parquet").labels["source_file"]) == {f"{9008000 + k}.cif" for k in range(80)}


MIXED = [
    {"name": "NaK", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]},
    {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]},
]
VACANT = [{"name": "Li1", "chemical_symbols": ["Li", "vacancy"], "concentration": [0.9, 0.1]}, *MIXED[1:]]
SPECIAL = {
    "disordered": forms.optimade(1, species=MIXED),
    "partially occupied": forms.optimade(2, species=VACANT),
    "incomplete": forms.optimade(3, structure_features=["implicit_atoms"]),
    "not periodic": forms.optimade(4, dimension_types=[1, 1, 0]),
    "deprecated": forms.summary(5, deprecated=True, deprecation_reasons=["bad structure"]),
    "duplicate": forms.optimade(0),
    "broken": forms.oqmd(6, sites=["Qq @ 0 0 0"]),
}


@pytest.mark.parametrize("reason", SPECIAL)
def test_refused_documents_are_named(tmp_path, reason):
    (tmp_path / "docs.json").write_text(json.dumps([forms.optimade(0), SPECIAL[reason]]))
    facts = import_files([tmp_path / "docs.json"], tmp_path / "out.parquet", progress=False)
    assert facts["refused"] == {reason: 1}
    (row,) = pd.read_csv(tmp_path / "out.refused.csv").to_dict("records")
    name = {"deprecated": "mp-1005", "broken": "oqmd-2006"}.get(reason, str(SPECIAL[reason].get("id")))
    assert (str(row["id"]), row["reason"], row["source_file"]) == (name, reason, "docs.json")
    # a second import that refuses nothing leaves no old table of refusals behind
    (tmp_path / "docs.json").write_text(json.dumps([forms.optimade(0)]))
    assert import_files([tmp_path / "docs.json"], tmp_path / "out.parquet", progress=False)["refused"] == {}
    assert not (tmp_path / "out.refused.csv").exists()


def test_two_atoms_at_one_place_and_foreign_classes(tmp_path):
    close = Structure([[5, 0, 0], [0, 5, 0], [0, 0, 5]], ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]]).as_dict()
    foreign = forms.summary(1)
    foreign["structure"]["sites"][0]["properties"] = {"magmom": {"@module": "os", "@class": "system"}}
    nan = forms.summary(2)
    nan["structure"]["lattice"]["matrix"][0][0] = float("nan")
    docs = [forms.summary(0), {"material_id": "a", "structure": close}, foreign, nan]
    (tmp_path / "docs.json").write_text(json.dumps(docs))
    assert import_files([tmp_path / "docs.json"], tmp_path / "out.parquet", progress=False)["refused"] == {"broken": 3}
    details = pd.read_csv(tmp_path / "out.refused.csv")["detail"].tolist()
    assert "within 0.5 Å" in details[0]
    assert "names the module 'os'" in details[1]
    assert "NaN" in details[2]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", "{", "cannot be read"),
        ("x.json", "", "is empty"),
        ("x.json", '[{"a": 1, "b": 2}]', "the fields a, b"),
        ("x.json", "[]", "holds no entries"),
        ("x.csv", "a,b\n1,2\n", "no column cif; its columns are a, b"),
        ("x.xlsx", "x", "suffix '.xlsx'"),
        ("x.db", "no database", "cannot be read"),
        ("x.db", "", "no ASE database"),
        ("x.jsonl", "[1]\n[2]", "no fields"),
        ("x.jsonl", '{"cif": "x"}\n{"ci', "line 2 is no JSON"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as said:
        import_files([tmp_path / name], tmp_path / "out.parquet", progress=False)
    assert str(tmp_path / name) in str(said.value)
    assert not (tmp_path / "out.parquet").exists()
    assert (tmp_path / name).read_text() == content  # ASE would have made a database of an empty file


def imported(path, documents, **changes):
    """The table and the refusals (id to reason) of documents that are written to a file."""
    path.write_text(
        "\n".join(json.dumps(d) for d in documents) if changes.pop("lines", False) else json.dumps(documents)
    )
    out = path.parent / "out.parquet"
    facts = import_files([path], out, progress=False, **changes)
    refused = (
        pd.read_csv(path.parent / "out.refused.csv") if facts["refused"] else pd.DataFrame({"id": [], "reason": []})
    )
    return read_table(out), dict(zip(refused["id"], refused["reason"], strict=True))


def test_labels_must_be_numbers_in_their_unit(tmp_path):
    wrong = ["-1.5", "n/a", -411.0, float("inf"), float("nan")]  # kJ/mol are eV/atom to nobody
    documents = [forms.summary(k, formation_energy_per_atom=value) for k, value in enumerate(wrong)]
    documents.append(forms.summary(5, band_gap=10**30))
    documents.append(forms.summary(6, symmetry=None, space_group="Fm-3m", note="\ud800", **{"key\ud800": 10**30}))
    table, refused = imported(tmp_path / "docs.json", documents)
    assert refused == dict.fromkeys(["mp-1001", "mp-1002", "mp-1003", "mp-1005"], "label")
    energies = table.labels["formation_energy_per_atom"]
    np.testing.assert_allclose(energies, [-1.5, np.nan, -2.06])
    row = table.labels.iloc[2]
    assert (row["space_group_symbol"], row["note"], row["key?"]) == ("Fm-3m", "?", 1e30)


def test_total_energies_and_those_of_a_cell_are_no_formation_energies(tmp_path):
    data = [[forms.primitive(k).as_dict(), 0.5 * k] for k in range(2)]
    content = {"index": [0, 1], "columns": ["structure", "e_form"], "data": data}
    table, _ = imported(tmp_path / "matbench_perovskites.json", content)
    assert "formation_energy_per_atom" not in table.labels
    assert table.labels["e_form_per_cell_eV"].tolist() == [0.0, 0.5]
    bare = {
        k: v for k, v in forms.computed_entry(0).items() if k not in ("correction", "energy_adjustments", "parameters")
    }
    table, refused = imported(tmp_path / "entries.json", [bare, {**forms.computed_entry(1), "energy": None}])
    assert table.labels["energy_per_atom_eV"].tolist() == [-11.5 / 2]
    assert refused == {"mp-1001-GGA": "broken"}


@pytest.mark.parametrize("name", ["docs.json", "docs.jsonl"])
def test_a_bad_beginning_does_not_end_an_import(tmp_path, name):
    documents = [None, {"error": "busy"}, forms.summary(0), [3], forms.summary(1)]
    table, refused = imported(tmp_path / name, documents, lines=name.endswith("l"))
    assert table.ids == ["mp-1000", "mp-1001"]
    assert refused == dict.fromkeys(["docs-0", "docs-1", "docs-3"], "broken")


@pytest.mark.parametrize("name", ["made.json", "made.extxyz", "made.parquet"])
def test_provenance_is_kept(tmp_path, name):
    crystal = forms.primitive(0).copy(properties={"autoperi": {"model": "m", "seed": 3}})
    write_crystals([crystal], tmp_path / name)
    import_files([tmp_path / name], tmp_path / "out.parquet", progress=False)
    assert read_table(tmp_path / "out.parquet").labels["autoperi"].tolist() == [{"model": "m", "seed": 3}]


def test_lines_that_are_called_json(tmp_path):
    table, _ = imported(tmp_path / "docs.json", [forms.summary(0), forms.summary(1)], lines=True)
    assert len(table) == 2


def test_cells_in_another_unit_and_atoms_on_their_own_images(tmp_path):
    cells = {"pm": 400.0, "nm": 0.04, "thin": 4.0}
    documents = [
        {"id": n, "structure": Structure(np.eye(3) * a, ["Na"], [[0] * 3]).as_dict()} for n, a in cells.items()
    ]
    documents[2]["structure"]["lattice"]["matrix"][2] = [0, 0, 0.3]
    _, refused = imported(tmp_path / "docs.json", [*documents, forms.summary(0)])
    assert refused == {"pm": "volume", "nm": "broken", "thin": "broken"}


def test_folders_with_links_packed_and_unreadable_files(tmp_path, monkeypatch):
    folder = tmp_path / "cifs"
    for place in (folder / "sub", folder / ".hidden" / "deep"):
        place.mkdir(parents=True)
    for k, name in enumerate(["a.cif", "sub/b.CIF", ".hidden/deep/c.cif", "locked.cif", "odd\udcff.cif"]):
        (folder / name).write_text(forms.cod_cif(k, 9008000 + k))
    (folder / "packed.cif.gz").write_bytes(gzip.compress(forms.cod_cif(5, 9008005).encode()))
    (folder / "cut.cif.gz").write_bytes(gzip.compress(forms.cod_cif(6, 9008006).encode())[:-40])
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "gone.cif").symlink_to(folder / "nowhere.cif")
    real = Path.read_bytes

    def read(path):
        if path.name == "locked.cif":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    facts = import_files([folder], tmp_path / "out.parquet", progress=False)
    assert facts["refused"] == {"broken": 2}
    table = read_table(tmp_path / "out.parquet")
    assert sorted(table.ids) == [f"cod-{9008000 + k}" for k in (0, 1, 4, 5)]
    assert "odd?.cif" in set(table.labels["source_file"])
    assert pd.read_csv(tmp_path / "out.refused.csv")["id"].tolist() == ["locked", "cut"]


def test_several_files_become_one_table(tmp_path):
    summaries(tmp_path / "a.json")
    mp_2018(tmp_path / "b.json")
    cif_folder(tmp_path / "cifs")
    files = [tmp_path / name for name in ("a.json", "b.json", "cifs")]
    how = {"max_atoms": 2, "volume": (9.0, 25.0), "progress": False}
    facts = import_files(files, tmp_path / "all.parquet", **how)
    assert facts["refused"] == {"volume": 6, "duplicate": 4}
    assert (facts["crystals"], facts["entries"]) == (8, 18)
    sources = read_table(tmp_path / "all.parquet").labels["source_file"].tolist()
    assert sources[:4] == ["a.json"] * 4
    assert sorted(sources[4:]) == ["more/salt2.cif", "more/salt4.cif", "salt1.cif", "salt5.cif"]
    assert import_files(files[:1], tmp_path / "b.parquet", max_atoms=2, progress=False)["crystals"] == N
    with pytest.raises(DataError, match="there is no crystal"):
        import_files(files[:1], tmp_path / "c.parquet", max_atoms=1, progress=False)
    with pytest.raises(RequestError, match="volume=5-1 is no range"):
        import_files(files[:1], tmp_path / "d.parquet", volume=(5, 1))
    assert set(pd.read_csv(tmp_path / "c.refused.csv")["reason"]) == {"too large"}


def test_a_cif_of_several_blocks(tmp_path):
    write_crystals([forms.primitive(k) for k in range(N)], tmp_path / "all.cif")
    facts = import_files([tmp_path / "all.cif"], tmp_path / "all.parquet", progress=False)
    assert (facts["format"], facts["crystals"]) == ("a CIF", N)
    assert read_table(tmp_path / "all.parquet").ids == [f"all-{k}" for k in range(1, N + 1)]


def test_places_that_are_refused(tmp_path):
    cif_folder(tmp_path / "cifs")
    with pytest.raises(DataError, match=r"is written as \.parquet"):
        import_files([tmp_path / "cifs"], tmp_path / "out.csv")
    with pytest.raises(DataError, match="does not exist"):
        import_files([tmp_path / "nothing"], tmp_path / "out.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no CIF"):
        import_files([tmp_path / "empty"], tmp_path / "out.parquet")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.cif").write_text("nothing")
    with pytest.raises(DataError, match=r"no crystal to write.*out\.refused\.csv says why each of 1"):
        import_files([tmp_path / "bad"], tmp_path / "out.parquet", progress=False)
