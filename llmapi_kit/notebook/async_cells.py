"""`run`: asynchronous code from a plain, synchronous cell.

nest_asyncio is used here, when called, and nowhere else. Runs in the caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result, also where an event loop runs already.

    In a notebook the kernel's loop runs it (through nest_asyncio), so objects that belong to that loop can be used.
    A loop that can't be nested, such as uvloop's, is left alone: a thread runs the coroutine then.

    Args:
        coroutine: what to run.

    Raises:
        Exception: whatever it raises.

    Examples:
        >>> import asyncio
        >>> kit.run(asyncio.sleep(0, result="done"))
        'done'
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    if not isinstance(loop, asyncio.BaseEventLoop):
        return _run_in_thread(coroutine)
    import nest_asyncio

    # apply() also replaces asyncio.run by one that lacks loop_factory, which others need on Python 3.12+
    # (https://github.com/Kludex/uvicorn/issues/2737); only the nesting of this loop is wanted here.
    original = asyncio.run
    try:
        nest_asyncio.apply(loop)
    finally:
        asyncio.run = original
    result: T = loop.run_until_complete(coroutine)
    return result


def _run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    outcome: list[T] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as exc:
            error.append(exc)

    thread = threading.Thread(target=work, name="llmapi_kit run", daemon=True)
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return outcome[0]
