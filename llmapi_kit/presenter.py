"""How loading and launching show themselves: a plain program logs the steps, a notebook puts its own way in place.

Knows nothing of models or servers. In the caller's thread.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from llmapi_kit.progress import Progress, current, reporting

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Presenter:
    """Shows what is being done, and its result. This one logs the steps."""

    def load(self, work: Callable[[], R]) -> R:
        """Do the work, and show its progress."""
        with reporting(_log):
            return work()

    def launch(self, work: Callable[[], R]) -> R:
        """Do the work, and show its progress and the server that it returns."""
        return self.load(work)


class _Current:
    presenter = Presenter()


def use(presenter: Presenter) -> None:
    """Have a presenter show everything from now on, in this process."""
    _Current.presenter = presenter


def loads(function: Callable[P, R]) -> Callable[P, R]:
    """A function that loads a model; within a launch, that shows it."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not None:
            return function(*args, **kwargs)
        return _Current.presenter.load(lambda: function(*args, **kwargs))

    return wrapper


def launches(function: Callable[P, R]) -> Callable[P, R]:
    """A function that returns a server."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not None:
            return function(*args, **kwargs)
        return _Current.presenter.launch(lambda: function(*args, **kwargs))

    return wrapper


def _log(progress: Progress) -> None:
    if progress.done is None:  # a step begins; how far it is would be a line for every few bytes
        logger.info("%s", progress.step)
