"""A hub on 127.0.0.1 that speaks as much of the protocol as the real client asks for.

Two servers: the hub itself (metadata, small files, API) and its storage on another port, where the weights lie. As with
the real one, a request for weights is redirected there, and the token must not follow.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Seen(NamedTuple):
    """One request: server, method, path, Range header ("" without), token ("" without)."""

    server: str
    method: str
    path: str
    range: str
    token: str


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        head = self.branches.get(branch) or self.branches.get("main")
        tree = {**(self.commits[head] if head else {}), **files}
        seed = json.dumps([branch, len(self.commits), {k: sha256(v) for k, v in sorted(tree.items())}])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[oid], self.branches[branch] = tree, oid
        return oid

    def find(self, revision: str) -> str | None:
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None


class LoopbackHub:
    """Use as a context manager; ``endpoint`` is what HF_ENDPOINT must be."""

    def __init__(self, tokens: tuple[str, ...] = ("hf_good",), readers: tuple[str, ...] = ("hf_reader",)) -> None:
        self.tokens, self.readers = tokens, readers
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.cuts: list[int] = []
        """Bytes after which the next downloads of weights break off, first one first."""
        self.status = 0
        """Where not 0, the answer to everything."""
        self.storage_status = 0
        """Where not 0, the answer to every upload of weights."""
        self.foreign = False
        """Answer like a proxy's login page: 200, and none of the headers of a hub."""
        self._servers = {
            name: ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, name)) for name in ("hub", "storage")
        }

    def __enter__(self) -> LoopbackHub:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def url(self, server: str = "hub") -> str:
        return f"http://127.0.0.1:{self._servers[server].server_address[1]}"

    @property
    def endpoint(self) -> str:
        return self.url()

    def environment(self, home: object) -> dict[str, str]:
        """Environment variables of a client process that shall know this hub only."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def add(
        self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False, branch: str = "main"
    ) -> str:
        """Commit ``files`` to a repository, made where needed, and return the commit hash."""
        repository = self.repositories.setdefault(repo_id, Repository(private=private, gated=gated))
        self.blobs.update({sha256(data): data for data in files.values()})
        return repository.commit(files, branch)

    def requests(self, pattern: str = "", *, server: str | None = None) -> list[Seen]:
        return [s for s in self.seen if re.search(pattern, f"{s.method} {s.path}") and server in (None, s.server)]


def _handler(hub: LoopbackHub, server_name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def _any(self) -> None:
            self.path = urlsplit(self.path).path  # still quoted: a branch may hold a slash
            self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            hub.seen.append(Seen(server_name, self.command, self.path, self.headers.get("Range") or "", self.token))
            body = self._body()
            if hub.status:
                return self._answer(hub.status, {"error": "out of order"})
            if hub.foreign:
                return self._send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
            return self._storage(body) if server_name == "storage" else self._hub(body)

        do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline().strip(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _send(self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data if cut is None else data[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

        def _answer(self, status: int, payload: object, headers: dict[str, str] | None = None) -> None:
            self._send(status, json.dumps(payload).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _fail(self, status: int, code: str, message: str, **headers: str) -> None:
            extra = {key.replace("_", "-"): value for key, value in headers.items()}
            self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **extra})

        def _storage(self, body: bytes) -> None:
            digest = self.path.rsplit("/", 1)[-1]
            if self.token:
                return self._answer(400, {"error": "a token must not be sent to the storage"})
            if self.command == "PUT" and hub.storage_status:
                return self._answer(hub.storage_status, {"error": "storage is full"})
            if self.command == "PUT":
                if sha256(body) != digest:
                    return self._answer(400, {"error": "digest differs"})
                hub.blobs[digest] = body
                return self._send(200, b"", {})
            data, start = hub.blobs[digest], 0
            if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                start = int(match.group(1))
            cut = hub.cuts.pop(0) if hub.cuts and self.command == "GET" else None
            extra = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            if start:
                extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self._send(206 if start else 200, data[start:], extra, cut)

        def _hub(self, body: bytes) -> None:
            if self.path == "/api/agent-harnesses":
                return self._answer(200, {"standardEnvVars": [], "harnesses": {}})
            if self.token and self.token not in hub.tokens + hub.readers:
                return self._fail(401, "", "Invalid credentials in Authorization header")
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                return self._resolve(*map(unquote, match.groups()))
            if self.token not in hub.tokens and self.command == "POST":
                return self._fail(403 if self.token else 401, "", "You need a token with write access")
            if self.path == "/api/repos/create":
                wish = json.loads(body)
                repo_id = f"{wish['organization']}/{wish['name']}"
                if repo_id in hub.repositories:
                    return self._answer(409, {"error": "exists", "url": f"{hub.endpoint}/{repo_id}"})
                private = wish.get("visibility") == "private" or bool(wish.get("private"))
                hub.add(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
                return self._answer(200, {"url": f"{hub.endpoint}/{repo_id}"})
            if self.path == "/api/validate-yaml":
                fault = None if json.loads(body)["content"].startswith("---\nlicense") else "no license"
                return self._answer(
                    400 if fault else 200, {"errors": [{"message": fault}] if fault else [], "warnings": []}
                )
            if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
                return self._answer(
                    200, {"transfer": "basic", "objects": [self._lfs(o) for o in json.loads(body)["objects"]]}
                )
            match = re.fullmatch(
                r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|branch|revision|verify)(?:/(.+))?)?", self.path
            )
            repository = hub.repositories.get(match.group(1)) if match else None
            if match is None or repository is None:
                return self._fail(404, "RepoNotFound", "Repository not found")
            return self._api(
                repository, match.group(1), match.group(2) or "revision", unquote(match.group(3) or "main"), body
            )

        def _lfs(self, wanted: dict[str, object]) -> dict[str, object]:
            if wanted["oid"] in hub.blobs:
                return wanted
            return {
                **wanted,
                "actions": {"upload": {"href": f"{hub.url('storage')}/upload/{wanted['oid']}", "header": {}}},
            }

        def _api(self, repository: Repository, repo_id: str, what: str, revision: str, body: bytes) -> None:
            if what == "branch":
                status = 409 if revision in repository.branches else 200
                repository.branches.setdefault(revision, repository.branches["main"])
                return self._answer(status, {})
            oid = repository.find(revision)
            if oid is None:
                return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            tree = repository.commits[oid]
            if what == "revision":
                return self._answer(
                    200,
                    {
                        "id": repo_id,
                        "modelId": repo_id,
                        "sha": oid,
                        "private": repository.private,
                        "tags": [],
                        "siblings": [],
                    },
                )
            if what == "preupload":
                files = []
                for wish in json.loads(body)["files"]:
                    lfs, old = wish["path"].endswith(".safetensors"), tree.get(wish["path"])
                    known = None if old is None else (sha256(old) if lfs else git_sha1(old))
                    files.append(
                        {
                            "path": wish["path"],
                            "uploadMode": "lfs" if lfs else "regular",
                            "shouldIgnore": False,
                            "oid": known,
                        }
                    )
                return self._answer(200, {"files": files})
            new = {}
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    new[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                elif item["key"] == "lfsFile":
                    new[item["value"]["path"]] = hub.blobs[item["value"]["oid"]]
            oid = hub.add(repo_id, new, branch=revision)
            return self._answer(
                200,
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": f"{hub.endpoint}/{repo_id}/commit/{oid}",
                    "hookOutput": "",
                },
            )

        def _resolve(self, repo_id: str, revision: str, name: str) -> None:
            repository = hub.repositories.get(repo_id)
            if repository is None or (repository.private and self.token not in hub.tokens + hub.readers):
                return self._fail(404 if self.token else 401, "RepoNotFound", "Repository not found")
            if repository.gated and self.token not in hub.tokens:
                return self._fail(403 if self.token else 401, "GatedRepo", "Access to this model is restricted")
            oid = repository.find(revision)
            if oid is None:
                return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            data = repository.commits[oid].get(name)
            if data is None:
                return self._fail(404, "EntryNotFound", "Entry not found", X_Repo_Commit=oid)
            if not name.endswith(".safetensors"):
                return self._send(200, data, {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": oid})
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": oid}
            return self._send(302, b"", {"Location": f"{hub.url('storage')}/{sha256(data)}", **linked})

    return Handler
