"""A tunnel whose agent prints its public URL, and tells why it ended in what it printed last.

What ssh and cloudflared have in common. Knows no provider. Threads: see `process`; the agent's lines are read on a
thread of their own, and the tunnel's thread waits for the URL among them.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import replace

from llmapi_kit.errors import LlmApiKitError, TunnelDownError, TunnelError
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.health import Health, check_health
from llmapi_kit.tunnels.process import LAST_WORDS_S, AgentTunnel

POLL_S = 0.05


class PrintedUrlTunnel(AgentTunnel):
    """A tunnel whose URL is read from what its agent prints. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._printed_url: str | None = None
        self._has_url = threading.Event()

    @abstractmethod
    def _find_url(self, line: str) -> str | None:
        """The public URL, once the lines up to this one tell it and the link is ready; None otherwise."""

    @abstractmethod
    def _refusal(self, lines: list[str]) -> TunnelError | None:
        """What an agent's last lines mean, without quoting them; None for nothing known."""

    def _heed(self, line: str) -> None:
        super()._heed(line)
        url = self._find_url(line)
        if url is None or url == self._printed_url:
            return
        self._printed_url = url
        if self._opened.is_set():  # a provider may give a running tunnel another name
            with self._lock:
                if not self._stopping.is_set():
                    self._status = replace(self._status, public_url=url)
        self._has_url.set()

    def _connect(self) -> str:
        while not self._has_url.wait(POLL_S):
            if self._stopping.is_set():
                raise self._stopped_while_starting()
            if self._process is not None and self._process.poll() is not None:
                raise self._ended_early(self._process.returncode)
        return self._printed_url or ""

    def _disconnect(self) -> None:
        """The end of the agent is all that its provider needs."""

    def _explain(self, exc: Exception) -> LlmApiKitError:
        return self._explain_spawn(exc)

    def _ended_early(self, returncode: int) -> TunnelError:
        if self._reader is not None:
            self._reader.join(LAST_WORDS_S)
        known = self._refusal(self.log.tail(40))
        words = str(known) if known else f"The {self.kind} agent ended before it was ready ({_how(returncode)})."
        kind = type(known) if known else TunnelDownError
        return kind(f"{words}\n{self.log.quote()}", code=known.code if known else None)

    def _explain_exit(self, returncode: int) -> tuple[str, str | None]:
        lines = self.log.tail(40)
        known = self._refusal(lines)
        last = f" Its last words: {lines[-1]}" if lines else ""
        why = f" {known}" if known else last
        return f"The {self.kind} agent ended ({_how(returncode)}), so the public URL is dead.{why}", None

    def _ask_health(self, public_url: str, timeout_s: float) -> Health:
        return check_health(
            public_url, instance=self.settings.instance, headers={}, known_page=lambda _: None, timeout_s=timeout_s
        )


def _how(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
