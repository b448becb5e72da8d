"""Streams: the crystals of ``generate`` one by one, the same files however often they were killed, and flat memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import contents
from streamed import FLAGS, SMALL, Cells, living

from autoperi import AutoPeri
from autoperi.cli.main import main
from autoperi.data.io import STREAM, read_crystals, read_table
from autoperi.errors import AutoPeriError, AutoPeriWarning, DataError, RequestError, StreamInterrupted
from autoperi.pipelines import stream as stream_module
from autoperi.pipelines.accept import Accepted, Judge
from autoperi.testing import tiny_crystals
from autoperi.workflows import stream as workflow
from autoperi.workflows.stream import write_stream

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from streamed import Cells
from autoperi import AutoPeri
from autoperi.cli.main import main

class Deadly(Cells):
    def refine(self, request, candidates):
        if candidates[-1].index >= 30:
            next(Path(sys.argv[1]).glob("*.parquet")).with_name(".crystals-00000002.parquet.01.tmp").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().refine(request, candidates)

AutoPeri.pipeline = Deadly()
sys.exit(main(["generate", "--stream", "--out", *sys.argv[1:]]))
"""


class Killed(BaseException):
    """What nobody catches."""


@pytest.fixture(scope="module")
def tiny(tiny_dir: Path) -> AutoPeri:
    return AutoPeri.from_pretrained(tiny_dir)


@pytest.fixture
def cells(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AutoPeri:
    """A model whose pipeline costs nothing; the command line has it too."""
    monkeypatch.setattr(AutoPeri, "pipeline", Cells())
    return AutoPeri.from_pretrained(tiny_dir)


@pytest.fixture
def whole(cells: AutoPeri, tmp_path: Path) -> Path:
    """The folder of a stream that nothing interrupted."""
    write_stream(cells, out=tmp_path / "whole", progress=False, **SMALL)
    return tmp_path / "whole"


def signature(crystals: Any) -> list[Any]:
    return [c.as_dict() for c in crystals]


def rows(folder: Path) -> list[Any]:
    """Index, cell and elements of every crystal of a folder, in order."""
    found = []
    for file in sorted(folder.glob("crystals-*.parquet")):
        table = read_table(file)
        found += [
            (int(i), lattice.tolist(), z.tolist())
            for i, lattice, z in zip(table.labels["index"], table.lattice, table.atomic_numbers, strict=True)
        ]
    return found


# --- the crystals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composition", ["NaCl", None])
def test_a_stream_is_what_generate_gives(tiny: AutoPeri, composition: str | None) -> None:
    expected = signature(tiny.generate(composition, n=9, seed=5, rank="none", progress=False))
    for size in (1, 4, "auto"):
        assert signature(tiny.generate_stream(composition, n=9, seed=5, batch_size=size)) == expected
    (atoms,) = tiny.generate_stream(composition, seed=5, as_ase=True)
    assert atoms.info["autoperi"] == expected[0]["properties"]["autoperi"]


def test_a_cheap_stream_is_what_generate_gives(cells: AutoPeri) -> None:
    expected = signature(cells.generate(n=40, seed=1, rank="none", progress=False))
    assert signature(cells.generate_stream(n=40, seed=1)) == expected
    assert signature(cells.generate_stream(n=15, seed=1, batch_size=3)) == expected[:15]


@pytest.mark.parametrize("shard_size", [3, 12, 1000])
def test_shards_hold_the_stream(cells: AutoPeri, tmp_path: Path, shard_size: int) -> None:
    streamed = list(cells.generate_stream(n=30, seed=2))
    record = write_stream(cells, out=tmp_path, n=30, seed=2, shard_size=shard_size, batch_size=7, progress=False)
    expected = [
        (s.properties["autoperi"]["index"], s.lattice.matrix.tolist(), list(s.atomic_numbers)) for s in streamed
    ]
    assert rows(tmp_path) == expected
    tried = expected[-1][0] + 1
    assert record["place"] == {"index": tried, "kept": 30, "empty": 0, "barren": 0, "ended": None}
    counts = record["counts"]
    assert counts.pop("tried") == tried == sum(counts.values())
    assert all(counts[reason] for reason in ("too_close", "smaller_cell", "nothing"))
    assert [s["first"] for s in record["shards"]] == list(range(0, tried, shard_size))
    assert all((s["file"] is None) == (not s.get("accepted")) for s in record["shards"])
    back = [s for file in sorted(tmp_path.glob("*.parquet")) for s in read_crystals(file)]
    assert [s.properties["autoperi"] for s in back] == [s.properties["autoperi"] for s in streamed]
    assert signature(read_crystals(tmp_path)) == signature(back)


def test_shards_are_one_table(whole: Path) -> None:
    from pyarrow.dataset import dataset
    from pyarrow.parquet import read_schema

    files = sorted(whole.glob("*.parquet"))
    assert len(files) > 3
    assert len({str(read_schema(file)) for file in files}) == 1
    table = dataset(files).to_table().to_pandas()
    assert table["index"].is_monotonic_increasing
    assert table["log_likelihood"].isna().any()
    assert (table["formula"].str.len() > 2).all()


def test_extxyz(cells: AutoPeri, tmp_path: Path) -> None:
    write_stream(cells, out=tmp_path / "text", format="extxyz", **SMALL)
    write_stream(cells, out=tmp_path / "table", **SMALL)
    one, other = read_crystals(tmp_path / "text"), read_crystals(tmp_path / "table")
    assert [s.properties["autoperi"] for s in one] == [s.properties["autoperi"] for s in other]
    assert all(np.allclose(a.lattice.matrix, b.lattice.matrix, atol=1e-7) for a, b in zip(one, other, strict=True))


# --- filters ----------------------------------------------------------------------------------------------------------


def test_where_keeps_what_score_says(cells: AutoPeri) -> None:
    every = list(cells.generate_stream(n=25, seed=2))
    table = cells.score(every, progress=False)
    neutral = table["charge_neutral"] == True  # noqa: E712
    density, symbol = table["density_g_per_cm3"], table["formula"]
    for where, kept in {
        "density_g_per_cm3 > 3": density > 3,
        "density > 1 and not charge_neutral": (density > 1) & (table["charge_neutral"] == False),  # noqa: E712
        "charge_neutral & (volume_per_atom_A3 < 40) or space_group in [225, 229]": (
            neutral & (table["volume_per_atom_A3"] < 40)
        )
        | table["space_group"].isin([225, 229]),
        "formula.str.contains('Li') and 1 < min_distance_A**2 < 25": symbol.str.contains("Li")
        & (table["min_distance_A"] < 5),
        "formation_energy_per_atom_eV.between(-100, 100) and formula != 'LiF'": symbol != "LiF",
    }.items():
        expected = signature(every[k] for k in np.flatnonzero(kept))
        assert expected, where
        found = list(cells.generate_stream(n=len(expected), seed=2, where=where, batch_size=16))
        assert signature(found) == expected, where
    assert signature(cells.generate_stream(n=len(expected), seed=2, where=where, batch_size=1)) == expected


def test_where_as_a_function_and_in_the_record(cells: AutoPeri, tmp_path: Path) -> None:
    light = signature(cells.generate_stream(n=5, seed=2, where=lambda c: c.density < 3))
    assert light == signature(cells.generate_stream(n=5, seed=2, where="density < 3"))
    record = write_stream(cells, out=tmp_path, where=lambda c: c.density < 3, n=5, seed=2, shard_size=4)
    assert record["counts"]["filtered"] > 0
    with pytest.raises(RequestError, match="begun with where"):
        write_stream(cells, out=tmp_path, resume=True)


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_the_same_byte_for_byte(whole: Path, tiny_dir: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    folder = tmp_path / "killed"
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *map(str, FLAGS), "--model", str(tiny_dir)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    left = json.loads((folder / STREAM).read_text())
    assert not left["complete"]
    assert 0 < len(left["shards"]) < len(json.loads((whole / STREAM).read_text())["shards"])
    assert (folder / ".crystals-00000002.parquet.01.tmp").exists()
    assert main(["generate", "--stream", "--out", str(folder), "--resume", "--model", str(tiny_dir), "--quiet"]) == 0
    assert contents(folder) == contents(whole)


def test_killed_at_any_write(cells: AutoPeri, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each file, shards and records: what is resumed, at another batch size, is the same."""
    real, folder = workflow.write_atomically, tmp_path / "often"
    deaths = 0

    def dying(path: Path, content: Any) -> Any:
        nonlocal deaths
        if (path.name, "before") not in seen:
            seen.add((path.name, "before"))
            raise Killed
        real(path, content)
        if (path.name, content) not in seen:
            seen.add((path.name, content))
            raise Killed

    seen: set[Any] = set()
    monkeypatch.setattr(workflow, "write_atomically", dying)
    while True:
        try:
            write_stream(cells, out=folder, resume=folder.exists(), batch_size=1 + deaths % 9, progress=False, **SMALL)
            break
        except Killed:
            deaths += 1
    assert deaths > 2 * len(list(whole.glob("*.parquet")))
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("composition", ["NaCl", None])
def test_real_candidates_are_resumed(
    tiny: AutoPeri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composition: str | None
) -> None:
    """Those without a composition depend on what was drawn before."""
    how: dict[str, Any] = {"n": 7, "seed": 5, "shard_size": 3, "progress": False}
    write_stream(tiny, composition, out=tmp_path / "whole", **how)
    real = workflow.write_atomically

    def dying(path: Path, content: Any) -> Any:
        if path.name.startswith("crystals-00000001"):
            raise Killed
        return real(path, content)

    monkeypatch.setattr(workflow, "write_atomically", dying)
    with pytest.raises(Killed):
        write_stream(tiny, composition, out=tmp_path / "killed", **how)
    monkeypatch.setattr(workflow, "write_atomically", real)
    assert len(contents(tmp_path / "killed")) == 2
    write_stream(tiny, out=tmp_path / "killed", resume=True, progress=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(
    cells: AutoPeri, whole: Path, tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    real, calls = Cells.refine, []

    def refine(self: Cells, request: Any, candidates: Any) -> Any:
        calls.append(len(candidates))
        if sum(calls) > 30:
            raise KeyboardInterrupt
        return real(self, request, candidates)

    monkeypatch.setattr(Cells, "refine", refine)
    folder = tmp_path / "ctrl c"
    words = ["generate", "--stream", "--out", str(folder), *map(str, FLAGS), "--model", str(tiny_dir), "--json"]
    assert main(words) == 130
    out, err = capsys.readouterr()
    kept = sum(s["accepted"] for s in json.loads((folder / STREAM).read_text())["shards"])
    assert err.startswith(
        f"autoperi: interrupted after {kept} of 30 crystals, in 2 whole shards; go on with: autoperi "
    )
    assert f"--out '{folder}' --resume --model {tiny_dir}" in err
    assert json.loads(out)["interrupted"] is True
    with pytest.raises(StreamInterrupted, match=f"after {kept} of 30"):
        write_stream(cells, out=folder, resume=True)
    monkeypatch.setattr(Cells, "refine", real)
    assert main([*words[:4], "--resume", "--model", str(tiny_dir)]) == 0
    assert "30 crystals of" in capsys.readouterr().out
    assert contents(folder) == contents(whole)
    assert main([*words[:4], "--resume", "--model", str(tiny_dir)]) == 0  # nothing is left to do
    assert contents(folder) == contents(whole)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_stream_that_ends_says_why(cells: AutoPeri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoPeri, "pipeline", Cells(length=50))
    with pytest.warns(AutoPeriWarning, match=r"only \d+ of 999 .*50 candidates tried.*its candidates came to an end$"):
        assert 0 < len(list(cells.generate_stream(n=999, seed=0))) < 50
    for size in (25, 40):
        with pytest.warns(AutoPeriWarning, match="came to an end$"):
            record = write_stream(cells, out=tmp_path / str(size), n=999, seed=0, shard_size=size)
        assert (record["complete"], record["ended"], len(record["shards"])) == (True, stream_module.ENDED, 2)
    monkeypatch.setattr(AutoPeri, "pipeline", Cells(nothing=1.0))
    with pytest.warns(AutoPeriWarning, match="25 candidates tried.*nothing could be built at 25 places in a row$"):
        assert not list(cells.generate_stream(n=9, seed=0))
    monkeypatch.setattr(AutoPeri, "pipeline", Cells())
    monkeypatch.setattr(stream_module, "MAX_BARREN_CANDIDATES", 40)
    with pytest.warns(AutoPeriWarning, match="40 candidates tried.* that the filter did not keep.*none was kept$"):
        assert not list(cells.generate_stream(n=9, seed=0, where="density > 1000"))
    # the count goes on where a run was resumed in the middle of it
    folder, real, seen = tmp_path / "barren", workflow.write_atomically, []

    def dying(path: Path, content: Any) -> Any:
        real(path, content)
        seen.append(path)
        if len(seen) == 3:
            raise Killed

    monkeypatch.setattr(workflow, "write_atomically", dying)
    how: dict[str, Any] = {"n": 9, "seed": 0, "where": "density > 1000", "shard_size": 15}
    with pytest.raises(Killed):
        write_stream(cells, out=folder, **how)
    with pytest.warns(AutoPeriWarning, match="40 candidates tried"):
        write_stream(cells, out=folder, resume=True, **how)
    assert [p.name for p in folder.iterdir()] == [STREAM]


def test_memory_does_not_grow(cells: AutoPeri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = living(), 0

    def verdicts(_: Judge, candidates: Any, __: Any) -> Any:
        nonlocal most
        most = max(most, len(alive))
        yield from (Accepted(c, None, None, 1.0, 221) if c.index % 3 else "too_close" for c in candidates)

    monkeypatch.setattr(Judge, "verdicts", verdicts)
    monkeypatch.setattr(AutoPeri, "pipeline", Cells(alive=alive))
    taken = sum(1 for _ in cells.generate_stream(n=3000, seed=0, batch_size=50))
    assert taken == 3000
    assert most <= 2 * 50
    record = write_stream(cells, out=tmp_path, n=3000, seed=0, batch_size=50, shard_size=500, progress=False)
    assert record["counts"]["tried"] > 4000
    assert most <= 500 + 2 * 50
    assert len(rows(tmp_path)) == 3000


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": "energy"}, "rank='energy' cannot be had of a stream"),
        ({"finish": 3}, "finish=3 cannot .*autoperi relax"),
        ({"target": {"band_gap": 1.0}}, "target=.* cannot .* where"),
        ({"where": "colour == 'red'"}, "names colour, .*its columns are formula, n_atoms"),
        ({"where": "band_gap > 1"}, "names band_gap"),
        ({"where": "density_g_per_cm3"}, "no truth value"),
        ({"where": "density + 1 >"}, "no expression"),
        ({"where": "1 < 2"}, "no expression"),
        ({"where": 3}, "where=3"),
        ({"where": "density > density.mean()"}, "density.mean.* other crystals"),
        ({"where": "density.shift(1) > 3"}, "density.shift"),
        ({"where": "density[0] > 3"}, "density.0"),
        ({"where": "formula > 3"}, "no truth value"),
        ({"where": "print(density)"}, "print"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"n": 10**10}, "n=10000000000"),
        ({"space_group": 225}, "does not honour space_group"),
    ],
)
def test_refusals_come_before_any_work(cells: AutoPeri, monkeypatch: Any, options: Any, words: str) -> None:
    def worked(*_: Any) -> Any:
        raise AssertionError("work was done")

    monkeypatch.setattr(Cells, "candidates", worked)
    with pytest.raises(RequestError, match=words) as caught:
        cells.generate_stream(**options)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="strict"):
        cells.generate_stream(strict=False)
    with pytest.raises(RequestError, match="generate_stream"):
        cells.generate(n=10**7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "seed=3 differs from 2"),
        ({"n": 31}, "n=31 differs from 30"),
        ({"composition": "NaCl"}, "composition='NaCl' differs from None"),
        ({"where": "density > 3"}, "where='density > 3' differs from None"),
        ({"shard_size": 5}, "shard_size=5 differs from 12"),
        ({"format": "extxyz"}, "format='extxyz' differs"),
    ],
)
def test_another_stream_is_not_resumed(cells: AutoPeri, whole: Path, change: Any, words: str) -> None:
    before = contents(whole)
    with pytest.raises(RequestError, match=words):
        write_stream(cells, out=whole, resume=True, **change)
    assert contents(whole) == before


def test_folders_that_are_refused(cells: AutoPeri, whole: Path, tmp_path: Path) -> None:
    def refused(words: str, peri: AutoPeri = cells, out: Path = whole, **options: Any) -> None:
        before = contents(tmp_path)
        with pytest.raises(AutoPeriError, match=words) as caught:
            write_stream(peri, out=out, **options)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before

    refused("earlier stream; go on with it", **SMALL)
    refused("model_settings: relax_steps=9 differs", cells.with_settings(relax_steps=9), resume=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for resume in (False, True):
        refused("holds notes.txt, which is of no stream", out=other, resume=resume)
    refused("is a file", out=other / "notes.txt")
    gone = shutil.copytree(whole, tmp_path / "gone")
    (gone / "crystals-00000001.parquet").unlink()
    refused("lacks crystals-00000001.parquet", out=gone, resume=True)
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    first, second = (damaged / f"crystals-0000000{k}.parquet" for k in (0, 1))
    for content in (b"", first.read_bytes()[:1000], second.read_bytes()):
        first.write_bytes(content)
        refused("crystals-00000000.parquet is not what stream.json says", out=damaged, resume=True)
    strange = shutil.copytree(whole, tmp_path / "strange")
    for name in ("notes.txt", "crystals-00000099.parquet"):
        shutil.copyfile(strange / "crystals-00000000.parquet", strange / name)
        refused(f"holds {name}, which is of no stream", out=strange, resume=True)
        assert len(read_crystals(strange)) == SMALL["n"]  # what the record names
        (strange / name).unlink()
    refused("typo does not exist", out=tmp_path / "typo", resume=True)
    (gone / STREAM).write_text("{}")
    refused(r"stream\.json cannot be read", out=gone, resume=True)
    refused("format='csv'", out=tmp_path / "new", format="csv")
    refused("shard_size=0", out=tmp_path / "new", shard_size=0)
    assert issubclass(DataError, AutoPeriError)


def test_a_folder_that_is_moved_away_stops_the_stream(cells: AutoPeri, tmp_path: Path) -> None:
    def moving(self: Any, line: Any, *given: Any) -> Any:
        if (tmp_path / "one" / "crystals-00000001.parquet").exists():
            (tmp_path / "one").rename(tmp_path / "two")
        return of_chunk(self, line, *given)

    of_chunk = Judge.verdicts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "verdicts", moving)
        with pytest.raises(DataError, match=r"does not hold its stream\.json any more"):
            write_stream(cells, out=tmp_path / "one", progress=False, batch_size=5, **SMALL)
    assert not (tmp_path / "one").exists()
    write_stream(cells, out=tmp_path / "two", resume=True, progress=False)
    write_stream(cells, out=tmp_path / "whole", progress=False, **SMALL)
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")


def test_generate_does_not_write_into_a_stream(whole: Path, tiny_dir: Path, capsys: Any) -> None:
    before = contents(whole)
    assert main(["generate", "-n", "2", "--out", str(whole), "--model", str(tiny_dir), "--quiet"]) == 2
    assert "holds a stream" in capsys.readouterr().err
    assert contents(whole) == before


def test_like_must_be_given_again(tiny: AutoPeri, tmp_path: Path) -> None:
    salt, other, fluorite = (
        next(c for c in tiny_crystals() if c.composition.reduced_formula == f) for f in ("NaCl", "LiF", "CaF2")
    )
    write_stream(tiny, "KBr", out=tmp_path, like=salt, n=1, seed=0)
    with pytest.raises(RequestError, match="begun with like"):
        write_stream(tiny, out=tmp_path, resume=True)
    with pytest.raises(RequestError, match="like="):
        write_stream(tiny, out=tmp_path, resume=True, like=other)
    with pytest.raises(RequestError):
        write_stream(tiny, out=tmp_path, resume=True, like=fluorite)
    assert write_stream(tiny, "K2Br2", out=tmp_path, resume=True, like=salt)["complete"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stream", "-n", "3"], "--out"),
        (["--stream", "--out", "x/"], "-n"),
        (["--stream", "--out", "x/", "--resume"], "does not exist"),
        (["--stream", "--out", "x.cif", "-n", "3"], "folder"),
        (["--stream", "--out", "x/", "-n", "3", "--rank", "energy"], "rank='energy'"),
        (["--stream", "--out", "x/", "-n", "3", "--finish", "5"], "finish=5"),
        (["--stream", "--out", "x/", "-n", "3", "--no-strict"], "--no-strict"),
        (["--stream", "--out", "x/", "-n", "3", "--where", "1 >"], "where='1 >'"),
        (["--stream", "--out", "x/", "-n", "3", "--format", "cif"], "format='cif'"),
        (["--stream", "--out", "x/", "-n", "3", "--shard-size", "0"], "shard_size=0"),
        (["--where", "density > 3"], "--where belongs to --stream"),
        (["--shard-size", "3"], "--shard-size belongs to --stream"),
        (["--resume", "--out", "x/"], "--resume belongs to --stream"),
    ],
)
def test_the_command_refuses_without_a_model(words: list[str], said: str, capsys: Any, tmp_path: Path) -> None:
    out = [str(tmp_path / w) if w.startswith("x") else w for w in words]
    out = [w + "/" if w.endswith("x") else w for w in out]
    assert main(["generate", *out, "--model", "no-such-model"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())
