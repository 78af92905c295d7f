"""`ModelAdapters`: the LoRA adapters of a loaded model, as a cell adds, removes and lists them.

Knows no files; whoever loads a model gives it a way to read them. Blocking. Any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from llmapi_kit import tables
from llmapi_kit.checkpoints.spec import name_of
from llmapi_kit.engines.adapters import AdapterInfo, Adapters, adapters_of, check_adapter_name, served_name
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ConfigError

Path = str | os.PathLike[str]

COLUMNS: tables.Columns = {
    "name": ("Adapter", tables.text),
    "model": ("Model", tables.text),
    "source": ("From", tables.text),
    "rank": ("Rank", lambda rank: tables.count(rank) if rank else ""),
    "size_bytes": ("Memory", lambda size: f"{size / 2**20:,.1f} MiB" if size else ""),
    "added_at": ("Added", tables.moment),
    "num_running": ("Running", tables.count),
}


class ModelAdapters:
    """The adapters of one model: `add`, `remove` and `list` them; iterating gives their names.

    Args:
        engine: of the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, path: Path, name: str | None = None) -> str:
        """Answer with a LoRA adapter besides, from now on; requests that are under way go on meanwhile.

        Args:
            path: a folder in PEFT's format, or a hub name.
            name: of the adapter; the last part of `path` unless given.

        Returns:
            What clients pass as ``model``: ``base:name``.

        Raises:
            ConfigError: the name is taken or none, or the model takes no adapters.
            ModelNotFoundError: there is no such adapter.
            UnsupportedModelError: it changes more than can be shared; the message says how to load it.
            ModelLoadError: it is damaged, or was made for another model.

        After an error the model answers as before.
        """
        source = _source(path)
        name = check_adapter_name(default_name(source) if name is None else name)
        self._adapters.add(source, name)
        return served_name(self._engine.info.id, name)

    def remove(self, name: str) -> None:
        """Answer no new requests with an adapter. Those under way end as they would; then its memory is free.

        Args:
            name: of the adapter, or ``base:name``.

        Raises:
            ConfigError: there is none of that name.
        """
        prefix = served_name(self._engine.info.id, "")
        self._adapters.remove(name.removeprefix(prefix) if isinstance(name, str) else name)

    def list(self) -> tables.Table[AdapterInfo]:
        """The adapters, the oldest first: a list, and a table in a cell."""
        adapters = adapters_of(self._engine)
        rows = adapters.infos() if adapters is not None else []
        return tables.Table(rows, COLUMNS, empty="The model has no adapters.")

    @property
    def _adapters(self) -> Adapters:
        adapters = adapters_of(self._engine)
        if adapters is None:
            raise ConfigError(
                f"The model {self._engine.info.id!r} takes no adapters. Models of transformers do, loaded without an "
                "adapter merged in: kit.load(…), or kit.load(…, lora={'name': './lora'})."
            )
        return adapters

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter([each.name for each in self.list()])

    def __len__(self) -> int:
        """How many there are."""
        return len(self.list())

    def __repr__(self) -> str:
        return self.list().as_text()

    def _repr_html_(self) -> str:
        return self.list()._repr_html_()


def adapter_sources(lora: Any) -> Any:
    """What ``lora`` says, without paths as objects: one to be merged, or several to be served, each by its name.

    Args:
        lora: a folder, file or hub name; or a mapping of names to these; or a list of these, named by their last parts.

    Raises:
        ConfigError: a name can't be one, or stands for two.
    """
    if isinstance(lora, Mapping):
        return {check_adapter_name(name): _source(path) for name, path in lora.items()}
    if not isinstance(lora, Sequence) or isinstance(lora, str | bytes):
        return lora
    sources: dict[str, str] = {}
    for source in map(_source, lora):
        name = check_adapter_name(default_name(source))
        if name in sources:
            raise ConfigError(f"lora has two adapters {name!r}. Give them names: lora={{'one': …, 'other': …}}.")
        sources[name] = source
    return sources


def default_name(source: str) -> str:
    """The name of an adapter that was given none."""
    return PurePath(source).name.removesuffix(".gguf")


def _source(path: Any) -> str:
    if isinstance(path, os.PathLike):
        return name_of(path)
    if not isinstance(path, str) or not path:
        raise ConfigError(f"A LoRA adapter is {path!r:.80}; it must be a folder, or a hub name like 'owner/name'.")
    return path
