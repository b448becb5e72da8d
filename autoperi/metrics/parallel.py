"""One crystal after another in several processes, each result remembered under the hash of its crystal.

The cache is one SQLite file a feature in :func:`cache_directory`. Its key is the content of the crystal (cell,
coordinates, elements), the name and version of the feature, its parameters, and the versions of the packages it rests
on: a new version never reads an old one's result. Failures are remembered with their reason.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from autoperi.data.checks import whole_number
from autoperi.data.convert import to_arrays
from autoperi.errors import RequestError, StructureError
from autoperi.metrics._common import quiet
from autoperi.progress import progress_bar

INLINE = 8
"""Fewer crystals than this are not worth the start of other processes."""
WRITE_EVERY = 256
"""Results that are written to the cache together."""


class Run(TypedDict, total=False):
    """How work on many crystals is done; it changes no result. Keyword arguments of the metrics that do such work.

    Attributes:
        processes: worker processes; None for all cores, 1 stays in this one.
        progress: show a bar; None shows it on a terminal.
    """

    processes: int | None
    progress: bool | None


class CachedRun(Run, total=False):
    """:class:`Run` of work whose results are remembered.

    Attributes:
        cache: True for :func:`cache_directory`, a folder of your own, or False to remember nothing.
    """

    cache: bool | str | os.PathLike[str]


class BatchedRun(TypedDict, total=False):
    """How a network works on many crystals.

    Attributes:
        batch_size: crystals at a time.
        cache: as in :class:`CachedRun`.
        progress: show a bar; None shows it on a terminal.
    """

    batch_size: int
    cache: bool | str | os.PathLike[str]
    progress: bool | None


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a result that could not be had.

    Attributes:
        reason: one phrase.
        transient: the machine's fault, not the crystal's (memory, files): not remembered.
    """

    reason: str
    transient: bool = False

    def __bool__(self) -> bool:
        return False


def cache_directory() -> Path:
    """Where features are remembered: ``AUTOPERI_CACHE``, else ``autoperi`` in the user's cache folder of the system."""
    named = os.environ.get("AUTOPERI_CACHE")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("autoperi", appauthor=False, opinion=False))


def check_processes(processes: int | None) -> int:
    """The number of worker processes: as given, or the cores that this process may use.

    Raises:
        RequestError: not a positive whole number.
    """
    if processes is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole_number(
        processes, "processes", refusal="is not a positive whole number; give at least 1, or None for all cores"
    )


def parallel_map(
    function: Callable[..., Any],
    items: Sequence[Any],
    *,
    description: str = "crystals",
    unit: str = "crystal",
    inline: int = INLINE,
    **run: Unpack[Run],
) -> list[Any]:
    """``[function(item) for item in items]`` in several processes, in order; a :class:`Failure` where it raises.

    Args:
        function: importable from a module (it is sent to other processes), and deterministic.
        items: its arguments.
        description, unit: of the bar.
        inline: fewer items than this stay in this process.
        **run: see :class:`Run`.
    """
    return list(_stream(function, items, description=description, unit=unit, inline=inline, **run))


def featurise(
    function: Callable[..., Any],
    crystals: Sequence[Any],
    *,
    name: str,
    version: int,
    parameters: Mapping[str, Any] | None = None,
    packages: Sequence[str] = (),
    cache: bool | str | os.PathLike[str] = True,
    **run: Unpack[Run],
) -> list[Any]:
    """``function(crystal, **parameters)`` of each crystal, from the cache where it is known.

    Args:
        function: returns a NumPy array of numbers; an exception becomes a :class:`Failure`, which is remembered too.
        crystals: pymatgen structures or ASE atoms.
        name, version: of the feature; raise ``version`` when its definition changes.
        parameters: keyword arguments, part of the key.
        packages: distributions whose version is part of the key.
        cache: see :class:`CachedRun`.
        **run: see :class:`Run`.

    Returns:
        Arrays and failures, in order.
    """
    work = functools.partial(_as_array, function, dict(parameters or {}))

    def compute(todo: Mapping[bytes, Any]) -> Iterator[tuple[bytes, Any]]:
        yield from zip(todo, _stream(work, list(todo.values()), description=name, **run), strict=True)

    return _remembered(crystals, compute, _tag(name, version, parameters, packages), _store(cache, name))


def featurise_batched(
    function: Callable[[list[Any]], Any],
    crystals: Sequence[Any],
    *,
    name: str,
    version: int,
    parameters: Mapping[str, Any] | None = None,
    packages: Sequence[str] = (),
    batch_size: int = 64,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | None = None,
) -> list[Any]:
    """One row of ``function(list of crystals)`` for each crystal, from the cache where it is known; for networks.

    Batches hold crystals of like size. Where a batch fails its crystals are tried one by one, so that each failure is
    its own crystal's. What is remembered belongs to a crystal alone: ``function`` must not let batchmates change a row.

    Args:
        function: returns an array with one row a crystal.
        crystals: pymatgen structures or ASE atoms.
        name, version, packages, cache, progress: as in :func:`featurise`.
        parameters: part of the key, such as the sha256 of the weights; ``function`` does not see them.
        batch_size: crystals at a time.

    Returns:
        Arrays and failures, in order.
    """
    whole_number(batch_size, "batch_size", refusal="is not a positive whole number; give at least 1")

    def rows(batch: list[Any]) -> list[Any]:
        out = np.asarray(function(batch))
        if len(out) != len(batch):
            raise ValueError(f"{len(out)} rows for {len(batch)} crystals")
        return list(out)

    def compute(todo: Mapping[bytes, Any]) -> Iterator[tuple[bytes, Any]]:
        guarded = functools.partial(_guarded, rows)
        order = sorted(todo, key=lambda key: len(todo[key]))
        with progress_bar(len(order), enabled=progress, description=name, unit="crystal") as bar:
            for start in range(0, len(order), batch_size):
                keys = order[start : start + batch_size]
                found = guarded([todo[key] for key in keys])
                if isinstance(found, Failure):
                    alone = [guarded([todo[key]]) for key in keys]
                    found = [one if isinstance(one, Failure) else one[0] for one in alone]
                for key, result in zip(keys, found, strict=True):
                    yield key, result
                    bar.update()

    return _remembered(crystals, compute, _tag(name, version, parameters, packages), _store(cache, name))


def _tag(name: str, version: int, parameters: Mapping[str, Any] | None, packages: Sequence[str]) -> str:
    versions = [[package, _version(package)] for package in sorted(packages)]
    return json.dumps([name, version, dict(parameters or {}), versions], sort_keys=True)


def _store(cache: bool | str | os.PathLike[str], name: str) -> Path | None:
    if cache is False:
        return None
    folder = cache_directory() if cache is True else Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise RequestError(
            f"the cache {folder} is no folder that can be written; set AUTOPERI_CACHE to one, or work without "
            "(--no-cache)"
        )
    return folder / f"{name}.sqlite"


def _remembered(
    crystals: Sequence[Any],
    compute: Callable[[Mapping[bytes, Any]], Iterator[tuple[bytes, Any]]],
    tag: str,
    store: Path | None,
) -> list[Any]:
    """Results in the order of ``crystals``; ``compute`` gets those that the store lacks, each once."""
    keys = [_key(crystal, tag) for crystal in crystals]
    every: dict[bytes, Any] = {}
    for key, crystal in zip(keys, crystals, strict=True):
        if isinstance(key, bytes):
            every.setdefault(key, crystal)
    known = {} if store is None else _read(store, list(every))
    todo = {key: crystal for key, crystal in every.items() if key not in known}
    fresh: dict[bytes, Any] = {}
    try:
        for key, result in compute(todo):
            known[key] = result
            if store is not None and not (isinstance(result, Failure) and result.transient):
                fresh[key] = result
                if len(fresh) >= WRITE_EVERY:
                    _write(store, fresh)
                    fresh = {}
    finally:  # an interrupted run keeps what it has
        if store is not None and fresh:
            _write(store, fresh)
    return [known[key] if isinstance(key, bytes) else key for key in keys]


def _as_array(function: Callable[..., Any], parameters: dict[str, Any], item: Any) -> Any:
    return np.asarray(function(item, **parameters))


def _guarded(function: Callable[..., Any], item: Any) -> Any:
    """``function(item)``, or a failure: a crystal that a library cannot digest must not end a report on thousands."""
    with quiet():
        try:
            return function(item)
        except ImportError:
            raise  # a missing package is no property of a crystal
        except Exception as error:
            transient = isinstance(error, (MemoryError, OSError))
            return Failure(f"{type(error).__name__}: {error}"[:300], transient=transient)


def _stream(
    function: Callable[..., Any],
    items: Sequence[Any],
    *,
    description: str,
    unit: str = "crystal",
    inline: int = INLINE,
    processes: int | None = None,
    progress: bool | None = None,
) -> Iterator[Any]:
    guarded, processes = functools.partial(_guarded, function), check_processes(processes)
    with progress_bar(len(items), enabled=progress, description=description, unit=unit) as bar:
        if processes == 1 or len(items) < inline:
            for item in items:
                yield guarded(item)
                bar.update()
            return
        import joblib

        # loky neither forks (torch's threads would not survive it) nor runs the caller's script again
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            pool = joblib.Parallel(n_jobs=processes, return_as="generator", batch_size="auto")
            for result in pool(joblib.delayed(guarded)(item) for item in items):
                yield result
                bar.update()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _key(crystal: Any, tag: str) -> bytes | Failure:
    try:
        lattice, coords, numbers = to_arrays(crystal)
    except StructureError as error:
        return Failure(str(error))
    digest = hashlib.sha256(tag.encode())
    for array, kind in ((lattice, "<f8"), (coords, "<f8"), (numbers, "<i8")):
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return digest.digest()


def _open(store: Path) -> sqlite3.Connection:
    """The cache; a damaged one is only a cache, so it is begun again."""
    try:
        connection = sqlite3.connect(store, timeout=60)
        connection.execute("CREATE TABLE IF NOT EXISTS feature (key BLOB PRIMARY KEY, reason TEXT, value BLOB)")
        connection.execute("SELECT count(*) FROM (SELECT key FROM feature LIMIT 1)").fetchone()
        return connection
    except sqlite3.OperationalError:
        raise  # locked or not writable: the reason is the user's to know
    except sqlite3.DatabaseError:
        store.unlink()
        return _open(store)


def _read(store: Path, wanted: list[bytes]) -> dict[bytes, Any]:
    if not store.exists():
        return {}
    out: dict[bytes, Any] = {}
    with closing(_open(store)) as connection:
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = connection.execute(f"SELECT key, reason, value FROM feature WHERE key IN ({marks})", part)
            for key, reason, value in rows:
                out[key] = Failure(reason) if value is None else np.load(io.BytesIO(value), allow_pickle=False)
    return out


def _write(store: Path, rows: Mapping[bytes, Any]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    with closing(_open(store)) as connection, connection:
        values = [(key, *_encoded(value)) for key, value in rows.items()]
        connection.executemany("INSERT OR REPLACE INTO feature VALUES (?, ?, ?)", values)


def _encoded(value: Any) -> tuple[str | None, bytes | None]:
    if isinstance(value, Failure):
        return value.reason, None
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return None, buffer.getvalue()
