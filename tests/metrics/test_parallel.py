"""Features in processes and from the cache: the same numbers, in order, failures remembered."""

import sqlite3

import numpy as np
import pytest
from ase.build import bulk

from autoperi.errors import RequestError
from autoperi.metrics.parallel import Failure, cache_directory, featurise, parallel_map

CRYSTALS = [bulk("Cu"), bulk("NaCl", "rocksalt", 5.64), bulk("Si"), bulk("Cu")] * 4
CALLS: list[int] = []


def volume(atoms, *, scale=1.0):
    return np.array([atoms.get_volume() * scale])


def counted(atoms):
    CALLS.append(len(atoms))
    return np.array([float(len(atoms))])


def fails_on_silicon(atoms):
    if atoms.numbers[0] == 14:
        raise ValueError("silicon is not wanted")
    return np.array([1.0])


def half(x):
    return x / 2


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_whatever_the_processes(processes, tmp_path):
    assert parallel_map(half, list(range(20)), processes=processes, progress=False) == [x / 2 for x in range(20)]
    found = featurise(volume, CRYSTALS, name="volume", version=1, processes=processes, cache=tmp_path, progress=False)
    assert np.concatenate(found) == pytest.approx([a.get_volume() for a in CRYSTALS])


def test_equal_crystals_are_worked_out_once_and_then_never_again(tmp_path):
    CALLS.clear()
    for _ in range(2):
        found = featurise(counted, CRYSTALS, name="size", version=1, processes=1, cache=tmp_path, progress=False)
        assert [float(f[0]) for f in found] == [float(len(a)) for a in CRYSTALS]
    assert len(CALLS) == 3


def test_another_version_parameter_or_crystal_is_another_key(tmp_path):
    options = {"name": "volume", "processes": 1, "cache": tmp_path, "progress": False}
    first = featurise(volume, CRYSTALS[:1], version=1, **options)
    assert featurise(volume, CRYSTALS[:1], version=1, parameters={"scale": 2.0}, **options)[0] == pytest.approx(
        2 * first[0]
    )
    strained = CRYSTALS[0].copy()
    strained.set_cell(strained.cell * 1.001, scale_atoms=True)
    assert featurise(volume, [strained], version=1, **options)[0] == pytest.approx(1.001**3 * first[0])
    with sqlite3.connect(tmp_path / "volume.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM feature").fetchone() == (3,)


def test_a_failure_stands_in_its_place_and_is_remembered(tmp_path):
    for _ in range(2):
        found = featurise(
            fails_on_silicon, CRYSTALS[:4], name="picky", version=1, processes=1, cache=tmp_path, progress=False
        )
        assert [isinstance(f, Failure) for f in found] == [False, False, True, False]
        assert "silicon is not wanted" in found[2].reason
        assert not found[2]


def test_a_crystal_that_cannot_be_read_is_a_failure_not_an_error(tmp_path):
    broken = bulk("Cu")
    broken.set_cell(np.zeros((3, 3)))
    found = featurise(
        volume, [broken, bulk("Cu")], name="volume", version=1, processes=1, cache=tmp_path, progress=False
    )
    assert isinstance(found[0], Failure)
    assert isinstance(found[1], np.ndarray)


def test_a_damaged_cache_is_begun_again(tmp_path):
    (tmp_path / "volume.sqlite").write_bytes(b"this is no database, and long enough to be looked at as one" * 20)
    found = featurise(volume, CRYSTALS[:2], name="volume", version=1, processes=1, cache=tmp_path, progress=False)
    assert np.concatenate(found) == pytest.approx([a.get_volume() for a in CRYSTALS[:2]])


def test_nothing_is_written_without_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPERI_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    featurise(volume, CRYSTALS[:2], name="volume", version=1, processes=1, cache=False, progress=False)
    assert not (tmp_path / "here").exists()
    featurise(volume, CRYSTALS[:2], name="volume", version=1, processes=1, progress=False)
    assert (tmp_path / "here" / "volume.sqlite").exists()


@pytest.mark.parametrize("processes", [0, -1, 1.5, True])
def test_processes_must_be_a_positive_number(processes):
    with pytest.raises(RequestError, match="processes"):
        parallel_map(half, [1], processes=processes)


def fails_of_memory_once(atoms):  # noqa: ARG001
    if not CALLS:
        CALLS.append(1)
        raise MemoryError("no room just now")
    return np.array([2.0])


def test_what_is_the_machine_s_fault_is_not_remembered(tmp_path):
    CALLS.clear()
    options = {"name": "room", "version": 1, "processes": 1, "cache": tmp_path, "progress": False}
    assert "no room just now" in featurise(fails_of_memory_once, CRYSTALS[:1], **options)[0].reason
    assert featurise(fails_of_memory_once, CRYSTALS[:1], **options)[0] == pytest.approx([2.0])


def interrupted_at_silicon(atoms):
    if atoms.numbers[0] == 14:
        raise KeyboardInterrupt
    CALLS.append(1)
    return np.array([1.0])


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    CALLS.clear()
    options = {"name": "slow", "version": 1, "processes": 1, "cache": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        featurise(interrupted_at_silicon, CRYSTALS[:3], **options)
    featurise(interrupted_at_silicon, CRYSTALS[:2], **options)
    assert len(CALLS) == 2  # copper and salt, once each


def needs_what_is_missing(atoms):  # noqa: ARG001
    import no_such_package_at_all  # noqa: F401


def test_a_missing_package_is_no_property_of_a_crystal(tmp_path):
    with pytest.raises(ImportError, match="no_such_package_at_all"):
        featurise(
            needs_what_is_missing, CRYSTALS[:1], name="lost", version=1, processes=1, cache=tmp_path, progress=False
        )


def test_a_cache_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="AUTOPERI_CACHE"):
        featurise(volume, CRYSTALS[:1], name="volume", version=1, cache=tmp_path / "file")
