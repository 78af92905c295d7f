"""The last lines an agent printed, with its secrets taken out.

Knows no provider. The tunnel's threads write to an `AgentLog`; error messages read it. Providers do print
tokens: ngrok's answer to a wrong one quotes it in full.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

REDACTED = "[redacted]"
MAX_LINES = 200
MAX_LINE_LENGTH = 2000


class AgentLog:
    """A ring of log lines. Thread-safe. Secrets are replaced before a line is stored."""

    def __init__(self, *, max_lines: int = MAX_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._secrets: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def hide(self, secret: str) -> None:
        """Replace `secret` from now on, in lines and in `redact`."""
        if secret:
            self._secrets = (*self._secrets, secret)

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    def add(self, line: str) -> None:
        """Keep one line; an empty one is dropped, a very long one cut after its secrets are gone."""
        line = self.redact(line.strip())[:MAX_LINE_LENGTH]
        if line:
            with self._lock:
                self._lines.append(line)

    def tail(self, num_lines: int) -> list[str]:
        """The last lines, oldest first."""
        with self._lock:
            return list(self._lines)[-num_lines:]

    def quote(self, num_lines: int = 8) -> str:
        """The last lines as the end of an error message."""
        lines = self.tail(num_lines)
        if not lines:
            return "The agent printed nothing."
        return "The agent's last log lines:\n" + "\n".join(f"  {line}" for line in lines)

    @contextmanager
    def redacted_logger(self, name: str) -> Iterator[None]:
        """While inside, records of the logger `name` carry no secret, whatever handlers are attached."""
        logger = logging.getLogger(name)
        logger.addFilter(self._redact_record)
        try:
            yield
        finally:
            logger.removeFilter(self._redact_record)

    def _redact_record(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.redact(record.getMessage()), ()
        return True
