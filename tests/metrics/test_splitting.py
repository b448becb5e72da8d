"""Splits: parts that share no id, no formula and no match, and what a table holds."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from autoperi.data.tables import CrystalTable
from autoperi.errors import RequestError
from autoperi.metrics.contents import contents
from autoperi.metrics.splitting import split_table


def salt(a, cation="Na", anion="Cl", shift=0.0):
    anions = [[(x + 0.5) % 1 for x in place] for place in FACES]
    places = np.array(FACES + anions) + shift
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, places)


FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CAESIUM = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def table(*crystals, ids=None):
    found = [c.copy() for c in crystals]
    for k, crystal in enumerate(found):
        crystal.properties["id"] = ids[k] if ids else f"c{k}"
    return CrystalTable.from_structures(found)


def many(n=60):
    """Rows of three formulas, each crystal a little different."""
    pairs = [("Na", "Cl"), ("K", "Br"), ("Mg", "O")]
    return table(*(salt(4 + 0.01 * k, *pairs[k % 3]) for k in range(n)))


def test_shares_are_drawn_by_id_and_seed():
    rows = many(200)
    split = split_table(rows, val=0.2, test=0.1)
    counts = [len(split.rows(part)) for part in ("train", "val", "test")]
    assert sum(counts) == 200
    assert counts[1] == pytest.approx(40, abs=15)
    assert counts[2] == pytest.approx(20, abs=12)
    assert split_table(rows, val=0.2, test=0.1).parts == split.parts
    assert split_table(rows, val=0.2, test=0.1, seed=1).parts != split.parts
    # a row keeps its part whatever else is there
    assert split_table(rows[:50], val=0.2, test=0.1).parts == split.parts[:50]


def test_lists_of_ids():
    split = split_table(many(10), val=["c1", "elsewhere"], test=["c2", "c3"])
    assert (split.rows("val"), split.rows("test")) == ([1], [2, 3])
    assert split.absent == {"val": 1, "test": 0}


def test_a_formula_stays_on_one_side():
    rows = many(30)
    split = split_table(rows, by="formula", val=0.3, test=0.3, seed=4)
    for k in range(3):
        assert len({split.parts[i] for i in range(k, 30, 3)}) == 1
    listed = split_table(rows, by="formula", val=0.0, test=["c0"])
    assert [i for i, part in enumerate(listed.parts) if part is None] == list(range(3, 30, 3))
    assert listed.removed[0] == {"id": "c3", "part": "train", "reason": "same formula in test", "like": "c0"}


def test_matches_across_the_split_are_removed():
    # 0 and 1 match (another cell, origin and volume), 2 has another structure, 3 another formula
    primitive = salt(5.64).get_primitive_structure()
    rows = table(salt(5.64), primitive, CAESIUM, salt(6.3, "K"), salt(5.7, shift=0.1))
    split = split_table(rows, by="match", val=["c4"], test=["c0"], processes=1, progress=False)
    assert split.parts == ["test", None, "train", "train", None]
    said = {row["id"]: (row["part"], row["reason"], row["like"]) for row in split.removed}
    assert said == {"c4": ("val", "same match in test", "c0"), "c1": ("train", "same match in test", "c0")}


def test_other_tables_are_kept_apart():
    rows = table(salt(5.64), CAESIUM, salt(6.3, "K"))
    other = table(salt(5.6).get_primitive_structure(), ids=["mp-1"])
    left = {
        by: split_table(rows, by=by, val=0.0, test=0.0, apart_from=[other], progress=False)
        for by in ("formula", "match")
    }
    assert left["formula"].parts == [None, None, "train"]
    assert left["match"].parts == [None, "train", "train"]
    assert left["match"].removed[0]["reason"] == "same match in another table"
    same = table(CAESIUM, ids=["c2"])
    assert split_table(rows, val=0.0, test=0.0, apart_from=[same]).parts == ["train", "train", None]


def test_a_pair_that_cannot_be_compared_is_removed(monkeypatch):
    from autoperi.metrics.parallel import Failure

    monkeypatch.setattr(
        "autoperi.metrics.splitting.compare_pairs", lambda _, __, pairs, **___: [Failure("too costly")] * len(pairs)
    )
    split = split_table(table(salt(5.64), CAESIUM, salt(6.3, "K")), by="match", val=0.0, test=["c0"])
    assert split.parts == ["test", None, "train"]
    assert split.removed[0]["reason"] == "could not be compared: too costly"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "size"}, "by='size'"),
        ({"val": 1.5}, "val=1.5 is no share"),
        ({"val": 0.6, "test": 0.5}, "leave nothing to train on"),
        ({"val": ["c1"], "test": ["c1"]}, "'c1' is both in val and in test"),
        ({"test": ["z"]}, "none of the 1 ids of test"),
        ({"val": ["c0", "c1"], "test": ["c2", "c3"]}, "nothing is left to train on of 4"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(RequestError, match=words):
        split_table(many(4), **options)
    with pytest.raises(RequestError, match=r"'x' is in the table 2 times"):
        split_table(table(CAESIUM, salt(5.6), ids=["x", "x"]))


def test_contents():
    rows = table(salt(5.64), salt(6.3, "K"), CAESIUM)
    rows.labels["source"] = ["COD", "COD", None]
    rows.labels["band_gap"] = [5.0, None, 7.0]
    facts = contents(rows, progress=False)
    assert (facts["crystals"], facts["formulas"]) == (3, 2)
    assert facts["elements"] == {"Cl": 3, "Na": 2, "K": 1}
    assert facts["space_groups"] == {"225": 2, "221": 1}
    assert facts["atoms"] == {"least": 2.0, "median": 8.0, "most": 8.0}
    assert facts["columns"]["band_gap"] == {"rows": 2, "least": 5.0, "median": 6.0, "most": 7.0}
    assert facts["source"] == {"COD": 2}
    rows.labels["space_group"] = [225.0, 225.0, "Pm-3m"]
    assert contents(rows)["space_groups"] == {"225": 2, "unknown": 1}
