"""A Hugging Face hub on this machine, for tests: the model API and the files, and every way in which they can fail."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

GIB = 2**30
LFS_FROM_BYTES = 1000  # smaller files are Git's own


@dataclass
class Repository:
    """A model on the hub.

    Attributes:
        files: content by name; a number stands for a file of that size which nobody may ask for.
        gated: ``auto`` where its terms have to be accepted.
        tokens: that may read it; None for everybody.
        status: of every answer about it, if not 200.
        error_code: that goes with the status.
        revisions: other versions of it by their branches, tags and commits.
        version: what tells its commit from others.
    """

    files: dict[str, bytes | int]
    gated: str | bool = False
    tokens: set[str] | None = None
    status: int = 200
    error_code: str = ""
    revisions: dict[str, Repository] = field(default_factory=dict)
    version: str = ""

    @property
    def commit(self):
        return hashlib.sha1(f"{sorted(self.files)}{self.version}".encode()).hexdigest()

    def sibling(self, name):
        content = self.files[name]
        size = content if isinstance(content, int) else len(content)
        data = b"" if isinstance(content, int) else content
        found = {"rfilename": name, "size": size, "blobId": hashlib.sha1(b"blob %d\0" % size + data).hexdigest()}
        if size >= LFS_FROM_BYTES:
            found["lfs"] = {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        return found


@dataclass
class Faults:
    """What goes wrong with files, each fault once unless said otherwise.

    Attributes:
        break_after: the connection ends after so many bytes.
        stall_after: nothing more comes after so many bytes, until `released` is set.
        statuses: answers in place of the next files, as (status, headers).
        corrupt: the next content has another first byte.
        ignore_range: every answer begins at the beginning.
        released: ends all stalls.
        stalled: set while one lasts.
    """

    break_after: list[int] = field(default_factory=list)
    stall_after: list[int] = field(default_factory=list)
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    corrupt: list[bool] = field(default_factory=list)
    ignore_range: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)


class FakeHub(ThreadingHTTPServer):
    """The hub; `with` starts and stops it.

    Attributes:
        repositories: by name.
        faults: for the files named in `faulty`, or for all weights.
        asked: (method, path, range, authorization) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.reset()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def reset(self):
        """Forget all models, faults and requests."""
        self.repositories.clear()
        self.faults = Faults()
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self):
        """The ranges that weights were asked for, in order; None for all of them."""
        return [each[2] for each in self.asked if each[1].endswith(".safetensors")]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.faults.released.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request, client_address):
        """A client that goes away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.server.asked.append((self.command, path, self.headers.get("Range"), token))
        if path.startswith("/api/models/"):
            self._tell(path.removeprefix("/api/models/"), token)
            return
        name, _, rest = path.lstrip("/").partition("/resolve/")
        commit, _, file = rest.partition("/")
        repository = self.server.repositories[name]
        versions = (each for each in repository.revisions.values() if each.commit == commit)
        self._give(next(versions, repository), file, token)

    def _tell(self, name, token):
        name, _, revision = name.partition("/revision/")
        repository = self.server.repositories.get(name)
        if repository is not None and revision:
            repository = repository.revisions.get(revision)
        if repository is None and revision:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif repository is None:
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif repository.status != 200:
            self._answer(repository.status, {"X-Error-Code": repository.error_code})
        else:
            siblings = [repository.sibling(each) for each in repository.files]
            body = {"id": name, "sha": repository.commit, "gated": repository.gated, "siblings": siblings}
            body["cardData"] = {"license": "apache-2.0"}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _give(self, repository, file, token):
        faults = self.server.faults
        if repository.tokens is not None and token not in repository.tokens:
            self._answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
            return
        content = repository.files.get(file)
        if content is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
            return
        assert isinstance(content, bytes), f"{file} was asked for"
        is_faulty = file.endswith(".safetensors")
        if is_faulty and faults.statuses:
            self._answer(*faults.statuses.pop(0))
            return
        begin = 0
        if self.headers.get("Range") and not faults.ignore_range:
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if is_faulty and faults.corrupt:
            faults.corrupt.pop()
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self._send(content[begin:], faults if is_faulty else Faults())

    def _send(self, content, faults):
        if faults.break_after:
            self.wfile.write(content[: faults.break_after.pop(0)])
            self.close_connection = True
        elif faults.stall_after:
            end = faults.stall_after.pop(0)
            self.wfile.write(content[:end])
            self.wfile.flush()
            faults.stalled.set()
            faults.released.wait(20)
            self.close_connection = True
        else:
            self.wfile.write(content)

    def _answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
