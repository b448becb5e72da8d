"""The report is one whole, escaped, repeatable file that holds every number."""

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from autoperi.errors import RequestError
from autoperi.evaluation.report import check_report, figures_of, html, write_figures, write_report

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert('x')</script> & \"quotes\" $"


def quantity(value, of=10, missing=0, reason=None, **more):
    return {"value": value, **more, "of": of, "missing": missing, "reason": reason}


def result():
    return {
        "task": "generation",
        "title": EVIL,
        "n": 1234,
        "command": "autoperi evaluate generation --seed 5 --note '<b>'",
        "validity": {
            "distance": quantity(0.998, 4321, count=4312),
            "charge": quantity(None, 0, 77, "no <oxidation> states"),
        },
        "coverage": {"0.4": {"COV-R": quantity(0.765432, 555)}, "reasons": ["a", "b"]},
        "rows": [{"id": "first", "x": 0.111}, {"id": "second", "x": 0.222}],
        "many": list(range(1000, 1080)),
        "parameters": {"symprec": 0.0625, "matcher": {"stol": 0.5125}},
        "versions": {"autoperi": "9.8.7", "smact": None},
        "model": "autoperi-base",
        "data": "table.parquet",
        "data_sha256": "f00d" * 16,
        "seed": 5,
        "series": {
            "validity": {"kind": "bars", "title": EVIL, "bars": {"distance": quantity(0.998)}},
            "../density": {
                "kind": "histogram",
                "title": "Density",
                "x_label": "v",
                "sets": {"a": np.array([1.0, 2.0, 98765.4321])},
            },
        },
    }


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def page():
    return Page(html(result()))


def test_every_tag_is_closed_and_nothing_is_loaded(page):
    assert not page.wrong
    assert not page.open
    tags = [t for t, _ in page.seen]
    assert not {"script", "link", "iframe", "object", "b"} & set(tags)
    for _, attrs in page.seen:
        assert all(
            v.startswith("data:image/svg+xml;base64,") for k, v in attrs.items() if k in ("src", "href", "srcset")
        )
        assert not any(k.startswith("on") for k in attrs)
    assert not re.search(r"@import|url\(", html(result()))


def test_markup_in_a_title_is_text(page):
    assert "".join(page.text).count(EVIL) >= 1
    assert "<script" not in html(result())


def test_figures_are_whole_and_described(page):
    images = [a for t, a in page.seen if t == "img"]
    assert len(images) == 2
    assert EVIL in images[0]["alt"]
    assert "0.998" in images[0]["alt"]
    for image in images:
        drawing = base64.b64decode(image["src"].split(",")[1])
        assert ET.fromstring(drawing).tag.endswith("svg")
        assert b"<script" not in drawing
        assert not re.search(rb'(?:href|src)="http', drawing)


def test_tables_have_headers(page):
    tags = [t for t, _ in page.seen]
    assert tags.count("table") == tags.count("thead") >= 6
    assert {a.get("scope") for t, a in page.seen if t == "th"} == {"col", "row"}


def test_every_number_is_there_with_its_counts(page):
    cells = " ".join(page.text)
    for expected in (
        "1234",
        "0.998",
        "4321",
        "4312",
        "77",
        "no <oxidation> states",
        "0.765432",
        "555",
        "0.111",
        "0.222",
        "second",
        "a, b",
    ):
        assert expected in cells
    for expected in (
        "0.0625",
        "0.5125",
        "9.8.7",
        "f00d" * 16,
        "table.parquet",
        "autoperi evaluate generation --seed 5",
        "coverage › 0.4",
    ):
        assert expected in cells
    assert "1049, … (80 in all)" in cells
    assert "1050" not in cells
    assert "98765.4321" not in cells  # series are figures, not tables


def test_same_result_same_bytes(tmp_path):
    a, b = write_report(result(), tmp_path / "a.html"), write_report(result(), tmp_path / "b.html")
    assert a.read_bytes() == b.read_bytes()


def summary(text):
    return re.search(r"<h2>Summary</h2>(.*?)</section>", text, re.DOTALL).group(1)


def test_the_summary_is_what_the_headline_asks_for():
    given = result() | {"series": {}, "headline": {"Recall": "coverage.0.4.COV-R", "Lost": "not.there"}}
    shown = summary(html(given))
    assert "Recall" in shown
    assert "0.765432" in shown
    assert "Lost" not in shown
    assert "0.998" not in shown
    without = summary(html(result() | {"series": {}}))
    assert without.index("validity.distance") < without.index("coverage.0.4.COV-R")


def test_a_headline_that_is_absent_says_why_or_nothing():
    given = {
        "headline": {
            "stable": "stability.stable",
            "S.U.N.": "stability.sun",
            "novel": "novelty.novel",
            "unique": "novelty.unique",
        },
        "stability": {
            "reason": "no reference entries were given",
            "sun_reason": "no training set was given",
            "stable": None,
        },
        "novelty": {"unique": quantity(0.75), "novel": None},
    }
    shown = summary(html(given))
    assert re.search("stable</th>.*no value.*no reference entries were given", shown)
    assert re.search(r"S\.U\.N\.</th>.*no value.*no training set was given", shown)
    assert "0.75" in shown
    assert ">novel<" not in shown


def test_notes_are_words():
    judged = quantity(0.5, 6, 2, count=3)
    distance = quantity(0.25, 10, of_reference=7, rank_deficient=True, moments={"low_order": 1.5, "high": None})
    text = html({"a": quantity(0.1, of_judged=judged), "fd": distance, "fine": quantity(0.3, rank_deficient=False)})
    notes = [re.sub("<[^>]*>", "", n) for n in re.findall("<td class=why>(.*?)</td>", text)]
    assert notes[0] == "among the judged alone: 0.5 (of 6, 2 missing, count: 3)"
    assert (
        notes[1]
        == "fewer crystals than dimensions: not reliable; reference crystals: 7; moments: low order 1.5, high no value"
    )
    assert notes[2] == ""
    assert "<strong class=warning>fewer" in text
    assert not re.search(r"rank_deficient|of_judged|of_reference|\{&quot;", text.split("</style>")[1])


@pytest.mark.parametrize(
    "empty",
    [{}, {"task": "csp", "match": quantity(None, 0, 0, "no crystals")}, {"x": float("nan"), "y": np.zeros(2), "z": {}}],
)
def test_a_result_without_much_is_a_page_all_the_same(empty):
    page = Page(html(empty))
    assert not page.wrong
    assert not page.open
    assert "NaN" not in "".join(page.text)


def test_a_figure_that_cannot_be_drawn_costs_no_number():
    broken = {"n": 3, "match": quantity(0.25), "series": {"pie": {"kind": "pie", "title": "T"}}}
    text = html(broken)
    assert "could not be drawn" in text
    assert "0.25" in text
    with pytest.raises(RequestError, match="'pie'"):
        figures_of(broken)


def test_figures_are_written_inside_the_folder(tmp_path):
    paths = write_figures(result(), tmp_path / "new")
    assert [p.name for p in paths] == ["validity.png", "validity.svg", "density.png", "density.svg"]
    assert all(p.parent == tmp_path / "new" and p.stat().st_size > 2000 for p in paths)
    with pytest.raises(RequestError, match="png and svg"):
        write_figures(result(), tmp_path, formats=("jpg",))


def test_a_path_is_refused_before_the_work(tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(RequestError, match=r"\.html"):
        check_report(tmp_path / "out.pdf")
    with pytest.raises(RequestError, match="is a folder"):
        check_report(tmp_path / "folder.html")
