"""One file on its way from the hub: asked for from the byte where it stopped, checked by its digest, put in its place.

Knows nothing of other files, of retries or of who waits for it. `FileTransfer.go_on` runs in a worker thread; its
counters may be read, and `FileTransfer.cut` called, from another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import httpx

from llmapi_kit.checkpoints.hub import HubFile
from llmapi_kit.checkpoints.hub_cache import PARTIAL

CONNECT_S = 10.0
RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)
DEFAULT_WAIT_S = 2.0


class StoppedError(Exception):
    """Nobody wants the file any more."""


class RefusedError(Exception):
    """The hub does not give the file.

    Attributes:
        response: what it answered.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"the hub answered {response.status_code}")
        self.response = response


class WaitError(Exception):
    """The hub can't give the file now.

    Attributes:
        delay_s: how long it asks to wait.
    """

    def __init__(self, status: int, delay_s: float) -> None:
        super().__init__(f"the hub answered {status}" + (f" and asks to wait {delay_s:.0f} s" if delay_s else ""))
        self.delay_s = delay_s


class CorruptFileError(OSError):
    """What was downloaded is not what the hub told of; it was thrown away."""


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def open_client(token: str | None, stall_s: float) -> httpx.Client:
    """An HTTP client for the hub; on the way to another host, where the contents lie, it leaves the token out."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Whole as they are: a packed answer could not be resumed
    headers |= {"Accept-Encoding": "identity", "User-Agent": "llmapi-kit"}
    timeout = httpx.Timeout(stall_s, connect=min(CONNECT_S, stall_s))
    return httpx.Client(headers=headers, timeout=timeout, follow_redirects=True)


class FileTransfer:
    """A file between the hub and the cache.

    Args:
        url: of the file.
        file: what is known of it.
        blobs: the folder that it goes to.
        stopped: set when nobody wants it any more.

    Attributes:
        target: where the whole file will be.
        path: where the part is that is there.
        size_bytes: of the whole.
        done_bytes: of the part.
        heard_at: when the last byte came, on the monotonic clock.
        is_running: whether it is being asked for.
    """

    def __init__(self, url: str, file: HubFile, blobs: Path, stopped: threading.Event) -> None:
        self.file = file
        self.target = blobs / (file.digest or hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest())
        self.path = self.target.with_name(self.target.name + PARTIAL)
        self.size_bytes = file.size_bytes
        self.done_bytes = self._present()
        self.heard_at = time.monotonic()
        self.is_running = False
        self._url = url
        self._stopped = stopped
        self._digest: _Digest | None = None
        self._socket: socket.socket | None = None

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return max(0, self.size_bytes - self._present())

    def go_on(self, client: httpx.Client) -> None:
        """Ask for the rest, and put the file in its place when it is whole.

        Raises:
            StoppedError: nobody wants it any more.
            RefusedError: the hub does not give it.
            WaitError: not now.
            CorruptFileError: what came is something else.
            OSError: it can't be written.
            httpx.TransportError: the connection broke or stalled.
        """
        self.is_running, self.heard_at = True, time.monotonic()
        try:
            self._begin()
            if self.done_bytes < self.size_bytes or not self.path.exists():
                self._receive(client)
            self._check()
            os.replace(self.path, self.target)
        finally:
            self.is_running = False
            self._socket = None

    def cut(self) -> None:
        """Break the connection off, so that nobody waits for its next byte."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _present(self) -> int:
        for path in (self.target, self.path):
            with contextlib.suppress(OSError):
                return path.stat().st_size
        return 0

    def _begin(self) -> None:
        """Take up what is there, reading it once for the digest."""
        if self._digest is not None:
            return
        self._digest = self._new_digest()
        self.done_bytes = 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as part:
            while chunk := part.read(2**20):
                self._note(chunk)
        if self.done_bytes > self.size_bytes:
            self._start_over()

    def _receive(self, client: httpx.Client) -> None:
        wanted = {"Range": f"bytes={self.done_bytes}-"} if self.done_bytes else {}
        with client.stream("GET", self._url, headers=wanted) as response:
            self._socket = _socket_of(response)
            if response.status_code == 416:  # what is there is not part of this file
                self._start_over()
                raise CorruptFileError("what was there did not belong to the file")
            _check_status(response)
            if self.done_bytes and response.status_code != 206:  # it begins at the beginning
                self._start_over()
            with self.path.open("ab") as part:
                for chunk in response.iter_bytes():
                    if self._stopped.is_set():
                        raise StoppedError
                    part.write(chunk)
                    self._note(chunk)
                    self.heard_at = time.monotonic()

    def _note(self, chunk: bytes) -> None:
        if self._digest is not None:
            self._digest.update(chunk)
        self.done_bytes += len(chunk)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError
        if self.done_bytes < self.size_bytes:
            raise httpx.RemoteProtocolError(f"it ended after {self.done_bytes:,} of {self.size_bytes:,} bytes")
        found = self._digest.hexdigest() if self._digest is not None else ""
        if self.done_bytes > self.size_bytes or (self.file.digest and found != self.file.digest):
            self._start_over()
            raise CorruptFileError("what came is not what the hub told of")

    def _start_over(self) -> None:
        self.path.unlink(missing_ok=True)
        self.done_bytes = 0
        self._digest = self._new_digest()

    def _new_digest(self) -> _Digest:
        """As the digest was made that the hub told: of the content, or as Git makes that of a blob."""
        if len(self.file.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size_bytes}\0".encode(), usedforsecurity=False)


def _check_status(response: httpx.Response) -> None:
    if response.status_code in RETRYABLE_STATUSES:
        raise WaitError(response.status_code, _asked_delay(response))
    if response.status_code not in (200, 206):
        raise RefusedError(response)


def _asked_delay(response: httpx.Response) -> float:
    """Seconds after which the hub wants to be asked again."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return DEFAULT_WAIT_S if response.status_code == 429 else 0.0


def _socket_of(response: httpx.Response) -> socket.socket | None:
    stream: Any = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    return found if isinstance(found, socket.socket) else None
