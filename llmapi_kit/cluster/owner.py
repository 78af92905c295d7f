"""The process that deployed a model, as its replicas see it: an actor that Ray ends with that process.

Replicas hand it their log lines. When it is gone, as its process was killed, they delete their application, which
would otherwise stay for ever, and Serve itself where that process had started it and nobody else uses it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from llmapi_kit.cluster import connection
from llmapi_kit.forwarded_log import ForwardedLog

NAMESPACE = "llmapi_kit"
APP_PREFIX = "llmapi_kit-"  # of applications that have an owner
MAX_CALLS = 10_000
MAX_LINES = 1000  # that nobody has read yet
LOOK_EVERY_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a replica's log.

    Attributes:
        replica: names it.
        logger: that it was written to.
        level: as `logging` has it.
        text: with its traceback.
    """

    replica: str
    logger: str
    level: int
    text: str


class Owner:
    """The actor.

    Args:
        app: that is owned.
    """

    def __init__(self, app: str) -> None:
        self.app = app
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._has_lines = asyncio.Event()

    async def wait(self) -> None:
        """Never returns; fails when the owner is gone."""
        await asyncio.Event().wait()

    async def log(self, lines: Sequence[Line]) -> None:
        """Keep lines until they are read."""
        self._lines.extend(lines)
        self._has_lines.set()

    async def read(self) -> list[Line]:
        """The lines that came since, once there are any."""
        await self._has_lines.wait()
        self._has_lines.clear()
        lines = list(self._lines)
        self._lines.clear()
        return lines


def appoint(app: str, kind: type[Owner] = Owner) -> Any:
    """Make this process an application's owner, and write its replicas' lines to this process's logs.

    Args:
        app: that is to be deployed.
        kind: of the actor.

    Returns:
        The actor; `dismiss` ends it.
    """
    import ray

    options = {"name": app, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": MAX_CALLS, "max_restarts": -1}
    actor = ray.remote(**options)(kind).remote(app)
    threading.Thread(target=_write_lines, args=(actor,), name="llmapi_kit cluster log", daemon=True).start()
    return actor


def dismiss(app: str) -> None:
    """This process owns the application no more. Safe to call twice."""
    import ray

    if connection.is_there():
        with suppress(Exception):  # it, or the cluster, may be gone
            ray.kill(ray.get_actor(app, namespace=NAMESPACE))


def _write_lines(actor: Any) -> None:
    """Write what replicas tell, until the actor is gone."""
    import ray
    from ray.exceptions import ActorUnavailableError

    while ray.is_initialized():
        try:
            lines = ray.get(actor.read.remote())
        except ActorUnavailableError:  # it is started anew
            continue
        except Exception:  # whatever a cluster that is gone makes of it
            return
        for line in lines:
            logging.getLogger(line.logger).log(line.level, "replica %s: %s", line.replica, line.text)


def serve_owner(app: str, replica: str, *, ends_serve: bool = False) -> None:
    """Hand this replica's log to the application's owner from now on, and delete the application when that is gone.

    Args:
        app: the application.
        replica: names the replica.
        ends_serve: whether Serve is to end with the last application, as the owner started it.
    """
    lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
    ForwardedLog(lambda *line: lines.put(Line(replica, *line))).install()
    threading.Thread(target=_serve_owner, args=(app, lines, ends_serve), name="llmapi_kit owner", daemon=True).start()


def _serve_owner(app: str, lines: queue.SimpleQueue[Line], ends_serve: bool) -> None:
    import ray
    from ray.exceptions import RayError

    while True:
        try:
            actor = ray.get_actor(app, namespace=NAMESPACE)
        except ValueError:  # Ray has no such actor any more
            break
        except RayError:  # it does not answer now
            time.sleep(LOOK_EVERY_S)  # between two tries: Ray tells nobody when it answers again
            continue
        is_over, is_known_over = actor.wait.remote(), False
        while not is_known_over:
            if taken := _take(lines, LOOK_EVERY_S):
                actor.log.remote(taken)
            is_known_over = bool(ray.wait([is_over], timeout=0)[0])
    logger.warning("Whoever deployed %s is gone, so it is deleted", app)
    _delete(app, ends_serve)


def _take(lines: queue.SimpleQueue[Line], timeout_s: float) -> list[Line]:
    """The lines there are, once there is one or the time is over."""
    taken = []
    with suppress(queue.Empty):
        taken.append(lines.get(timeout=timeout_s))
        while True:
            taken.append(lines.get_nowait())
    return taken


def _delete(app: str, ends_serve: bool) -> None:
    """Delete an application whose owner is gone, and Serve with it where that is to end and nothing else runs there."""
    from ray import serve

    others = serve.status().applications.keys() - {app}
    if ends_serve and all(_is_abandoned(other) for other in others):
        serve.shutdown()
    else:
        serve.delete(app, _blocking=False)


def _is_abandoned(app: str) -> bool:
    """Whether an application had an owner that is gone; its own replicas delete it, sooner or later."""
    import ray

    if not app.startswith(APP_PREFIX):
        return False
    try:
        ray.get_actor(app, namespace=NAMESPACE)
    except ValueError:
        return True
    return False
