"""What the two processes tell each other: pickled messages with their length in front, over a socket of theirs alone.

The socket has no address, so nobody else writes to it; both ends run the same code as the same user.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.types import EngineInfo, EngineStats, Event, Readiness

_LENGTH = struct.Struct("<Q")
HEADER_BYTES = _LENGTH.size


@dataclass(frozen=True, slots=True)
class Load:
    """To the engine's process, first of all: make the engine.

    Attributes:
        make_engine: pickled, as what can't be read there has to be told apart from other failures.
        name: of the model, for messages.
    """

    make_engine: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Generate:
    """To the engine's process: answer a request; `Happened` and `Done` come back."""

    call_id: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Call:
    """To the engine's process: await a method of the engine; `Returned` or `Raised` comes back."""

    call_id: int
    method: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """To the engine's process: how is it? A `Status` comes back at once."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the engine's process: nobody waits for this any more."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Close:
    """To the engine's process: end every request, free everything, and end."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """From the engine's process: the engine is there."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Step:
    """From the engine's process, while it loads: see `llmapi_kit.progress.Progress`."""

    step: str
    done: float | None
    total: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Logged:
    """From the engine's process: a line of a log."""

    logger: str
    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Happened:
    """From the engine's process: an event of a request."""

    call_id: int
    event: Event


@dataclass(frozen=True, slots=True)
class Done:
    """From the engine's process: a request has no more events."""

    call_id: int
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Returned:
    """From the engine's process: what a method returned."""

    call_id: int
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """From the engine's process: what a method, the events of a request, or loading (call 0) raised."""

    call_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Status:
    """From the engine's process: how it is.

    Attributes:
        step_started: see `llmapi_kit.engines.base.SteppingEngine`.
    """

    call_id: int
    readiness: Readiness
    stats: EngineStats
    step_started: float | None = None


ToEngine = Load | Generate | Call | Ask | Cancel | Close
FromEngine = Loaded | Step | Logged | Happened | Done | Returned | Raised | Status


def packed(message: ToEngine | list[FromEngine]) -> bytes:
    """A message as bytes, with their number in front."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def length_of(header: bytes | bytearray) -> int:
    """How many bytes follow the first `HEADER_BYTES`."""
    return int(_LENGTH.unpack(header)[0])


def unpacked(content: bytes | bytearray) -> Any:
    """A message of the other process."""
    return pickle.loads(content)  # noqa: S301 - see above


def portable(error: Exception) -> Exception:
    """An error that can be sent: itself, or its text where it holds what can't."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    except Exception:  # whatever an error of somebody's makes of pickle
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def pickled(make_engine: Callable[[], Engine]) -> bytes:
    """What makes an engine, as bytes.

    Raises:
        Exception: of pickle, where it holds what can't be sent.
    """
    return pickle.dumps(make_engine)
