"""Every kind of figure: it draws, says what it shows, survives missing data, and is the same file each time."""

import io
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from autoperi.errors import RequestError
from autoperi.figures.draw import KINDS, describe, draw, encode, save
from autoperi.figures.style import log_ticks

matplotlib = pytest.importorskip("matplotlib")


def entries():
    random = np.random.default_rng(0)
    x = random.normal(size=60)
    return {
        "parity": {"kind": "parity", "title": "Energy", "x": x, "y": x + 0.1, "unit": "eV/atom", "x_label": "DFT"},
        "parity_many": {"kind": "parity", "title": "Energy", "x": np.tile(x, 40), "y": np.tile(x, 40)},
        "continuous": {
            "kind": "histogram",
            "title": "Density",
            "x_label": "Density",
            "unit": "g/cm³",
            "sets": {"generated": x.tolist(), "reference": (x + 1).tolist()},
            "distance": {"value": 1.0, "of": 60, "missing": 0, "reason": None},
        },
        "discrete": {
            "kind": "histogram",
            "title": "Elements",
            "x_label": "n",
            "discrete": True,
            "sets": {"a": [1, 2, 2], "b": {"2": 3}},
        },
        "words": {
            "kind": "histogram",
            "title": "System",
            "x_label": "",
            "discrete": True,
            "sets": {"a": ["cubic", "triclinic", None]},
        },
        "groups": {
            "kind": "histogram",
            "title": "Space groups",
            "x_label": "number",
            "discrete": True,
            "sets": {"generated": list(range(1, 231)), "reference": [225] * 9},
        },
        "errors": {
            "kind": "errors",
            "title": "Lengths",
            "unit": "Å",
            "sets": {"before": [0.4, 0.2], "after": [0.0, 0.1]},
        },
        "errors_of_nothing": {"kind": "errors", "title": "Angles", "sets": {"before": [0.0, 0.0]}},
        "curve": {
            "kind": "curve",
            "title": "Match rate",
            "x_label": "k",
            "y_label": "share",
            "share": True,
            "curves": {
                "unfiltered": {
                    "x": [1, 5, 20],
                    "y": [0.3, {"value": 0.4}, None],
                }
            },
        },
        "bars": {
            "kind": "bars",
            "title": "Validity",
            "bars": {
                "distance": {"value": 0.5, "count": 5, "of": 10, "missing": 2, "reason": None},
                "charge": {"value": None, "of": 0, "missing": 12, "reason": "no oxidation states"},
            },
        },
        "binary": {
            "kind": "hull",
            "title": "Li-O",
            "elements": ["Li", "O"],
            "reference": {"composition": [[2, 1], [1, 1]], "energy": [-2.0, -0.5], "name": ["Li2O", "LiO"]},
            "points": {"composition": [[1, 2]], "energy": [-0.1]},
        },
        "ternary": {
            "kind": "hull",
            "title": "Li-Fe-O",
            "elements": ["Li", "Fe", "O"],
            "reference": {"composition": [[2, 0, 1], [0, 2, 3], [1, 1, 2]], "energy": [-2.0, -1.7, -1.9]},
            "points": {"composition": [[1, 1, 1], [1, 2, 3]], "energy": [-0.5, -0.7], "e_above_hull": [0.8, None]},
        },
    }


ENTRIES = entries()
EMPTY = {
    "parity": {"x": [1.0, None], "y": [math.nan, 2.0]},
    "histogram": {"sets": {"generated": [], "reference": [math.inf]}},
    "errors": {"sets": {"before": [None]}},
    "curve": {"curves": {"a": {"x": [], "y": []}}},
    "bars": {"bars": {}},
    "hull": {"elements": ["Li", "O"]},
}


def texts(figure):
    return " | ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_each_kind_is_tested():
    assert {e["kind"] for e in ENTRIES.values()} == set(KINDS) == set(EMPTY)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_kind_draws(name):
    figure = draw(ENTRIES[name], name=name)
    assert ENTRIES[name]["title"] in texts(figure)
    assert "no data" not in texts(figure)
    assert len(describe(figure)) > len(ENTRIES[name]["title"]) + 10
    from PIL import Image

    image = np.asarray(Image.open(io.BytesIO(encode(figure, "png"))).convert("L"))
    assert min(image.shape) > 150
    assert len(np.unique(image)) > 20  # ink of several shades, not one colour
    assert ET.fromstring(encode(figure, "svg")).tag.endswith("svg")


@pytest.mark.parametrize("kind", EMPTY)
def test_nothing_to_draw_is_said(kind):
    assert "no data" in texts(draw({"kind": kind, "title": "T"} | EMPTY[kind]))
    figure = draw({"kind": kind, "title": "T", "reason": "no labels in the table"} | EMPTY[kind])
    assert "no data: no labels in the table" in texts(figure)
    assert "no labels in the table" in describe(figure)


def test_parity_numbers_are_those_of_sklearn():
    from sklearn.metrics import mean_absolute_error, r2_score

    x, y = np.array([1.0, 2.0, 4.0, 7.0]), np.array([1.5, 1.0, 4.0, 9.0])
    words = describe(draw({"kind": "parity", "title": "T", "x": [*x, None], "y": [*y, 3.0], "unit": "eV"}))
    assert f"MAE {mean_absolute_error(x, y):.3g} eV, R² {r2_score(x, y):.3g}, n = 4" in words
    assert "no finite value: 1." in words


def test_parity_of_one_point_has_no_r2():
    assert "R² not defined, n = 1" in describe(draw({"kind": "parity", "title": "T", "x": [1.0], "y": [2.0]}))


def test_histogram_draws_shares_and_keeps_every_value():
    values = [0.0] * 500 + list(np.linspace(0, 1, 500)) + [1e6, math.inf, 1e200]
    figure = draw({"kind": "histogram", "title": "T", "x_label": "v", "sets": {"generated": values}})
    stairs = figure.axes[0].patches[0].get_data()
    assert stairs.values.sum() == pytest.approx(1)
    assert stairs.edges[-1] < 2  # one outlier does not squeeze the rest into one bin
    assert "outermost bins: 1." in texts(figure)
    assert "no finite value: 2." in texts(figure)


def test_counts_and_values_give_the_same_bars():
    common = {"kind": "histogram", "title": "T", "x_label": "n", "discrete": True}
    heights = [
        [p.get_height() for p in draw(common | {"sets": {"a": s}}).axes[0].patches]
        for s in ([1, 1, 3], {"1": 2, "3": 1}, np.array([1, 3, 1]))
    ]
    assert heights == [pytest.approx([2 / 3, 1 / 3])] * 3


def test_crystal_systems_are_in_order():
    common = {
        "kind": "histogram",
        "title": "T",
        "x_label": "s",
        "discrete": True,
        "sets": {"a": ["cubic", "triclinic"]},
    }
    assert [t.get_text() for t in draw(common).axes[0].get_xticklabels()] == ["triclinic", "cubic"]


def test_bars_show_counts_and_reasons():
    shown = texts(draw(ENTRIES["bars"])).replace("\n", " ")
    assert "0.5 (5 of 10, 2 missing)" in shown
    assert "no value: no oxidation states" in shown


def test_energies_above_the_hull_are_those_of_the_references():
    words = describe(draw(ENTRIES["binary"]))
    assert "2 reference entries, 1 of them stable" in words
    # at LiO2 the line from Li2O (-2 eV/atom at one third of O) to O lies at -1 eV/atom
    assert "1 generated points, 0 of them on or below the hull, the lowest at 0.9 eV/atom above it" in words
    assert "3 reference entries, 3 of them stable" in describe(draw(ENTRIES["ternary"]))


def test_a_hull_without_a_stable_compound_is_flat():
    reference = {"composition": [[1, 1]], "energy": [0.2]}
    entry = {"kind": "hull", "title": "T", "elements": ["Li", "O"], "reference": reference}
    entry["points"] = {"composition": [[1, 3]], "energy": [0.3]}
    assert "0 of them stable; 1 generated points, 0 of them on or below the hull, the lowest at 0.3 eV" in describe(
        draw(entry)
    )


def test_same_entry_same_bytes():
    for suffix in ("png", "svg"):
        assert encode(draw(ENTRIES["curve"]), suffix) == encode(draw(entries()["curve"]), suffix)
    assert b"<dc:date>" not in encode(draw(ENTRIES["curve"]), "svg")


def test_settings_of_the_user_neither_change_nor_are_changed():
    plain = encode(draw(ENTRIES["discrete"]), "png")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "text.usetex": True, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert encode(draw(ENTRIES["discrete"]), "png") == plain
        assert dict(matplotlib.rcParams) == before


def test_formulas_control_characters_and_markup_are_text():
    figure = draw(
        {"kind": "bars", "title": "<b>$\\frac{$ a\x00\n</svg>", "bars": {"$x$": 1, "a & b": 0.5}, "note": "$$$"}
    )
    assert ET.fromstring(encode(figure, "svg")) is not None
    assert encode(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("span", [1.05, 1.5, 2.5, 4.0, 8.0, 30.0, 300.0, 1e5, 1e12])
@pytest.mark.parametrize("low", [3.1e-5, 0.012, 0.7, 950.0])
def test_ticks_of_a_logarithmic_axis_are_few_round_and_inside(low, span):
    ticks = log_ticks(low, low * span)
    assert 3 <= len(ticks) <= 7
    assert low <= min(ticks) < max(ticks) <= low * span
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("factor", [1.5, 3.0, 8.0, 40.0, 1e4, 1e9])
def test_labels_of_a_logarithmic_axis_stay_apart(factor):
    errors = 0.013 * np.geomspace(1, factor, 50)
    figures = [draw({"kind": "errors", "title": "E", "x_label": "error", "sets": {"a": errors}})]
    for figure in figures:
        figure.canvas.draw()
        axes = figure.axes[0]
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                t.get_window_extent() for t in axis.get_ticklabels(which="both") if t.get_text() and t.get_visible()
            ]
            assert len(boxes) >= 3
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_distance_is_named_by_its_label():
    entry = {"kind": "histogram", "title": "T", "unit": "eV", "sets": {"a": [1, 2, 3]}, "distance": 0.179}
    assert "Wasserstein distance 0.179 eV." in describe(draw(entry))
    assert "Energy distance of valid crystals 0.179 eV." in describe(
        draw(entry | {"distance_label": "Energy distance of valid crystals"})
    )


def test_save_goes_by_the_suffix(tmp_path):
    figure = draw(ENTRIES["bars"])
    assert save(figure, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in save(figure, tmp_path / "a.SVG").read_bytes()
    with pytest.raises(RequestError, match=r"'\.jpg'.*\.png or \.svg"):
        save(figure, tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "'s' is list"),
        ({"title": "T"}, "kind=None; give one of parity"),
        ({"kind": "pie", "title": "T"}, "kind='pie'"),
        ({"kind": "parity", "x": [], "y": []}, "title=None"),
        ({"kind": "parity", "title": "T", "x": [1], "y": [1, 2]}, "x has 1, y has 2"),
        ({"kind": "parity", "title": "T", "x": ["high"], "y": [1]}, "'high' is not a number"),
        ({"kind": "parity", "title": "T", "x": [1], "y": [1], "colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"kind": "histogram", "title": "T", "sets": {str(i): [1] for i in range(5)}}, "5 sets"),
        ({"kind": "histogram", "title": "T", "sets": [1, 2]}, "sets is list"),
        ({"kind": "histogram", "title": "T", "discrete": True, "sets": {"a": {"1": -1}}}, "count of '1'"),
        ({"kind": "hull", "title": "T", "elements": ["Li"]}, "two to four"),
        (
            {"kind": "hull", "title": "T", "elements": ["Li", "O"], "points": {"composition": [[1]], "energy": [0]}},
            "has 1 amounts",
        ),
    ],
)
def test_a_wrong_entry_is_named(entry, message):
    with pytest.raises(RequestError, match=message):
        draw(entry, name="s")


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(RequestError, match=r'pip install "autoperi\[metrics\]"'):
        draw(ENTRIES["bars"])
