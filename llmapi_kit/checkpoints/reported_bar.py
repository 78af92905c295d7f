"""The progress bars of transformers, as reports: what is shown, and where, is for whoever started the load to say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from transformers.utils import logging

from llmapi_kit.progress import report


@contextlib.contextmanager
def reported_bars() -> Iterator[None]:
    """Report what transformers would show as progress bars of its own, which go to wherever it likes."""
    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: ReportedBar(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


class ReportedBar:
    """Stands for a tqdm bar over weights, and reports in place of showing.

    Args:
        things: what is gone through.
        total: how many there are.
        options: of tqdm, which mean nothing here.
    """

    def __init__(self, things: Iterable[Any] = (), *, total: float | None = None, **options: Any) -> None:
        self._things = things
        self._total = total if total is not None else len(things) if isinstance(things, Sized) else None
        self._done = 0.0

    def __iter__(self) -> Iterator[Any]:
        for thing in self._things:
            yield thing
            self.update()

    def update(self, num: float | None = 1) -> None:
        """Count what is done."""
        self._done += num or 0
        report("reading weights", done=self._done, total=self._total)

    def __enter__(self) -> ReportedBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        """The rest of tqdm: `close`, `set_description`, `refresh` and so on have nothing to do."""
        return lambda *args, **kwargs: None
