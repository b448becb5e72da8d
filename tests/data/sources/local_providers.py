"""Providers on 127.0.0.1: Materials Project, OQMD, COD and OPTIMADE, each with its paths, pages and refusals."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import provider_forms as forms

KEY = "k" * 32


@dataclass
class Provider:
    """A server that answers with what ``respond`` gives for a path and its query.

    Attributes:
        seen: path and query of each request, in order.
        troubles: what is answered instead, first one first: a status with ``Retry-After``, or ``"cut"``, which closes
            the connection in the middle of an answer.
    """

    kind: str
    count: int = 5
    page: int = 2
    version: str = "2026.09.22"
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    troubles: list[Any] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    retry_after: str = "0"

    def __enter__(self) -> Provider:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, pattern: str) -> list[dict[str, str]]:
        """Queries of the requests whose path matches."""
        return [query for path, query in self.seen if re.search(pattern, path)]

    def respond(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        return getattr(self, f"_{self.kind}")(path, query)

    def _mp(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path == "/heartbeat":
            return 200, {
                "status": "OK",
                "version": "0.86.4",
                "db_version": self.version,
                "access_controlled_batch_ids": [],
            }
        if path != "/materials/summary/":
            return 404, {"detail": "Not Found"}
        if self.keys[-1] != KEY:
            return 401, {"detail": "Invalid authentication credentials"}
        every = [forms.summary(k) for k in range(self.count)]
        if "material_ids" in query:
            every = [d for d in every if d["material_id"] in query["material_ids"].split(",")]
        size = int(query.get("_per_page", query.get("_limit", 100)))
        start = (int(query.get("_page", 1)) - 1) * size
        names = query["_fields"].split(",")
        data = [{name: d[name] for name in names} for d in every[start : start + size]]
        meta = {"api_version": "0.86.3", "time_stamp": "2026-10-08T15:13:12", "total_doc": len(every), "facet": None}
        return 200, {"data": data, "meta": meta}

    def _oqmd(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path != "/oqmdapi/formationenergy":
            return 404, {"detail": "Not found."}
        offset, limit = int(query["offset"]), min(int(query["limit"]), self.page)
        documents = [forms.oqmd(k) for k in range(self.count)][offset : offset + limit]
        rest = offset + limit < self.count
        following = f"{self.url}{path}?{urlencode({**query, 'offset': offset + limit})}" if rest else None
        return 200, forms.oqmd_answer(documents, following=following, total=self.count)

    def _optimade(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        answer = forms.optimade_answer([])
        if path == "/v1/info":
            attributes = {"api_version": "1.2.0", "available_licenses_for_entries": ["CC-BY-4.0"]}
            return 200, {**answer, "data": {"type": "info", "id": "/", "attributes": attributes}}
        if path == "/v1/info/structures":
            own = {
                "_exmpl_hull_distance": {"type": "float", "unit": "eV"},
                "_exmpl_bands": {"x-optimade-type": "dictionary"},
            }
            return 200, {**answer, "data": {"description": "structures", "properties": own}}
        if path != "/v1/structures":
            return 404, {"errors": [{"status": "404", "title": "Not Found", "detail": "no such endpoint"}]}
        if "BROKEN" in query.get("filter", ""):
            return 400, {"errors": [{"status": "400", "title": "Bad Request", "detail": "the filter has no sense"}]}
        every = [forms.optimade(k) for k in range(self.count)]
        if ids := re.findall(r'id="(\d+)"', query.get("filter", "")):
            every = [d for d in every if d["id"] in ids]
        start, limit = int(query.get("page_offset", 0)), min(int(query["page_limit"]), self.page)
        wanted = query["response_fields"].split(",")
        data = [
            {**d, "attributes": {name: d["attributes"][name] for name in wanted}} for d in every[start : start + limit]
        ]
        rest = start + limit < len(every)
        href = f"{self.url}{path}?{urlencode({**query, 'page_offset': start + limit})}"
        # the standard allows an address, or an object that holds it
        following = (href if start else {"href": href, "meta": {}}) if rest else None
        return 200, forms.optimade_answer(data, following=following, total=len(every))

    def _cod(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path == "/result":
            assert query["format"] == "json"
            found = [
                {"file": str(9008000 + k), "sg": "P m -3 m", "flags": "has coordinates"} for k in range(self.count)
            ]
            return 200, [
                *found,
                {"file": "9999999", "sg": "P 1", "flags": None},
                {"file": "9009999", "flags": "retracted"},
            ]
        number = re.fullmatch(r"/(\d{7})\.cif", path)
        if number is None or not 0 <= int(number[1]) - 9008000 < self.count:
            return 404, "<html>404 Not Found</html>"
        return 200, forms.cod_cif(int(number[1]) - 9008000, int(number[1]))


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            provider.keys.append(self.headers.get("X-API-KEY"))
            provider.seen.append((parts.path, query))
            busy = provider.troubles.pop(0) if provider.troubles and parts.path != "/heartbeat" else None
            status, content = (
                provider.respond(parts.path, query) if busy in (None, "cut") else (busy, {"detail": "busy"})
            )
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status in (429, 503):
                self.send_header("Retry-After", provider.retry_after)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if busy == "cut" else body)
            if busy == "cut":
                self.close_connection = True

    return Handler
