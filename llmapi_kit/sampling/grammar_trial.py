"""A process that grammars are tried in before the server compiles them: it may crash or be killed, the server not.

Knows nothing of requests or caches. `trial_program` is what runs in it. Started at the first grammar, ends by itself
when there was none for a while, and is started again. Used by one thread at a time, but for `close`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

from llmapi_kit.child_environment import child_environment
from llmapi_kit.errors import EngineUnavailableError

MAX_CPU_S = 0.6
MAX_WALL_S = 1.5
MAX_START_S = 20.0
MAX_IDLE_S = 120.0

_PROGRAM = Path(__file__).with_name("trial_program.py")


class GrammarTrial:
    """Says what is wrong with a grammar, within about two seconds.

    Args:
        vocab_size: how many ids the model's tokenizer has.
        specials: id and text of each special token, which grammars may name.
        eos_ids: tokens that end an answer; at least one.
        limits: arguments of `llguidance.LLParserLimits`.
        max_cpu_s: a grammar that keeps the process busy for longer is too complex.
        max_wall_s: the same by the clock, for a machine that is busy.
        max_idle_s: the process ends after this time without a grammar.
    """

    def __init__(
        self,
        vocab_size: int,
        specials: Sequence[tuple[int, str]],
        eos_ids: Sequence[int],
        limits: Mapping[str, Any],
        *,
        max_cpu_s: float = MAX_CPU_S,
        max_wall_s: float = MAX_WALL_S,
        max_idle_s: float = MAX_IDLE_S,
    ) -> None:
        self._setup = {
            "vocab_size": vocab_size,
            "specials": list(specials),
            "eos_ids": list(eos_ids),
            "limits": dict(limits),
            "max_cpu_s": max_cpu_s,
            "max_idle_s": max_idle_s,
        }
        self._max_wall_s = max_wall_s
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None
        self._is_closed = False
        self._lock = threading.Lock()

    def fault_in(self, grammar: str) -> str | None:
        """What is wrong with a grammar, or None; blocks.

        Raises:
            EngineUnavailableError: this was closed, or the process can't be started.
        """
        for _ in range(2):
            process = self._running()
            try:
                return _ask(process, grammar, self._max_wall_s)
            except _EndedError as exc:
                ended = exc
            if self._is_closed:
                raise EngineUnavailableError("The model was unloaded.")
            if not ended.was_idle:
                break
        if ended.is_late:
            return f"it takes longer than {self._setup['max_cpu_s']} s to compile; make it smaller"
        return "it is nested too deeply, or too large, to be compiled"

    def close(self) -> None:
        """End the process. Safe to call twice, from any thread."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        """The process, started if it isn't there."""
        with self._lock:
            if self._is_closed:
                raise EngineUnavailableError("The model was unloaded.")
            if self._process is not None and self._process.poll() is None:
                return self._process
            self._end()
            environment = child_environment(RAYON_NUM_THREADS="1")
            try:
                process = subprocess.Popen(
                    [sys.executable, str(_PROGRAM)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    encoding="utf-8",
                    env=environment,
                    start_new_session=True,  # or interrupting a cell would end it as well
                )
            except OSError as exc:
                raise EngineUnavailableError(f"The process that tries grammars does not start: {exc}") from exc
            self._process = process
            self._end = weakref.finalize(self, _kill, process)
        try:
            _ask(process, self._setup, MAX_START_S)
        except _EndedError as exc:
            raise EngineUnavailableError(f"The process that tries grammars does not start: {exc}") from exc
        return process


class _EndedError(Exception):
    """The process has ended in place of an answer."""

    def __init__(self, exit_code: int, is_expired: bool) -> None:
        super().__init__(f"it took too long, exit code {exit_code}" if is_expired else f"exit code {exit_code}")
        self.is_late = is_expired or exit_code == -getattr(signal, "SIGPROF", 0)
        self.was_idle = not is_expired and exit_code == -getattr(signal, "SIGALRM", 0)


def _ask(process: subprocess.Popen[str], question: object, max_wall_s: float) -> str | None:
    """Send a line and wait for the answer."""
    stdin, stdout = cast("tuple[TextIO, TextIO]", (process.stdin, process.stdout))  # pipes were asked for
    is_expired = threading.Event()

    def expire() -> None:
        is_expired.set()
        process.kill()

    timer = threading.Timer(max_wall_s, expire)
    timer.daemon = True
    timer.start()
    try:
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer = stdout.readline()
    except (OSError, ValueError):  # it has ended, or was closed
        answer = ""
    finally:
        timer.cancel()
    if not answer.endswith("\n"):
        with suppress(subprocess.TimeoutExpired):  # it is about to end by itself, and then says why
            process.wait(timeout=1)
        process.kill()
        raise _EndedError(process.wait(), is_expired.is_set())
    return cast("str | None", json.loads(answer))


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was left to write can't be
                pipe.close()
