"""Makes engines of back ends that other packages bring; see `llmapi_kit.checkpoints.plugins`."""

from __future__ import annotations

from typing import Any

from llmapi_kit.checkpoints.plugins import find_plugin, package_of
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.engine_check import find_problems
from llmapi_kit.errors import LlmApiKitError, MissingDependencyError, ModelLoadError, ModelNotFoundError

# What is long enough to be a key
MIN_SECRET_LENGTH = 8


def make_plugin_engine(plugin: str, name: str, **options: Any) -> Engine:
    """Call a back end's factory: ``factory(name, **options)``.

    Args:
        plugin: name of the entry point.
        name: what stands after the colon.
        options: for the factory; it decides what it takes.

    Raises:
        ModelLoadError: the back end is broken; the message says which package it comes from.
        LlmApiKitError: what the factory raised of the kit's own errors.
    """
    entry = find_plugin(plugin)
    if entry is None:
        raise ModelNotFoundError(f"The back end {plugin!r} is not installed any more.")
    whose = f"The back end {plugin!r} of the package {package_of(entry)}"
    try:
        factory = entry.load()
    except Exception as exc:
        raise ModelLoadError(f"{whose} can't be imported: {type(exc).__name__}: {exc}") from exc
    if not callable(factory):
        raise ModelLoadError(f"{whose} is {entry.value}, which can't be called: it must be a factory of engines.")
    try:
        engine: Engine = factory(name, **options)
    except MissingDependencyError:
        raise
    except LlmApiKitError as exc:
        raise type(exc)(f"{whose}: {exc}") from exc
    except Exception as exc:
        raise ModelLoadError(f"{whose} failed to load {name!r}: {_in_words(exc, options)}") from exc
    problems = list(find_problems(engine))
    if problems:
        raise ModelLoadError(f"{whose} made no engine: {'; '.join(problems)}.")
    return engine


def _in_words(exc: Exception, options: dict[str, Any]) -> str:
    """An error, without what it was given to keep to itself."""
    text = f"{type(exc).__name__}: {exc}"
    for value in options.values():
        if isinstance(value, str) and len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, "…")
    return text
