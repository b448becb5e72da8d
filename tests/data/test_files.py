"""Files are written whole, places are looked at before any work, and values come out in the types of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from autoperi.data.checks import positive_number, whole_number
from autoperi.data.files import check_crystal_output, crystal_target, dumps, format_of, plain, publish, write_table
from autoperi.errors import DataError, RequestError, WeightsError, one_line


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_tables_are_written_by_their_suffix(tmp_path, suffix):
    import pandas as pd

    rows = [{"a": 1, "b": 0.5}, {"a": 2, "b": float("nan")}]
    path = write_table(rows, tmp_path / "new" / f"x{suffix}")
    if suffix == ".json":
        assert json.loads(path.read_text()) == [{"a": 1, "b": 0.5}, {"a": 2, "b": None}]
    else:
        found = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        pd.testing.assert_frame_equal(found, pd.DataFrame(rows))


def test_a_new_folder_is_published_whole(tmp_path):
    publish({"a.txt": b"1", "b.txt": b"2"}, tmp_path / "deep" / "folder")
    publish({"b.txt": b"3"}, tmp_path / "deep" / "folder")
    assert {p.name: p.read_bytes() for p in (tmp_path / "deep" / "folder").iterdir()} == {"a.txt": b"1", "b.txt": b"3"}
    (tmp_path / "file").write_text("")
    for error in (DataError, WeightsError):
        with pytest.raises(error, match="choose a directory you may write to"):
            publish({"a": b""}, tmp_path / "file" / "folder", error=error)


def test_what_a_path_of_crystals_means(tmp_path):
    kinds = {"x.cif": "cif", "x.XYZ": "extxyz", "POSCAR": "poscar", "CONTCAR_2": "poscar", "POSCAR.cif": "cif"}
    assert {name: crystal_target(tmp_path / name, n=1) for name in kinds} == kinds
    assert [format_of(Path(name)) for name in ("x.csv", "x.pt", "x")] == ["csv", None, None]
    for folder in (tmp_path, f"{tmp_path}/x.cif/", tmp_path / "new"):
        assert check_crystal_output(folder, n=3)
    assert not check_crystal_output(tmp_path / "x.vasp", n=1)
    for name, words in (("x.vasp", "one crystal, not 2"), ("x.csv", "'.csv'.*POSCAR"), ("x.pt", "'.pt'.*POSCAR")):
        with pytest.raises(DataError, match=words):
            check_crystal_output(tmp_path / name, n=2)
    assert list(tmp_path.iterdir()) == []


def test_values_in_the_types_of_json():
    given = {
        1: (np.float32(0.5), np.int64(2), np.bool_(True)),
        "array": np.array([[1.0, np.nan]]),
        "path": Path("a"),
        "set": {3},
        "structure": Structure(Lattice.cubic(3), [Element("H")], [[0, 0, 0]]),
    }
    found = plain(given)
    assert found["1"] == [0.5, 2, True]
    assert (found["path"], found["set"]) == ("a", [3])
    assert Structure.from_dict(found["structure"]) == given["structure"]
    assert json.loads(dumps(given))["array"] == [[1.0, None]]
    assert plain(given)["array"][0][1] is not None


def test_numbers_are_checked_once():
    assert whole_number(np.int64(3), "n") == 3
    for wrong in (0, 2.0, True, "3", None, 11):
        with pytest.raises(RequestError, match=rf"n={wrong!r} is not a whole number from 1 to 10; give one"):
            whole_number(wrong, "n", most=10)
    with pytest.raises(DataError, match="n=0 is nothing"):
        whole_number(0, "n", refusal="is nothing", error=DataError)
    assert positive_number(np.float32(0.5), "x") == 0.5
    for wrong in (0, -1.0, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(RequestError, match="is not a positive number; leave it out for the default"):
            positive_number(wrong, "x")


def test_errors_on_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 500))) == 200
