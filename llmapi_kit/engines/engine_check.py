"""Is this an engine? Names all that an engine made by hand lacks, before anybody asks it something.

The contract suite in `llmapi_kit.testing` finds out whether it also keeps its promises.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from llmapi_kit.errors import ConfigError
from llmapi_kit.types import EngineInfo, EngineStats, Readiness

AWAITED = ("embed", "tokenize", "tokenize_chat", "detokenize")


def check_engine(engine: object) -> None:
    """Raise `ConfigError` unless something has all that an engine has; see `llmapi_kit.engines.base.Engine`."""
    problems = list(find_problems(engine))
    if problems:
        kind = engine.__name__ if isinstance(engine, type) else type(engine).__name__
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ConfigError(f"{kind} is not an engine yet:{listed}\ndocs/backends.md shows a complete one.")


def find_problems(engine: object) -> Iterator[str]:
    """What it lacks, one sentence each. Calls `readiness` and `stats`, and nothing that answers."""
    if isinstance(engine, type):
        yield "it is a class: pass an engine, made by calling it"
        return
    yield from _problems_of_info(getattr(engine, "info", None))
    generate = getattr(engine, "generate", None)
    if not callable(generate):
        yield "generate(request) is missing: an async generator of events"
    elif inspect.iscoroutinefunction(generate) or inspect.isgeneratorfunction(generate):
        yield "generate(request) must be an async generator: 'async def' with 'yield' in it"
    for name in AWAITED:
        method = getattr(engine, name, None)
        if not callable(method):
            yield f"{name}(…) is missing; where it can't be done, it raises an UnsupportedFieldError"
        elif not inspect.iscoroutinefunction(method):
            yield f"{name}(…) must be a coroutine: 'async def' that returns"
    info = getattr(engine, "info", None)
    if "images" in getattr(info, "capabilities", ()) and not callable(getattr(engine, "generate_images", None)):
        yield "generate_images(request) is missing, and info.capabilities has 'images'"
    for name in ("embed_request", "score") if "rerank" in getattr(info, "capabilities", ()) else ():
        if not inspect.iscoroutinefunction(getattr(engine, name, None)):
            yield f"{name}(request) is missing or no coroutine, and info.capabilities has 'rerank'"
    for name, kind in {"readiness": Readiness, "stats": EngineStats}.items():
        method = getattr(engine, name, None)
        if not callable(method):
            yield f"{name}() is missing"
        elif inspect.iscoroutinefunction(method):
            yield f"{name}() must not be 'async': it is called from any thread"
        elif not isinstance(found := method(), kind):
            yield f"{name}() must return {'an' if kind is EngineStats else 'a'} {kind.__name__}, not {found!r:.80}"
    if not callable(getattr(engine, "close", None)):
        yield "close() is missing"
    elif inspect.iscoroutinefunction(engine.close):  # type: ignore[attr-defined]
        yield "close() must not be 'async': it is called from any thread"


def _problems_of_info(info: object) -> Iterator[str]:
    if not isinstance(info, EngineInfo):
        yield f"info must be a llmapi_kit.types.EngineInfo, not {info!r:.80}"
        return
    if not (isinstance(info.id, str) and info.id.strip()):
        yield f"info.id is {info.id!r}; it must be the name that clients pass as model"
    for name in ("context_length", "created"):
        value = getattr(info, name)
        if not isinstance(value, int) or value < 0:
            yield f"info.{name} is {value!r}; it must be a whole number, 0 or more"
    if isinstance(info.capabilities, str) or not all(isinstance(word, str) for word in info.capabilities):
        yield f"info.capabilities is {info.capabilities!r}; it must be a tuple of words such as ('chat', 'completions')"
