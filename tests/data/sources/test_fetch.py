"""Fetches from providers on 127.0.0.1: pages, interruptions, busy servers, and what is refused before any request."""

from __future__ import annotations

import json
import time

import local_providers
import pandas as pd
import provider_forms as forms
import pytest
from emmet.core.summary import SummaryDoc
from mp_api.client.core.client import BaseRester

from autoperi.data.io import read_table
from autoperi.data.sources import http
from autoperi.data.sources.fetch import fetch
from autoperi.data.sources.files import import_files
from autoperi.data.sources.materials_project import MaterialsProject
from autoperi.data.sources.optimade import _alphabetical as optimade_formula
from autoperi.data.sources.query import make_query
from autoperi.errors import DataError, RequestError

KINDS = ("mp", "oqmd", "cod", "optimade")
LABELS = {
    "mp": {
        "formation_energy_per_atom": -2.02,
        "e_above_hull": 0.0,
        "energy_per_atom_eV": -3.27,
        "uncorrected_energy_per_atom_eV": -3.02,
        "correction_per_atom_eV": -0.25,
        "band_gap": 5.02,
        "k_vrh": 24.05,
        "space_group": 225,
        "source": "Materials Project",
        "source_version": "2026.09.22",
        "licence": "CC-BY-4.0",
    },
    "oqmd": {
        "formation_energy_per_atom": -1.92,
        "e_above_hull": 0.0,
        "correction_fit": "standard",
        "space_group_symbol": "Fm-3m",
        "source": "OQMD",
        "licence": "CC-BY-4.0",
    },
    "cod": {"year": 1963, "space_group": 221, "source": "COD", "licence": "CC0-1.0"},
    "optimade": {
        "exmpl_hull_distance": 0.02,
        "immutable_id": "exmpl-2",
        "source": "Example provider",
        "source_version": "1.2.0",
        "licence": "CC-BY-4.0",
    },
}
IDS = {"mp": "mp-1002", "oqmd": "oqmd-2002", "cod": "cod-9008002", "optimade": "exmpl-3002"}


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", local_providers.KEY)
    monkeypatch.setattr(MaterialsProject, "page", 2)
    monkeypatch.setattr(http, "TRIES", 2)
    # mp-api writes a JSON schema before each request to look up the names of the fields; the model has them at once
    monkeypatch.setattr(BaseRester, "available_fields", property(lambda self: list(self.document_model.model_fields)))


@pytest.fixture(params=KINDS)
def provider(request):
    with local_providers.Provider(request.param) as running:
        yield running


def ask(provider, folder, **options):
    conditions = {} if options.get("resume") else {"elements": "Li-F"}
    how = {"endpoint": provider.url, "rate": 1000, "progress": False, **conditions, **options}
    return fetch(provider.kind, folder, **how)


def documents(provider):
    """Requests of documents that were answered."""
    return provider.asked(r"summary|formationenergy|v1/structures$|\d{7}\.cif")


def test_pages_labels_and_provenance(provider, tmp_path):
    facts = ask(provider, tmp_path / "run")
    table = read_table(tmp_path / "run" / "crystals.parquet")
    assert facts["crystals"] == len(table) == 5
    assert IDS[provider.kind] in table.ids
    row = table.labels.iloc[table.ids.index(IDS[provider.kind])]
    for name, value in LABELS[provider.kind].items():
        assert row[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    assert row["retrieved"] == time.strftime("%Y-%m-%d", time.gmtime())
    assert row["source_url"] == provider.url
    assert json.loads((tmp_path / "run" / "fetch.json").read_text())["query"] == {"elements": ["F", "Li"]}
    if provider.kind == "mp":
        assert set(provider.keys[1:]) <= {local_providers.KEY, None}  # the heartbeat needs none
        assert local_providers.KEY not in (tmp_path / "run" / "answers.jsonl").read_text()


def test_what_was_saved_imports_the_same(provider, tmp_path):
    ask(provider, tmp_path / "run")
    fetched = (tmp_path / "run" / "crystals.parquet").read_bytes()
    import_files([tmp_path / "run"], tmp_path / "again.parquet", progress=False)
    assert (tmp_path / "again.parquet").read_bytes() == fetched
    # an answer by itself, as somebody might have saved it
    line = json.loads((tmp_path / "run" / "answers.jsonl").read_text().splitlines()[1])
    (tmp_path / "answer.json").write_text(json.dumps(line["answer"]))
    import_files([tmp_path / "answer.json"], tmp_path / "answer.parquet", progress=False)
    whole, part = pd.read_parquet(tmp_path / "again.parquet"), pd.read_parquet(tmp_path / "answer.parquet")
    apart = ["source_file", "source_url", "retrieved", "source_version", "licence", "id", "source"]
    part, whole = (t.drop(columns=[c for c in apart if c in t]) for t in (part, whole.head(len(part))))
    pd.testing.assert_frame_equal(part, whole[part.columns])


def test_an_interrupted_fetch_goes_on_without_loss_or_duplicates(provider, tmp_path, monkeypatch):
    from autoperi.data.sources.fetch import PROVIDERS

    ask(provider, tmp_path / "whole")
    asked = len(documents(provider))
    client = PROVIDERS[provider.kind]
    real = client.answer

    def stopped(self, place, *, remaining):
        if place is not None and not done:
            done.append(place)
            raise KeyboardInterrupt
        return real(self, place, remaining=remaining)

    done: list[object] = []
    monkeypatch.setattr(client, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        ask(provider, tmp_path / "run")
    answers = tmp_path / "run" / "answers.jsonl"
    kept = answers.read_bytes()
    answers.write_bytes(kept + b'{"url": "http://127.0.0.1", "answer": {"data": [{"na')  # and the power went off
    with pytest.raises(DataError, match="--resume"):
        ask(provider, tmp_path / "run")
    ask(provider, tmp_path / "run", resume=True)
    assert answers.read_bytes().startswith(kept)
    assert len(documents(provider)) == 2 * asked
    same = [(tmp_path / name / "crystals.parquet").read_bytes() for name in ("run", "whole")]
    assert same[0] == same[1]
    # a fetch that is whole asks for nothing more
    ask(provider, tmp_path / "run", resume=True)
    assert len(documents(provider)) == 2 * asked


def test_a_busy_provider_is_asked_again(provider, tmp_path):
    provider.troubles = [429, 503] if provider.kind != "mp" else [429]
    provider.retry_after = "1"
    began = time.monotonic()
    assert ask(provider, tmp_path / "run")["crystals"] == 5
    assert time.monotonic() - began >= len(provider.troubles) + 1


def test_a_provider_that_stays_busy_loses_nothing(provider, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 0)
    ready = {"optimade": 3, "cod": 2}.get(provider.kind, 1)  # who it is, what it has, and the first answer
    provider.troubles = [None] * ready + [503]
    with pytest.raises(DataError, match=r"503.*--resume"):
        ask(provider, tmp_path / "run")
    assert len((tmp_path / "run" / "answers.jsonl").read_text().splitlines()) == 2
    assert ask(provider, tmp_path / "run", resume=True)["crystals"] == 5


def test_a_cut_connection_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 0)
    with local_providers.Provider("oqmd") as provider:
        provider.troubles = [None, "cut"]
        with pytest.raises(DataError, match="--resume"):
            ask(provider, tmp_path / "run")
        assert ask(provider, tmp_path / "run", resume=True)["crystals"] == 5


def test_limit_and_rate(provider, tmp_path):
    began = time.monotonic()
    assert ask(provider, tmp_path / "run", limit=3, rate=10)["crystals"] == 3
    assert time.monotonic() - began >= 0.1 * (len(documents(provider)) - 1)
    assert len(documents(provider)) <= 3


def test_conditions_reach_the_provider(tmp_path):
    with local_providers.Provider("oqmd") as provider:
        query = {
            "elements": None,
            "chemical_system": "Li-F",
            "max_atoms": 4,
            "max_above_hull": 0.1,
            "filter": "delta_e<0",
        }
        ask(provider, tmp_path / "oqmd", formula="LiF", **query)
        (asked, *_) = provider.asked("formationenergy")
        assert asked["composition"] == "LiF"
        wanted = "element_set=F,Li AND ntypes=2 AND natoms<5 AND stability<0.100000001 AND (delta_e<0)"
        assert asked["filter"] == wanted
    with local_providers.Provider("optimade") as provider:
        query = {"elements": None, "chemical_system": "Li,Fe,P,O", "max_atoms": 28, "filter": "_exmpl_hull_distance<1"}
        ask(provider, tmp_path / "optimade", formula="LiFePO4", **query)
        (asked, *_) = provider.asked("structures$")[1:]
        assert asked["filter"] == (
            'elements HAS ALL "Fe","Li","O","P" AND nelements=4 AND chemical_formula_reduced="FeLiO4P" AND nsites<=28 '
            "AND (_exmpl_hull_distance<1)"
        )
        assert asked["response_fields"].endswith("structure_features,_exmpl_hull_distance")
    with local_providers.Provider("cod") as provider:
        ask(provider, tmp_path / "cod", elements=None, chemical_system="Li-F", formula="LiF")
        (asked,) = provider.asked("result")
        assert asked == {
            "format": "json",
            "el1": "F",
            "el2": "Li",
            "strictmin": "2",
            "strictmax": "2",
            "formula": "F Li",
        }
    with local_providers.Provider("mp") as provider:
        query = {"elements": None, "chemical_system": "Li-F", "max_atoms": 4, "max_above_hull": 0.1}
        ask(provider, tmp_path / "mp", formula="LiF", **query)
        (asked, *_) = provider.asked("summary")
        said = {"chemsys": "F-Li", "formula": "LiF", "nsites_max": "4", "energy_above_hull_max": "0.1"}
        assert said.items() <= asked.items()


@pytest.mark.parametrize("kind", ["mp", "optimade", "cod"])
def test_ids(tmp_path, kind):
    names = {"mp": ["mp-1001", "mp-1003"], "optimade": ["3001", "3003"], "cod": ["9008001", "cod-9008003"]}[kind]
    (tmp_path / "ids.txt").write_text("\n".join(names))
    with local_providers.Provider(kind) as provider:
        ask(provider, tmp_path / "run", elements=None, ids=tmp_path / "ids.txt")
    found = read_table(tmp_path / "run" / "crystals.parquet").ids
    assert [name.removeprefix("cod-").removeprefix("exmpl-") for name in found] == [
        name.removeprefix("cod-") for name in names
    ]


def test_a_number_that_cod_has_not_is_named(tmp_path):
    with local_providers.Provider("cod") as provider:
        facts = ask(provider, tmp_path / "run", elements=None, ids="9008001,9999999")
    assert facts["refused"] == {"missing": 1}
    assert pd.read_csv(tmp_path / "run" / "crystals.refused.csv")["id"].tolist() == ["cod-9999999"]


@pytest.mark.parametrize(("kind", "id_"), [("mp", "mp-1001"), ("optimade", "3001")])
def test_ids_that_a_provider_has_not_are_named(tmp_path, kind, id_):
    with local_providers.Provider(kind) as provider:
        facts = ask(provider, tmp_path / "run", elements=None, ids=f"{id_},777")
    assert (facts["crystals"], facts["refused"]) == (1, {"missing": 1})
    assert pd.read_csv(tmp_path / "run" / "crystals.refused.csv")["id"].tolist() == [777]


def test_pages_that_are_smaller_than_a_group_of_ids(tmp_path):
    with local_providers.Provider("optimade") as provider:
        facts = ask(provider, tmp_path / "run", elements=None, ids=[f"{3000 + k}" for k in range(5)])
    assert (facts["crystals"], facts["refused"]) == (5, {})


@pytest.mark.parametrize("kind", ["oqmd", "optimade"])
def test_pages_that_go_round_in_a_circle_end(tmp_path, kind):
    with local_providers.Provider(kind) as provider:
        real = provider.respond
        first = {"offset": "0"} if kind == "oqmd" else {"page_offset": "0"}
        provider.respond = lambda path, query: real(path, {**query, **first})
        with pytest.raises(DataError, match="the same documents twice"):
            ask(provider, tmp_path / "run")


JUNK = [[1], None, "x", 3, {"data": None}, {"data": [1], "links": [1], "meta": [2]}]


@pytest.mark.parametrize("content", JUNK, ids=str)
def test_answers_that_are_none(provider, tmp_path, content):
    provider.respond = lambda *_: (200, json.dumps(content))
    with pytest.raises(DataError):
        ask(provider, tmp_path / "run")


def test_a_page_instead_of_a_cif(tmp_path):
    with local_providers.Provider("cod") as provider:
        provider.respond = lambda *_: (200, "<html>back soon</html>")
        with pytest.raises(DataError, match="something else than a CIF"):
            ask(provider, tmp_path / "run", elements=None, ids="9008001")


def test_a_provider_that_has_more_and_says_not_where(tmp_path):
    with local_providers.Provider("optimade") as provider:
        real = provider.respond

        def cut(path, query):
            status, content = real(path, query)
            return status, {**content, "links": {}}

        provider.respond = cut
        facts = ask(provider, tmp_path / "run")
    assert (facts["crystals"], facts["refused"]) == (2, {"incomplete": 1})


def test_an_unfinished_fetch_is_imported_as_such(tmp_path):
    with local_providers.Provider("oqmd") as provider:
        ask(provider, tmp_path / "run")
    answers = tmp_path / "run" / "answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-300])
    facts = import_files([tmp_path / "run"], tmp_path / "out.parquet", progress=False)
    assert (facts["crystals"], facts["refused"]) == (4, {"incomplete": 1})
    assert "--resume" in pd.read_csv(tmp_path / "out.refused.csv")["detail"][0]


def test_a_query_that_was_refused_can_be_mended(tmp_path):
    with local_providers.Provider("optimade") as provider:
        with pytest.raises(DataError, match="the filter has no sense"):
            ask(provider, tmp_path / "run", filter="BROKEN")
        assert ask(provider, tmp_path / "run")["crystals"] == 5
        with pytest.raises(DataError, match="holds no fetch to go on with"):
            ask(provider, tmp_path / "runn", resume=True)
        (tmp_path / "killed").mkdir()
        (tmp_path / "killed" / ".answers.jsonl.0.tmp").touch()
        assert ask(provider, tmp_path / "killed")["crystals"] == 5
    (tmp_path / "run" / "answers.jsonl").write_text("null\n")
    with pytest.raises(DataError, match="says nothing of a fetch"):
        ask(provider, tmp_path / "run", resume=True)


def test_hours_of_retry_after_are_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(http, "MAX_WAIT_S", 0.01)
    with local_providers.Provider("oqmd") as provider:
        provider.troubles, provider.retry_after = [429], "7200"
        assert ask(provider, tmp_path / "run")["crystals"] == 5


def test_formulas_of_the_providers():
    assert make_query("x", ("formula",), formula="H4O4").formula == "H2O2"
    assert optimade_formula("H2O2") == "HO"
    with pytest.raises(RequestError, match="whole numbers"):
        make_query("x", ("formula",), formula="Li0.5CoO2")


def test_another_release_is_not_mixed_in(tmp_path, monkeypatch):
    with local_providers.Provider("mp") as provider:
        ask(provider, tmp_path / "run")
        # mp-api asks for the release once a process
        monkeypatch.setattr(MaterialsProject, "facts", lambda _: {"version": "2026.11.01"})
        with pytest.raises(RequestError, match=r"version='2026\.11\.01' differs from '2026\.09\.22'"):
            ask(provider, tmp_path / "run", resume=True)


def test_refusals_before_any_request(tmp_path, monkeypatch):
    with local_providers.Provider("oqmd") as provider:
        for options, words in (
            ({"ids": "1,2"}, "cannot be asked of oqmd; it knows formula"),
            ({"elements": "Li-Xx"}, "'Xx' is not a chemical element"),
            ({"formula": "Li((", "elements": None}, "not a formula"),
            ({"max_atoms": 0}, "max_atoms=0"),
            ({"max_above_hull": -1.0}, "max_above_hull=-1"),
            ({"limit": 0}, "limit=0"),
            ({"rate": 0}, "rate=0"),
            ({"endpoint": "nowhere"}, "endpoint='nowhere' is no address"),
        ):
            with pytest.raises(RequestError, match=words.replace("(", r"\(")):
                ask(provider, tmp_path / "run", **options)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("x")
        with pytest.raises(DataError, match=r"notes\.txt"):
            ask(provider, tmp_path / "mine")
        assert provider.seen == []
        ask(provider, tmp_path / "run")
        for options, words in (
            ({"elements": "Na"}, "query={'elements': .*differs"),
            ({"endpoint": "http://127.0.0.1:1"}, "differs from"),
        ):
            with pytest.raises(RequestError, match=words):
                ask(provider, tmp_path / "run", resume=True, **options)
        with pytest.raises(RequestError, match="source='cod' differs"):
            fetch("cod", tmp_path / "run", resume=True)
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(RequestError, match=r"MP_API_KEY is not set; get one at https://materialsproject\.org/api"):
        fetch("mp", tmp_path / "mp", elements="Li")
    with pytest.raises(RequestError, match="is no OPTIMADE provider; give its base URL, or one of"):
        fetch("optimade", tmp_path / "optimade", endpoint="nobody")
    with pytest.raises(RequestError, match="seven digits"):
        fetch("cod", tmp_path / "cod", ids="12")
    with pytest.raises(RequestError, match="choose one of mp, oqmd, cod, optimade"):
        fetch("icsd", tmp_path / "icsd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "run"]


def test_what_a_provider_says_is_wrong(tmp_path, monkeypatch):
    with local_providers.Provider("optimade") as provider, pytest.raises(DataError, match="the filter has no sense"):
        ask(provider, tmp_path / "a", filter="BROKEN")
    monkeypatch.setenv("MP_API_KEY", "w" * 32)
    with local_providers.Provider("mp") as provider, pytest.raises(DataError, match="check the key") as said:
        ask(provider, tmp_path / "b")
    assert "w" * 32 not in str(said.value)
    with local_providers.Provider("oqmd", count=0) as provider, pytest.raises(DataError, match="has no document"):
        ask(provider, tmp_path / "c")
    with local_providers.Provider("cod") as provider, pytest.raises(DataError, match=r"answered 404"):
        ask(provider, tmp_path / "d", endpoint=f"{provider.url}/elsewhere")


def test_forms_are_those_of_the_providers():
    assert set(MaterialsProject.fields.split(",")) <= set(SummaryDoc.model_fields)
    assert set(forms.summary(0)) <= set(SummaryDoc.model_fields)
    assert forms.oqmd_answer([])["links"]["base_url"]["meta"] == {"_oqmd_version": "1.0"}
    assert len({s.composition.reduced_formula for s in forms.salts()}) == 81
