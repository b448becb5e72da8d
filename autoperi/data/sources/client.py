"""What the clients of all providers have in common: what is asked goes out, answers come back as they are.

A client knows its place: what it needs to ask for the next answer, in the types of JSON, so that a fetch that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from autoperi.data.sources.documents import SOURCES, mapping
from autoperi.data.sources.http import paced_session
from autoperi.data.sources.query import Query
from autoperi.errors import DataError, RequestError


@dataclass(frozen=True)
class Answer:
    """One answer of a provider.

    Attributes:
        content: as it came.
        documents: how many it holds.
        place: of the next one; None at the end.
        url: what was asked.
        total: documents in all, where the provider says it.
    """

    content: Any
    documents: int
    place: Any
    url: str
    total: int | None = None


class Client(ABC):
    """One provider and one query.

    Attributes:
        supports: conditions of a :class:`~autoperi.data.sources.query.Query` that it honours.
        default: address where none is given.
        rate: requests a second where nothing is said.
        page: documents of an answer.
        items: what :meth:`listing` gave when the fetch began.
    """

    word: ClassVar[str]
    supports: ClassVar[tuple[str, ...]]
    default: ClassVar[str]
    rate: ClassVar[float] = 1.0
    page: ClassVar[int] = 100

    def __init__(self, query: Query, *, endpoint: str | None = None, rate: float | None = None) -> None:
        self.query = query
        self.endpoint = self.address(endpoint)
        self.session = paced_session(rate or self.rate, self.headers())
        self.items: list[str] | None = None

    @classmethod
    def address(cls, endpoint: str | None) -> str:
        """The address that is asked, without a slash at its end.

        Raises:
            RequestError: it is none.
        """
        url = (endpoint or cls.default).rstrip("/")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise RequestError(f"endpoint={endpoint!r} is no address; give one such as {cls.default}")
        return url

    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Who answers: ``name``, ``version``, ``licence`` and ``prefix``.

        Raises:
            DataError: nobody does.
        """
        known = SOURCES[self.word]
        return {"name": known["source"], "version": None, "licence": known["licence"], "prefix": self.word}

    def listing(self) -> list[str] | None:
        """Ids that are fetched one by one or in groups; None where the provider pages by itself.

        Raises:
            RequestError, DataError: there is no such list.
        """
        return None if self.query.ids is None else list(self.query.ids)

    @abstractmethod
    def answer(self, place: Any, *, remaining: int | None) -> Answer:
        """The answer at a place; None is the first. Needs ``items``, which is what :meth:`listing` gave.

        Raises:
            DataError: there is none.
        """

    def size(self, remaining: int | None) -> int:
        """Documents to ask for."""
        return self.page if remaining is None else min(self.page, remaining)


def documents_of(content: Any, url: str) -> list[Any]:
    """The list ``data`` of an answer.

    Raises:
        DataError: there is none.
    """
    if not isinstance(data := mapping(content).get("data"), list):
        raise DataError(f"{url} answered without a list of documents; check the address")
    return data
