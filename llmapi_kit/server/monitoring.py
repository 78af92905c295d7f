"""What a server tells of its work: counters, running requests, usage and logs.

`llmapi_kit.server.server.Server` is a `MonitoredServer`. The methods may be called from any thread.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmapi_kit import tables
from llmapi_kit.api.running_requests import RunningRequest, running_requests
from llmapi_kit.api.state import ApiState
from llmapi_kit.engines.base import Engine
from llmapi_kit.server.description import REQUEST_COLUMNS, USAGE_COLUMNS
from llmapi_kit.server.keys import first_second
from llmapi_kit.server.log_buffer import LogBuffer
from llmapi_kit.server.thread import ServerThread

if TYPE_CHECKING:
    from llmapi_kit.store.store import Store


class MonitoredServer:
    """A server whose work can be watched."""

    _state: ApiState
    _store: Store
    _thread: ServerThread
    _logs: LogBuffer

    @property
    def engines(self) -> list[Engine]:
        """Who answers, the default first."""
        return self._state.catalog.all()

    def stats(self) -> tables.StatsTable:
        """Counters and latencies of each model, a mapping by its name; see `llmapi_kit.types.EngineStats`.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.stats()["mock"]["num_running"]
            0
            >>> server.stop()
        """
        return tables.StatsTable({engine.info.id: engine.stats().summary() for engine in self.engines})

    def requests(self) -> tables.Table[RunningRequest]:
        """The generations under way, the oldest first; a list, and a table in a cell.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.requests()
            []
            >>> server.stop()
        """
        return tables.Table(running_requests(self._state.active), REQUEST_COLUMNS, empty="No requests are running.")

    def cancel(self, request_id: str) -> bool:
        """End a generation: its client gets an error, which says that whoever runs the server cancelled it.

        Args:
            request_id: as `requests` lists it, and as the answer carries it.

        Returns:
            Whether it was under way.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.cancel("chatcmpl-of-yesterday")
            False
            >>> server.stop()
        """
        is_there = any(request.id == request_id for request in self.requests())
        if is_there:
            self._thread.call_soon(self._state.cancel, request_id)
        return is_there

    def first_token_times(self) -> tuple[int, list[float]]:
        """How many generations had a first token, and how long the latest of them waited for it, in seconds.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.first_token_times()
            (0, [])
            >>> server.stop()
        """
        return self._state.num_first_tokens, list(self._state.first_token_times_s)

    def usage(self, days: int = 30) -> tables.Table[dict[str, Any]]:
        """What this server's key used, by day and model: a list, and a table in a cell. Also before this server began.

        Args:
            days: so many days back, in UTC, today's included.

        Raises:
            StoreError: the database does not answer, or the server was stopped.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> with server.client() as client:
            ...     answer = client.completions.create(model="mock", prompt="Hello there!")
            >>> [(row["model"], row["completion_tokens"]) for row in server.usage()]
            [('mock', 2)]
            >>> server.stop()
        """
        now = time.time()
        found = self._store.usage.read_sync(self._state.key_check.key_id, first_second(days, now), now)
        rows = [{"date": each.date, "model": each.model, **asdict(each.counts)} for each in found]
        return tables.Table(rows, USAGE_COLUMNS, empty="This key has not been used yet.")

    def logs(self, num: int = 50) -> list[str]:
        """The latest log lines of this process's servers, as JSON, oldest first.

        Each request has one, without what was asked or answered, unless the setting ``request_log`` is off.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> len(server.logs(3)) <= 3
            True
            >>> server.stop()
        """
        if self._state.request_log is not None:
            self._state.request_log.flush()
        return self._logs.lines(num)
