"""``autoperi data``: from a provider or a file to a table and its split."""

from __future__ import annotations

import json
from dataclasses import fields

import local_providers
import pandas as pd
import provider_forms as forms
import pytest

from autoperi.cli.data import CONDITIONS, SOURCES
from autoperi.data.io import read_table
from autoperi.data.sources.fetch import PROVIDERS
from autoperi.data.sources.query import Query


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An imported table of 27 salts."""
    from autoperi.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    (folder / "docs.json").write_text(json.dumps([forms.summary(k) for k in range(27)]))
    assert main(["data", "import", str(folder / "docs.json"), "--out", str(folder / "mine.parquet"), "--quiet"]) == 0
    return folder / "mine.parquet"


def test_import_says_what_was_kept_and_refused(cli, tmp_path):
    bad = forms.cod_folder(tmp_path / "cifs")
    for name in list((tmp_path / "cifs").glob("90080[1-7]?.cif")):  # the hundred are read in tests/data/sources
        name.unlink()
    ran = cli("data", "import", tmp_path / "cifs", "--out", tmp_path / "cod.parquet", "--quiet").done()
    first, second, third = ran.out.splitlines()
    assert (
        first == f"{tmp_path / 'cifs'} (a folder of crystals): 10 crystals of 30 entries in {tmp_path / 'cod.parquet'}"
    )
    assert second.startswith("20 refused: 6 broken, 5 disordered, 4 partially occupied")
    assert second.endswith(f"{tmp_path / 'cod.refused.csv'} names each")
    assert third.startswith("sha256 ")
    assert len(pd.read_csv(tmp_path / "cod.refused.csv")) == len(bad) == 20
    again = cli("data", "import", tmp_path / "cifs", "--out", tmp_path / "cod.parquet", "--json").done().json
    assert (again["crystals"], again["entries"], again["sha256"]) == (10, 30, third.split()[1])


def test_fetch_prints_and_can_be_resumed(cli, tmp_path, monkeypatch):
    with local_providers.Provider("oqmd") as provider:
        where = ["--endpoint", provider.url, "--out", tmp_path / "run", "--rate", 1000, "--quiet"]
        ran = cli("data", "fetch", "oqmd", *where, "--elements", "Li,F").done()
        assert ran.out.startswith("OQMD, 3 answers, licence CC-BY-4.0\na fetch from OQMD: 5 crystals of 5 entries in ")
        cli("data", "fetch", "oqmd", *where).refused("earlier fetch", "--resume")
        assert cli("data", "fetch", "oqmd", *where, "--resume", "--json").done().json["crystals"] == 5

        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("autoperi.data.sources.oqmd.Oqmd.answer", stop)
        ran = cli("data", "fetch", "oqmd", *where[:2], "--out", tmp_path / "other")
        assert ran.code == 130
        assert f"go on with: autoperi data fetch oqmd --out {tmp_path / 'other'} --resume" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch", "icsd", "--out", "x"], ["icsd", "optimade"]),
        (["fetch", "oqmd"], ["--out"]),
        (["fetch", "oqmd", "--out", "x", "--ids", "1"], ["ids", "cannot be asked of oqmd"]),
        (["fetch", "mp", "--out", "x"], ["MP_API_KEY is not set", "https://materialsproject.org/api"]),
        (["fetch", "optimade", "--out", "x"], ["endpoint=None", "alexandria"]),
        (["fetch", "cod", "--out", "x"], ["COD is asked by ids"]),
        (["import", "nothing.json", "--out", "x.parquet"], ["nothing.json does not exist"]),
        (["import", "nothing.json", "--out", "x.csv"], ["x.csv", ".parquet"]),
        (["split", "nothing.parquet", "--out", "x"], ["nothing.parquet does not exist"]),
        (["split", "nothing.parquet", "--out", "x", "--test", "some"], ["--test some", "0.1"]),
        (["show", "nothing.parquet"], ["nothing.parquet does not exist"]),
    ],
)
def test_refused_before_any_work(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    cli("data", *arguments).refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_split_writes_parts_that_go_back_together(cli, table, tmp_path):
    ran = cli("data", "split", table, "--by", "match", "--out", tmp_path / "s", "--val", "0.2", "--quiet").done()
    parts = {p: read_table(tmp_path / "s" / f"{p}.parquet") for p in ("train", "val", "test")}
    whole = read_table(table)
    assert sorted(name for part in parts.values() for name in part.ids) == sorted(whole.ids)
    assert "train " in ran.out
    record = json.loads((tmp_path / "s" / "split.json").read_text())
    assert record["parts"]["val"]["crystals"] == len(parts["val"])
    assert set(parts["train"].labels) == set(whole.labels)
    cli("data", "split", table, "--out", tmp_path / "s").refused("is not empty")
    (tmp_path / "test.txt").write_text("\n".join([*parts["test"].ids, "mp-0"]))
    how = ["--test", tmp_path / "test.txt", "--val", "0", "--apart-from", tmp_path / "s" / "val.parquet", "--quiet"]
    ran = cli("data", "split", table, "--by", "formula", *how, "--out", tmp_path / "t").done()
    assert "1 ids of test are not in the table" in ran.err
    assert f"{len(parts['val'])} removed, which share a formula across the split" in ran.out
    assert pd.read_csv(tmp_path / "t" / "removed.csv")["like"].tolist() == parts["val"].ids


def test_words_are_those_of_the_clients():
    assert tuple(PROVIDERS) == SOURCES
    assert set(CONDITIONS) == {f.name for f in fields(Query)}


def test_show(cli, table):
    text = cli("data", "show", table, "--quiet").done().out
    assert text.startswith("27 crystals of 27 formulas\n")
    assert "source       Materials Project 27" in text
    assert "correction_per_atom_eV" in text
    facts = cli("data", "show", table.with_name("docs.json"), "--json").done().json
    assert facts["space_groups"] == {"225": 27}
    assert facts["columns"]["k_vrh"]["median"] == 24.05
