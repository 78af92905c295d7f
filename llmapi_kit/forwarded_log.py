"""What a process logs, handed on to the process that it works for."""

from __future__ import annotations

import logging
from collections.abc import Callable

LOGGERS = ("llmapi_kit", "py.warnings")


class ForwardedLog(logging.Handler):
    """Hands on what is logged from level INFO up.

    Args:
        forward: called with a record's logger, its level and its text, traceback included, in the thread that logs.
    """

    def __init__(self, forward: Callable[[str, int, str], object]) -> None:
        super().__init__(logging.INFO)
        self._forward = forward
        self.setFormatter(logging.Formatter("%(message)s"))  # with its traceback

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on."""
        try:
            self._forward(record.name, record.levelno, self.format(record))
        except Exception:  # as `logging` wants it: a line that can't be written harms no work
            self.handleError(record)

    def install(self) -> None:
        """Hand on what the kit logs and Python warns of, from now on."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        logging.getLogger("llmapi_kit").setLevel(logging.INFO)
        logging.captureWarnings(True)
