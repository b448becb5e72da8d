"""A stream of crystals into a folder, shard by shard, from which it goes on however hard it was interrupted.

A shard holds what is kept of a fixed number of candidates, ``[k · shard_size, (k + 1) · shard_size)``. It appears
whole, and counts as done once ``stream.json`` names it, which is replaced after each shard and holds the place where
the stream stands. No date, no rate and no count of interruptions is in any file, so that a resumed run gives the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperi.data.files import check_writable, dumps, remove_unfinished, write_atomically
from autoperi.data.formats import extxyz_text
from autoperi.data.io import SHARD, STREAM
from autoperi.data.tables import CrystalTable, table_bytes
from autoperi.errors import AutoPeriWarning, DataError, RequestError, StreamInterrupted
from autoperi.pipelines.accept import Accepted, Tally
from autoperi.pipelines.options import options_of, refuse_unknown, taken
from autoperi.pipelines.request import Request
from autoperi.pipelines.stream import Place, Stream
from autoperi.pipelines.stream_options import NOT_STREAMED, ShardOptions, StreamOptions, make_stream_request
from autoperi.progress import progress_bar
from autoperi.workflows.explore_request import IN_MEMORY, formula_text
from autoperi.workflows.resume import check_same, check_same_makers, check_there

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

LABELS = {
    "index": "int64",
    "space_group": "int64",
    "origin": "object",
    "formation_energy_per_atom_eV": "float64",
    "log_likelihood": "float64",
    "min_distance_ratio": "float64",
}
"""Entries of the provenance that are columns of a Parquet shard as well, with their types."""


def write_stream(
    peri: AutoPeri,
    composition: Any = None,
    *,
    out: str | os.PathLike[str],
    progress: bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the crystals of :meth:`autoperi.auto.AutoPeri.generate_stream` into a folder as they come.

    Args:
        peri: the model.
        composition: as in ``generate``.
        out: the folder: new or empty, or with ``resume`` that of the stream.
        progress: show a bar; None shows it on a terminal.
        **options: of :class:`~autoperi.pipelines.request.Request`,
            :class:`~autoperi.pipelines.stream_options.StreamOptions` and
            :class:`~autoperi.pipelines.stream_options.ShardOptions`; a stream that is resumed knows its own.

    Returns:
        What ``stream.json`` says (``settings``, ``model``, ``counts``, ``shards``, and ``ended``, why there are fewer
        crystals than ``n``), and in ``run`` what this process did. A warning says that there are fewer.

    Raises:
        RequestError, DataError, WeightsError: before any work, with the value and the remedy.
        StreamInterrupted: Ctrl-C; the shards that are there are whole.
    """
    refuse_unknown("write_stream", options, Request, StreamOptions, ShardOptions)
    folder = Path(os.fspath(out))
    stored = _earlier_run(folder, bool(options.get("resume")))
    if composition is not None:
        options["composition"] = composition
    if stored is not None:
        _fill(options, stored["settings"], folder)
    shards = ShardOptions(**taken(options, ShardOptions))
    how = StreamOptions(**taken(options, StreamOptions))
    request = make_stream_request(options.pop("composition", None), **options)
    header = {
        "settings": _echo(request, how, shards),
        "model": peri.provenance(),
        "model_settings": asdict(peri.settings),
    }
    if stored is not None:
        for name, value in json.loads(dumps(header["settings"])).items():
            check_same(name, value, stored["settings"], folder)
        check_same_makers(header, stored, folder, ("model", "model_settings"))
    work = _Work(folder, peri.generation.stream(request, how), shards)
    return work.run(stored or work.begun(header), progress)


def _earlier_run(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The record of the stream in a folder, None where it is to be begun.

    Raises:
        DataError: the folder holds what is not to be resumed, or a record or shard that is damaged or missing.
    """
    check_writable(folder, folder=True)
    record = folder / STREAM
    if not record.exists():
        if resume:
            check_there(folder, "stream")
        if held := _held(folder):
            raise DataError(f"{folder} holds {held[0]}, which is of no stream; choose an empty folder")
        return None
    if not resume:
        raise DataError(f"{folder} holds an earlier stream; go on with it (--resume), or choose another folder")
    try:
        stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        Place(**stored["place"]), Tally(**stored["counts"])
        if not all(isinstance(stored[key], dict) for key in ("settings", "model", "model_settings")):
            raise ValueError("it names no settings")
        shards = {shard["file"]: shard["sha256"] for shard in stored["shards"] if shard["file"] is not None}
        after = f"{len(stored['shards']):08}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} cannot be read ({' '.join(str(error).split())}); choose another folder") from None
    for name, digest in shards.items():
        if not (folder / name).is_file():
            raise DataError(f"{folder} lacks {name}, which {STREAM} names; put it back, or choose another folder")
        if _sha256((folder / name).read_bytes()) != digest:
            raise DataError(
                f"{folder / name} is not what {STREAM} says was written; put it back, or choose another folder"
            )
    # a shard that was written when the record was not yet is written again
    strange = [n for n in _held(folder) if n not in (STREAM, *shards) and not n.startswith(f"crystals-{after}.")]
    if strange:
        raise DataError(f"{folder} holds {strange[0]}, which is of no stream; move it elsewhere")
    return stored


def _held(folder: Path) -> list[str]:
    """Names of what a folder holds that is neither hidden nor unfinished."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".tmp" and not p.name.startswith("."))


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _fill(options: dict[str, Any], old: Mapping[str, Any], folder: Path) -> None:
    """Options that were not given, from the settings of the stream that is resumed."""
    given = ShardOptions, StreamOptions
    for f in options_of(*given) if isinstance(options.get("composition"), Request) else options_of(Request, *given):
        value = old.get("generator" if f.name == "model" else f.name)
        if options.get(f.name) is not None or value is None:
            continue
        if f.name == "like" or value == IN_MEMORY:
            raise RequestError(f"the stream in {folder} was begun with {f.name}, which no file holds; give it again")
        options[f.name] = value


def _echo(request: Request, how: StreamOptions, shards: ShardOptions) -> dict[str, Any]:
    """All that decides what is in the files."""
    found = {name: value for name, value in request.echo().items() if name not in NOT_STREAMED}
    if request.composition is not None:
        found["composition"] = formula_text(request.composition)
    if request.like is not None:
        like = repr((request.like.lattice.tolist(), request.like.orbits, request.like.places))
        found["like"] = {**found["like"], "sha256": _sha256(like)}
    where = IN_MEMORY if callable(how.where) else how.where
    return {**found, "where": where, "format": shards.format, "shard_size": shards.shard_size}


@dataclass(frozen=True, eq=False)
class _Work:
    """One stream on its way into a folder."""

    folder: Path
    stream: Stream
    shards: ShardOptions

    def begun(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """The record of a stream that has not begun, written."""
        record = {
            **header,
            "complete": False,
            "ended": None,
            "counts": asdict(Tally()),
            "place": asdict(Place()),
            "shards": [],
        }
        self._write(record)
        return record

    def run(self, record: dict[str, Any], progress: bool | None) -> dict[str, Any]:
        """Go on to the end."""
        remove_unfinished(self.folder)
        wanted, place, tally = self.stream.request.n, Place(**record["place"]), Tally(**record["counts"])
        started, first = time.perf_counter(), place.kept
        verdicts = self.stream.verdicts(place) if not record["complete"] else iter(())
        try:
            with progress_bar(wanted, enabled=progress, description="streaming") as bar:
                bar.initial = bar.n = first
                while not record["complete"]:
                    own, kept = Tally(), list[Accepted]()
                    for verdict in islice(verdicts, self.shards.shard_size):
                        own.count(verdict)
                        tally.count(verdict)
                        if isinstance(verdict, Accepted):
                            kept.append(verdict)
                            bar.update()
                    if not (self.folder / STREAM).is_file():
                        raise DataError(
                            f"{self.folder} does not hold its {STREAM} any more; move the folder back, or go on with "
                            "--resume where it is"
                        )
                    number = len(record["shards"])
                    line = [self._shard(number, place.index, own, kept)] if own.tried else []
                    later = {
                        **record,
                        "complete": place.kept >= wanted or place.ended is not None,
                        "ended": place.ended,
                        "counts": asdict(tally),
                        "place": asdict(place),
                        "shards": [*record["shards"], *line],
                    }
                    self._write(later)
                    record = later
                    bar.set_postfix(candidates=place.index, shards=len(record["shards"]))
        except KeyboardInterrupt:
            raise StreamInterrupted(record, wanted) from None
        if record["ended"] is not None:
            warnings.warn(self.stream.too_few(tally, place), AutoPeriWarning, stacklevel=3)
        seconds, new = time.perf_counter() - started, place.kept - first
        run = {"crystals": new, "seconds": round(seconds, 3), "crystals_per_second": round(new / seconds, 2)}
        return {**record, "run": run}

    def _shard(self, number: int, end: int, own: Tally, kept: Sequence[Accepted]) -> dict[str, Any]:
        """The line of the record for a shard, whose file is written if there is anything in it."""
        line: dict[str, Any] = {"file": None}
        if kept:
            line = {"file": SHARD.format(number, self.shards.format)}
            parquet = self.shards.format == "parquet"
            content = self._parquet(kept) if parquet else extxyz_text(self.stream.structures(kept))
            write_atomically(self.folder / line["file"], content)
            line["sha256"] = _sha256(content)
        counts = {reason: n for reason, n in asdict(own).items() if n}
        return {**line, "first": end - own.tried, **counts}

    def _parquet(self, kept: Sequence[Accepted]) -> bytes:
        """From arrays; no structure is built."""
        import pandas as pd

        notes = [self.stream.note(a) for a in kept]
        columns = {name: pd.Series([note[name] for note in notes], dtype=kind) for name, kind in LABELS.items()}
        table = CrystalTable(
            np.array([a.candidate.lattice for a in kept], dtype=np.float64),
            [np.asarray(a.candidate.frac_coords, dtype=np.float64) for a in kept],
            [np.asarray(a.candidate.numbers, dtype=np.int64) for a in kept],
            [str(a.candidate.index) for a in kept],
            pd.DataFrame({**columns, "autoperi": pd.Series(notes, dtype="object")}),
        )
        return table_bytes(table, list(_formulas(table.atomic_numbers)))

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.folder / STREAM, dumps(record, indent=1) + "\n")


def _formulas(atomic_numbers: Sequence[np.ndarray]) -> Iterator[str]:
    for numbers in atomic_numbers:
        elements, counts = np.unique(numbers, return_counts=True)
        yield _reduced(tuple(zip(elements.tolist(), counts.tolist(), strict=True)))


_reduced = lru_cache(maxsize=100_000)(formula_text)


__all__ = ["LABELS", "write_stream"]
