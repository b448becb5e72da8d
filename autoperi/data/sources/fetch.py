"""A fetch: the answers of a provider into a folder as they come, and the table that is made of them.

``answers.jsonl`` begins with a line that says what was asked of whom; each further line is one answer as it came, with
its date and the place of the next one. A line is written at once and flushed, so that a fetch goes on after its last
whole line however hard it was interrupted, and no answer is lost or asked for twice.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from autoperi.data.checks import positive_number
from autoperi.data.files import check_writable, dumps, explained, plain, write_atomically
from autoperi.data.sources.client import Client
from autoperi.data.sources.cod import Cod
from autoperi.data.sources.documents import mapping
from autoperi.data.sources.files import ANSWERS, import_files, json_lines, unwrapped
from autoperi.data.sources.materials_project import MaterialsProject
from autoperi.data.sources.optimade import Optimade
from autoperi.data.sources.oqmd import Oqmd
from autoperi.data.sources.query import Query, make_query
from autoperi.errors import AutoPeriError, DataError, RequestError
from autoperi.progress import progress_bar

PROVIDERS: dict[str, type[Client]] = {c.word: c for c in (MaterialsProject, Oqmd, Cod, Optimade)}
"""The clients by the words of the command line."""
TABLE, SUMMARY = "crystals.parquet", "fetch.json"
"""What is made in the folder of the answers."""


def fetch(
    source: str,
    out: str | Path,
    *,
    endpoint: str | None = None,
    rate: float | None = None,
    resume: bool = False,
    progress: bool | None = None,
    **conditions: Any,
) -> dict[str, Any]:
    """Fetch the documents of a query and make a table of them.

    Args:
        source: ``mp``, ``oqmd``, ``cod`` or ``optimade``.
        out: the folder: new or empty, or with ``resume`` that of the fetch.
        endpoint: an OPTIMADE provider (a name that pymatgen knows, or its base URL), or another address of the service.
        rate: requests a second at most; None is a rate that the provider bears.
        resume: go on with the fetch in the folder, with its query.
        progress: show a bar; None shows it on a terminal.
        **conditions: of :class:`~autoperi.data.sources.query.Query`.

    Returns:
        ``source``, ``version``, ``licence``, ``query``, ``answers`` and what
        :func:`autoperi.data.sources.files.import_files` says.

    Raises:
        RequestError: before any work, with the value and the remedy.
        DataError: the folder holds something else, or the provider gives no answer; what came is kept.
    """
    if source not in PROVIDERS:
        raise RequestError(f"source={source!r} is not known; choose one of {', '.join(PROVIDERS)}")
    kind, folder = PROVIDERS[source], Path(out)
    if rate is not None:
        rate = positive_number(rate, "rate")
    asked = {name: value for name, value in conditions.items() if value is not None}
    stored = _earlier(folder, resume)
    if resume and stored is None and not asked:
        raise DataError(f"{folder} holds no fetch to go on with; check the folder, or say what to fetch")
    query = make_query(source, kind.supports, **asked)
    if stored is not None:
        endpoint = endpoint or str(stored["endpoint"])
        if not asked:
            asked = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["query"].items()}
            query = Query(**asked)
    client = kind(query, endpoint=endpoint, rate=rate)
    header = _header(client, stored, folder)
    try:
        answers, documents = _run(client, folder, query, progress)
    except AutoPeriError as error:
        raise DataError(f"{error}; what came is in {folder}, go on with --resume") from None
    if not documents:
        words = dumps(header["query"])
        raise DataError(f"{header['name']} has no document of this query ({words}); ask for less, in another folder")
    facts = import_files([folder], folder / TABLE, progress=progress)
    said = {name: header[name] for name in ("endpoint", "version", "licence", "query")}
    summary = {"source": header["name"], **said, "answers": answers, **facts}
    write_atomically(folder / SUMMARY, dumps(summary, indent=1) + "\n")
    return summary


def _earlier(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The header of the fetch in a folder, None where it is to be begun."""
    check_writable(folder, folder=True)
    answers = folder / ANSWERS
    if not answers.is_file():
        held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        if held := [name for name in held if not name.startswith(f".{ANSWERS}.")]:  # of a process that was killed
            raise DataError(f"{folder} holds {held[0]}, which is of no fetch; choose an empty folder")
        return None
    lines = json_lines(answers, whole=True)
    with explained(answers, "read"):
        header = mapping(next(lines, None)).get("fetch")
        begun = next(lines, None) is not None
    if not isinstance(header, dict):
        raise DataError(f"{answers} says nothing of a fetch; choose another folder")
    if not begun and not resume:  # nothing came, so that nothing is lost
        return None
    if not resume:
        raise DataError(f"{folder} holds an earlier fetch; go on with it (--resume), or choose another folder")
    return header


def _header(client: Client, stored: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    """What is asked of whom: written where a fetch begins, compared where it goes on.

    Raises:
        RequestError: the fetch in the folder asked for something else, or of another release of the database.
    """
    said = {"source": client.word, "endpoint": client.endpoint, "query": plain(client.query.asked()), **client.facts()}
    if stored is None:
        client.items = client.listing()
        write_atomically(folder / ANSWERS, dumps({"fetch": {**said, "items": client.items}}) + "\n")
        return said
    for name in ("source", "endpoint", "query", "version"):
        if said[name] != stored[name]:
            raise RequestError(
                f"{name}={said[name]!r} differs from {stored[name]!r} of the fetch in {folder}; leave it as it was, or "
                "choose another folder"
            )
    client.items = stored["items"]
    return stored


def _run(client: Client, folder: Path, query: Query, progress: bool | None) -> tuple[int, int]:
    """Ask until the end; how many answers and documents are in the folder."""
    path = folder / ANSWERS
    count, documents, place, finished, seen = 0, 0, None, False, set[str]()
    for line in islice(json_lines(path, whole=True), 1, None):
        count, documents, place, finished = count + 1, documents + line["documents"], line["next"], line["finished"]
        seen.add(_digest(line["answer"]))
    with path.open("r+b") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))  # a last line that was cut short
        file.seek(0, os.SEEK_END)
        with progress_bar(query.limit, enabled=progress, description="fetching", unit="document") as bar:
            bar.update(documents)
            while not finished:
                remaining = None if query.limit is None else query.limit - documents
                answer = client.answer(place, remaining=remaining)
                digest = _digest(answer.content)
                if answer.documents and digest in seen:
                    raise DataError(f"{answer.url} gave the same documents twice, so that its pages never end")
                seen.add(digest)
                count, documents, place = count + 1, documents + answer.documents, answer.place
                finished = place is None or (query.limit is not None and documents >= query.limit)
                line = {
                    "url": answer.url,
                    "retrieved": datetime.now(UTC).date().isoformat(),
                    "documents": answer.documents,
                    "next": place,
                    "finished": finished,
                    "answer": answer.content,
                }
                file.write(dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                bar.total = bar.total or answer.total
                bar.update(answer.documents)
    return count, documents


def _digest(answer: Any) -> str:
    """Of the documents of an answer, without what a provider says of the answer itself."""
    documents, _, _ = unwrapped(answer)
    return hashlib.sha256(dumps(documents).encode()).hexdigest()
