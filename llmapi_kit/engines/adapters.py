"""What an engine has besides that answers with LoRA adapters: each is a model of its own, named ``base:name``.

The API knows adapters as engines only; who adds and removes them knows this protocol. Knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Protocol

from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ConfigError
from llmapi_kit.types import EngineInfo

NAME = re.compile(r"[^\W_][\w.-]{0,63}")


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter that is served.

    Attributes:
        name: of the adapter alone.
        model: what clients pass as ``model``.
        source: the folder, file or hub name that it came from, as it was given.
        rank: the largest of its layers'; 0 where that is not known.
        size_bytes: of its weights in memory.
        added_at: Unix time.
        num_running: requests with it that are being answered.
    """

    name: str
    model: str
    source: str
    rank: int
    size_bytes: int
    added_at: float
    num_running: int


class Adapters(Protocol):
    """The adapters of one engine. Thread-safe."""

    def add(self, source: str, name: str, *, is_replacing: bool = False) -> None:
        """Read an adapter and answer with it from now on; blocks meanwhile, and holds up no request.

        Args:
            source: a folder, a file or a hub name.
            name: of the adapter.
            is_replacing: take the place of one of that name, if there is one, once this one is there.

        Raises:
            ConfigError: the name is taken, or none.
            ModelError: it is not there, is damaged, or does not go with the model; nothing has changed.
        """
        ...

    def remove(self, name: str) -> None:
        """Answer no new requests with an adapter. Those under way end as they would; then its memory is free.

        Raises:
            ConfigError: there is none of that name.
        """
        ...

    def infos(self) -> list[AdapterInfo]:
        """Those there are, the oldest first."""
        ...

    def engines(self) -> Mapping[str, Engine]:
        """Who answers with each, by the name that clients pass as ``model``, the oldest first."""
        ...


def adapters_of(engine: object) -> Adapters | None:
    """The adapters of an engine; None where it takes none."""
    adapters: Adapters | None = getattr(engine, "adapters", None)
    return adapters


def served_name(base: str, name: str) -> str:
    """What clients pass as ``model`` for an adapter of a model."""
    return f"{base}:{name}"


def adapter_info(base: EngineInfo, name: str, source: str) -> EngineInfo:
    """What an adapter tells of itself, as an engine: as its model, under a name of its own.

    Args:
        base: of the model.
        name: of the adapter alone.
        source: that it came from; clients see its last part.
    """
    root = PurePath(source).name or source
    model = served_name(base.id, name)
    return replace(base, id=model, description=f"{base.id} with the LoRA adapter {root}", parent=base.id, root=root)


def check_adapter_name(name: object) -> str:
    """The name of an adapter, if it can be one.

    Raises:
        ConfigError: it can't.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"An adapter's name is 1 to 64 letters, digits and ._-, and begins with a letter or digit; this is "
            f"{name!r:.80}."
        )
    return name


def no_such_adapter(base: str, name: object, there: Mapping[str, object]) -> ConfigError:
    """The error for a name that no adapter of a model has."""
    names = f"It has {', '.join(there)}." if there else "It has none."
    return ConfigError(f"The model {base!r} has no adapter {name!r:.80}. {names}")
