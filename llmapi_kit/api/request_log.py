"""The log of requests: one line each, without what was asked or answered.

Strangers can't fill it: of requests that fail without the key, a few a second are written, and the rest is counted.
A line is put into words when somebody reads it: most are never read, and each would cost its request time.
On the server's event loop; `flush` may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llmapi_kit.api.request_record import RequestRecord

MAX_PATH_LENGTH = 200
MAX_STRANGERS_A_SECOND = 5

Line = Callable[[], dict[str, Any]]  # returns its fields


class RequestLog:
    """Writes a line for each request.

    Args:
        write: keeps a line.
        port: of the server.
        clock: seconds that never go back.
    """

    def __init__(self, write: Callable[[Line], None], port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._port = port
        self._clock = clock
        self._second = 0
        self._num_strangers = 0

    def add(self, record: RequestRecord, status: int, seconds: float) -> None:
        """Write down a request that is over.

        Args:
            record: what is known of it; changes no more.
            status: of the answer; 499 where the client left before it.
            seconds: that it took.
        """
        second = int(self._clock())
        if second != self._second:
            self.flush()
            self._second = second
        if status >= 400 and not record.is_keyed:
            self._num_strangers += 1
            if self._num_strangers > MAX_STRANGERS_A_SECOND:
                return
        if len(record.path) > MAX_PATH_LENGTH:
            record = replace(record, path=record.path[:MAX_PATH_LENGTH] + "…")
        self._write(partial(_line, self._port, record, status, seconds))

    def flush(self) -> None:
        """Say how many requests were left out, if any were."""
        left_out = self._num_strangers - MAX_STRANGERS_A_SECOND
        self._num_strangers = 0
        if left_out > 0:
            requests = "request" if left_out == 1 else "requests"
            message = f"{left_out:,} more failed {requests} without the key"
            self._write(partial(dict, port=self._port, message=message, left_out=left_out))


def _line(port: int, record: RequestRecord, status: int, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "port": port,
        "message": f"{record.method} {record.path} {status}",
        "request_id": record.id,
        "key": record.key,
        "status": status,
        "seconds": round(seconds, 3),
    }
    if record.model:
        line["model"] = record.model
        line["prompt_tokens"] = record.prompt_tokens
        line["completion_tokens"] = record.completion_tokens
    if record.error:
        line["error"] = record.error
    return line
