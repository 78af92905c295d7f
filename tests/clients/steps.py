"""Runs the steps of a client's program, each alone, and prints what came of them as one JSON object.

Programs import it from beside their folder; it needs nothing but Python.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

FRANCE = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
PERSON = "Give me a JSON object describing a person."


class Steps:
    """The steps of one program: functions, plain or async, that return what JSON can say."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], Any]] = {}

    def __call__(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Add a step, as a decorator."""
        self._functions[function.__name__] = function
        return function

    def with_each(self, models: Mapping[str, Any]) -> Callable[[Callable[[Any], Any]], None]:
        """Add a step for each of several models, which it is called with, as a decorator; it is named after both."""

        def add(function: Callable[[Any], Any]) -> None:
            for name, model in models.items():
                self._functions[f"{name}_{function.__name__}"] = functools.partial(function, model)

        return add

    def run(self) -> None:
        """Run all, and print `{name: {"value": …} or {"error": …}}` as the last line."""
        print("\n" + json.dumps(asyncio.run(self._run())))

    async def _run(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, function in self._functions.items():
            try:
                value = function()
                results[name] = {"value": await value if inspect.isawaitable(value) else value}
            except Exception as exc:
                results[name] = {"error": f"{type(exc).__name__}: {exc}"}
        return results
