"""The latest log lines of the kit and of uvicorn, and of requests, kept in memory.

What a thread prints lands in whichever cell runs, so warnings go here and not to stderr; `Server.logs` shows them. A
program that configures logging gets them too, as records still reach the root logger. Thread-safe.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from heapq import merge
from itertools import count
from operator import itemgetter
from typing import Any

LOGGERS = ("llmapi_kit", "uvicorn.error")
MAX_LINES = 500
UNUSUAL = re.compile(r"[^\x20-\x7e]")


class LogBuffer(logging.Handler):
    """Keeps records as JSON lines of printable characters, so that a request can't forge a line or change its reader.

    Requests have a place of their own: however many there are, they push out no warning. Lines are in the order in
    which they came, whatever the clock did meanwhile.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._numbers = count()
        self._lines: deque[tuple[int, str]] = deque(maxlen=MAX_LINES)
        self._requests: deque[tuple[int, Callable[[], str]]] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            line = {
                "time": _when(record.created),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
            }
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            self._lines.append((next(self._numbers), _printable(line)))
        except Exception:
            self.handleError(record)

    def add_request(self, line: Callable[[], dict[str, Any]]) -> None:
        """Keep a line on a request.

        Args:
            line: returns its fields, when somebody reads it.
        """
        self._requests.append((next(self._numbers), partial(_request_line, time.time(), line)))

    def lines(self, num: int) -> list[str]:
        """The latest lines, oldest first."""
        if num < 1:
            return []
        both: Iterable[tuple[int, str | Callable[[], str]]]
        both = merge(list(self._lines), list(self._requests), key=itemgetter(0))
        return [line if isinstance(line, str) else line() for _, line in list(both)[-num:]]


def _request_line(at: float, line: Callable[[], dict[str, Any]]) -> str:
    return _printable({"time": _when(at), "level": "INFO", "logger": "llmapi_kit.requests", **line()})


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def _printable(line: dict[str, Any]) -> str:
    """JSON in which what does not show, or turns text around, is escaped."""
    text = json.dumps(line, ensure_ascii=False)
    return UNUSUAL.sub(lambda each: each[0] if each[0].isprintable() else json.dumps(each[0])[1:-1], text)


_buffer = LogBuffer()


def install() -> LogBuffer:
    """Have the buffer listen; safe to call again."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _buffer not in logger.handlers:
            logger.addHandler(_buffer)
    return _buffer
