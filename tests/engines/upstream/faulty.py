"""A server with OpenAI's API that misbehaves on order. Real HTTP, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CANARY = "sk-canary-7Qx3zzUPSTREAMzz9fT1"


@dataclass
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FaultyUpstream:
    """Behaves as `script` says, request by request; its last entry goes on. Use it as a context manager.

    A behaviour is an async function of (asked, writer). `left` is set when a client leaves a behaviour that waits.
    """

    script: list[Any]
    asked: deque = field(default_factory=deque)
    left: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty upstream", daemon=True)
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *exc):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def keys(self):
        """The keys that came, in order."""
        return [each.headers.get("authorization", "").removeprefix("Bearer ") for each in self.asked]

    def _run(self):
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self):
        self._stop = asyncio.Event()
        self._tasks = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while (asked := await _read(reader)) is not None:
                    self.asked.append(asked)
                    behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                    if await self._behave(behave, asked, reader, writer) == "close":
                        break
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _behave(self, behave, asked, reader, writer):
        """Run a behaviour, and notice when the client leaves meanwhile."""
        work = asyncio.ensure_future(behave(asked, writer))
        gone = asyncio.ensure_future(_end_of(reader))
        try:
            if behave in HANGING:
                await asyncio.wait({work}, timeout=0.01)
                self.waiting.set()
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left.set()
                return "close"
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _end_of(reader):
    """Until the client has gone; reads nothing, as that may be the next request."""
    while not reader.at_eof():  # noqa: ASYNC110 - a reader tells of its end in no other way than by reading
        await asyncio.sleep(0.005)


async def _read(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(raw) if raw else None)


def head(status=200, kind="text/event-stream", **headers):
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def event(body):
    text = body if isinstance(body, str) else json.dumps(body)
    return f"data: {text}\n\n".encode()


def chunk(text="", *, index=0, finish=None, **delta):
    content = {"content": text} if text else {}
    return {"choices": [{"index": index, "delta": {**content, **delta}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
GOOD = (chunk(role="assistant"), chunk("one"), chunk(" two"), chunk(finish="stop"), USAGE, "[DONE]")


def events(*bodies, then=None):
    """Sends these events and closes the connection, or does something else first."""

    async def behave(asked, writer):
        writer.write(head(Connection="close"))
        for body in bodies:
            writer.write(event(body) if not isinstance(body, bytes) else body)
            await writer.drain()
        if then is not None:
            await then(asked, writer)
        return "close"

    return behave


def answer(body, status=200, kind="application/json", **headers):
    """Answers with a whole body."""

    async def behave(asked, writer):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(head(status, kind, Content_Length=len(raw), **headers) + raw)
        await writer.drain()

    return behave


def error(status, message="no", **fields):
    headers = fields.pop("headers", {})
    return answer(
        {"error": {"message": message, "type": "x", "param": None, "code": None, **fields}}, status, **headers
    )


async def hang(asked, writer):
    """Says nothing, for ever."""
    await asyncio.Event().wait()


async def hang_in_headers(asked, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    await asyncio.Event().wait()


async def hang_after_headers(asked, writer):
    writer.write(head(Connection="close"))
    await asyncio.Event().wait()


async def hang_in_the_middle(asked, writer):
    writer.write(head(Connection="close") + event(chunk("one")))
    await asyncio.Event().wait()


async def drip(asked, writer):
    """Sends a byte now and then, so that no time limit between bytes is ever exceeded."""
    writer.write(head(Connection="close") + event(chunk("one")))
    for byte in b": a comment that never ends" * 10_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def keep_alive(asked, writer):
    """Sends comments, as a healthy server before a dead model does."""
    writer.write(head(Connection="close") + event(chunk("one")))
    while True:
        writer.write(b": keep-alive\n\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def hang_in_an_error(asked, writer):
    writer.write(head(500, "application/json", Content_Length=1000) + b'{"error": ')
    await asyncio.Event().wait()


HANGING = (hang, hang_in_headers, hang_after_headers, hang_in_the_middle, drip, keep_alive, hang_in_an_error)


async def cut_off(asked, writer):
    """A chunked stream whose end never comes."""
    part = event(chunk("one"))
    writer.write(head(Transfer_Encoding="chunked") + f"{len(part):x}\r\n".encode() + part + b"\r\n")
    await writer.drain()
    return "close"


async def huge_line(asked, writer):
    writer.write(head(Connection="close") + b"data: ")
    for _ in range(64):
        writer.write(b"x" * (512 * 1024))
        await writer.drain()
    return "close"


async def gzipped(asked, writer):
    raw = gzip.compress(b"".join(map(event, GOOD)))
    writer.write(head(Content_Encoding="gzip", Content_Length=len(raw)) + raw)
    await writer.drain()


async def reset(asked, writer):
    """Closes the connection without a word."""
    return "close"
