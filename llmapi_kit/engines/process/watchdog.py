"""Ends a process whose engine hangs: in a step that never returns, or without a word.

It asks the process how it is, again and again, and counts its own questions and not the time: whoever was suspended
together with the process finds it as it was. A thread of its own; told of the answers by whoever reads them.
"""

from __future__ import annotations

import threading

from llmapi_kit.engines.process.child import Child
from llmapi_kit.engines.process.wire import Ask, Status

CALL_ID = 0  # of its questions; calls of requests are counted from 1
MAX_INTERVAL_S = 5.0


class Watchdog:
    """Watches a process from now on, until it ends.

    Args:
        child: the process.
        limit_s: how long one step may take, and how long the process may be silent; 0 for ever.

    Attributes:
        silent_s: for how long it has not answered, as far as it was asked.
    """

    def __init__(self, child: Child, limit_s: float) -> None:
        self._child = child
        self._limit_s = limit_s
        self._interval_s = min(MAX_INTERVAL_S, limit_s / 10)
        self._is_answered = True
        self._step: float | None = None
        self._same_step_s = 0.0
        self.silent_s = 0.0
        if limit_s:
            threading.Thread(target=self._run, name="llmapi_kit watchdog", daemon=True).start()

    def heard(self, status: Status) -> None:
        """Take an answer."""
        is_same = status.step_started is not None and status.step_started == self._step
        self._same_step_s = self._same_step_s + self._interval_s if is_same else 0.0
        self._step = status.step_started
        self.silent_s = 0.0
        self._is_answered = True

    def _run(self) -> None:
        while not self._child.has_ended.wait(self._interval_s):
            if self._is_answered:
                self._is_answered = False
                self._child.send(Ask(CALL_ID))
            else:
                self.silent_s += self._interval_s
            what = "it had not answered" if self.silent_s > self._limit_s else "no step had ended"
            if max(self.silent_s, self._same_step_s) > self._limit_s:
                self._child.kill(f"{what} for {self._limit_s:g} s, the limit that step_timeout_s sets")
                return
