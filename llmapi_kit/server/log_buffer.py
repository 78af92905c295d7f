"""The latest log lines of the kit and of uvicorn, kept in memory.

What a thread prints lands in whichever cell runs, so warnings go here and not to stderr; `Server.logs` shows them. A
program that configures logging gets them too, as records still reach the root logger. Thread-safe.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque

LOGGERS = ("llmapi_kit", "uvicorn.error")
MAX_LINES = 500


class LogBuffer(logging.Handler):
    """Keeps records as JSON lines, which escape control characters, so that a request can't forge a line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created)),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
            }
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            self._lines.append(json.dumps(line, ensure_ascii=False))
        except Exception:
            self.handleError(record)

    def lines(self, num: int) -> list[str]:
        """The latest lines, oldest first."""
        return list(self._lines)[-num:]


_buffer = LogBuffer()


def install() -> LogBuffer:
    """Have the buffer listen; safe to call again."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _buffer not in logger.handlers:
            logger.addHandler(_buffer)
    return _buffer
