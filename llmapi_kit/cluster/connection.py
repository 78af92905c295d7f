"""Connects this process to a Ray cluster with Serve on it, or starts one here, and takes back what it started.

Knows nothing of models.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psutil

from llmapi_kit.cluster import head_watch
from llmapi_kit.errors import ClusterError, ConfigError, MissingDependencyError
from llmapi_kit.progress import report

ADDRESS_HELP = (
    "It is 'auto' (the cluster that RAY_ADDRESS names or that runs on this machine; one is started here where there is "
    "none), 'local' (one is started here), or the address of a cluster, such as 'ray://head:10001'."
)

AUTHENTICATION_HELP = (
    " If it asks for a token, set RAY_AUTH_MODE=token before Ray is imported, and RAY_AUTH_TOKEN unless it is in "
    "~/.ray/auth_token."
)

CLIENT_PORT = 10001  # where the address says none
CLIENT_TRIES_S, OPEN_S = 60.0, 5.0

LOST = (
    "The head of the Ray cluster is gone. What was defined in this process is still there; restart it before it can "
    "use a cluster again."
)

logger = logging.getLogger(__name__)

_lock = threading.RLock()
_users: dict[object, Callable[[], None]] = {}
_started: set[str] = set()  # of "connection", "cluster" and "serve": what this process has to end
_is_lost = threading.Event()


def _end_watch() -> None:
    return None


def check_address(address: Any) -> str:
    """The address, if it may be one.

    Raises:
        ConfigError: it can't be.
        MissingDependencyError: Ray is not installed.
    """
    if not isinstance(address, str) or not (address in ("auto", "local") or ":" in address):
        raise ConfigError(f"cluster is {address!r}. {ADDRESS_HELP}")
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("ray.serve") is None:
        raise MissingDependencyError("ray", "ray", f"cluster={address!r}")
    return address


def connect(address: str, user: object, end: Callable[[], None] = lambda: None) -> None:
    """Connect, and start Serve where it does not run. The same cluster serves all users.

    Args:
        address: see `check_address`.
        user: who needs it, until `disconnect`.
        end: what to do where this process ends before that.

    Raises:
        ClusterError: there is no such cluster, or it does not answer.
    """
    import ray
    from ray import serve

    with _lock:
        if _is_lost.is_set():
            raise ClusterError(LOST)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells a cell of every step
        if not ray.is_initialized():
            report("connecting to the cluster")
            _started.add(_init(address))
            _watch_head()
        if not _has_serve():
            report("starting Ray Serve")
            serve.start(proxy_location="Disabled")  # the API is served by whoever connects
            _started.add("serve")
        if not _users:
            atexit.register(_end_at_exit)  # after Ray's own, so that it is called before that
        _users[user] = end


def disconnect(user: object) -> None:
    """Somebody needs the cluster no more; after the last one, what was started here ends. Safe to call twice."""
    import ray
    from ray import serve

    with _lock:
        if user not in _users:
            return
        del _users[user]
        if _users:
            return
        atexit.unregister(_end_at_exit)
        if _is_lost.is_set():
            return
        _end_watch()
        # With a cluster that was started here, Serve ends as well
        if "serve" in _started and "cluster" not in _started and ray.is_initialized():
            with suppress(Exception):  # the cluster may be gone
                if not serve.status().applications:  # else somebody else's run there by now
                    serve.shutdown()
        if _started & {"connection", "cluster"}:
            ray.shutdown()
        _started.clear()


def has_started_serve() -> bool:
    """Whether this process started Serve on the cluster, so that it ends with it."""
    return "serve" in _started


def is_there() -> bool:
    """Whether this process is connected to a cluster, and may ask it for something."""
    import ray

    return not _is_lost.is_set() and ray.is_initialized()


def why_lost() -> str:
    """Why this process can use no cluster any more; empty while it can."""
    return LOST if _is_lost.is_set() else ""


def _watch_head() -> None:
    """Those of a cluster that was started here are this process's, and through Ray Client it is no part of one."""
    global _end_watch
    from ray.util.client import ray as client

    if "connection" in _started and not client.is_connected():
        _end_watch = head_watch.watch(_lose)


def _lose() -> None:
    """Without the lock, as whoever holds it may wait for the cluster."""
    from ray._private import worker

    _is_lost.set()
    logger.error(LOST)
    # Ray's tells the head of a script that failed, and would wait for it for ever
    if sys.excepthook is worker.custom_excepthook:
        sys.excepthook = worker.normal_excepthook


def _end_at_exit() -> None:
    for end in list(_users.values()):
        end()


def _init(address: str) -> str:
    """Connect; tells what was started for that: a connection, or a cluster."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by a cluster that is started here
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        if address == "auto":
            try:
                with head_watch.staying():
                    ray.init("auto", **options)
                return "connection"
            except ConnectionError:
                if os.environ.get("RAY_ADDRESS"):
                    raise
                address = "local"  # none is named, and none runs here
        if address.startswith("ray://"):
            _init_client(address, options)
            return "connection"
        if address != "local":
            with head_watch.staying():
                ray.init(address, **options)
            return "connection"
        report("starting a cluster on this machine")
        start_here()
    except Exception as exc:  # each way to connect fails in its own
        hint = "" if os.environ.get("RAY_AUTH_MODE") else AUTHENTICATION_HELP
        raise ClusterError(f"The Ray cluster {address!r} can't be used: {_sentence(exc)}{hint}") from exc
    return "cluster"


def _init_client(address: str, options: dict[str, Any]) -> None:
    """Connect through Ray Client, once more where its head was reached and failed.

    The head starts a process for each client by a fork, which dies now and then while other threads use gRPC (it says
    "Starting Ray client server failed"), as they do when it has just begun; a busy one takes longer than Ray waits.
    """
    import ray

    over_at = time.monotonic() + CLIENT_TRIES_S
    while True:
        try:
            ray.init(address, **options)
            return
        except ConnectionError as exc:
            if time.monotonic() > over_at or not _is_open(address):
                raise
            logger.warning("The Ray cluster %r did not take this client (%s); it is asked once more", address, exc)


def _is_open(address: str) -> bool:
    """Whether something listens there."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port or CLIENT_PORT), timeout=OPEN_S):
            return True
    except (OSError, ValueError):
        return False


def _sentence(exc: Exception) -> str:
    return f"{str(exc).strip() or type(exc).__name__}".rstrip(".") + "."


def start_here(**options: Any) -> None:
    """Start a cluster on this machine, and connect to it.

    Its processes wait for each other for fixed times, which a busy machine exceeds now and then: it is tried again.

    Args:
        options: of `ray.init`.

    Raises:
        Exception: of Ray, when it did not start.
    """
    import ray

    for is_last in (False, False, True):
        before = set(psutil.Process().children())
        try:
            ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, **options)
            return
        except Exception as exc:
            ray.shutdown()
            _end_left_behind(set(psutil.Process().children()) - before)
            if is_last:
                raise
            logger.warning("A Ray cluster did not start here (%s); it is tried once more", exc)


def _end_left_behind(processes: set[psutil.Process]) -> None:
    """End Ray's processes of a start that failed, which it leaves running."""
    import ray

    for process in processes:
        with suppress(psutil.Error):
            if os.path.dirname(ray.__file__) in " ".join(process.cmdline()):
                process.kill()
                process.wait(5)


def _has_serve() -> bool:
    from ray.util import list_named_actors

    return any(actor["namespace"] == "serve" for actor in list_named_actors(all_namespaces=True))
