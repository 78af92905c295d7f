"""Requests to this machine go straight, whatever proxy the environment names.

pyngrok asks its agent's local web service with urllib, which obeys ``http_proxy`` for loopback too and then
waits for a proxy that can't reach it. urllib reads the environment at each request and offers no argument,
so the environment is what has to change, for as short as possible. Called by tunnels, from their threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llmapi_kit.loopback import LOOPBACK

_lock = threading.Lock()
_num_inside = 0
_value_before: str | None = None
_value_inside: str | None = None


@contextmanager
def loopback_direct() -> Iterator[None]:
    """While inside, ``no_proxy`` covers loopback, for the whole process; what was there comes back after.

    May be entered by several threads at once: the first one changes the environment, the last one restores
    it, unless somebody else has changed it in between.
    """
    global _num_inside
    with _lock:
        if _num_inside == 0:
            _cover_loopback()
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                _restore()


def _cover_loopback() -> None:
    global _value_before, _value_inside
    # The lower-case name wins over the upper-case one, so it has to carry what that one says.
    _value_before = os.environ.get("no_proxy")
    present = _value_before if _value_before is not None else os.environ.get("NO_PROXY", "")
    names = [name.strip() for name in present.split(",") if name.strip()]
    if names == ["*"]:  # everything goes straight; a longer list would lose that meaning
        _value_inside = _value_before
        return
    _value_inside = ",".join([*names, *(name for name in LOOPBACK if name not in names)])
    os.environ["no_proxy"] = _value_inside


def _restore() -> None:
    if os.environ.get("no_proxy") != _value_inside:
        return
    if _value_before is None:
        os.environ.pop("no_proxy", None)
    else:
        os.environ["no_proxy"] = _value_before
