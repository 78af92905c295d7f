"""The adapters of a local model: read, taken into the runner between two steps, and taken out when they are unused.

An adapter that is removed answers nothing new; its weights leave when the last request with it has ended. Every adapter
gets a number that is never used again, so no slot's cached prefix is taken for another adapter's. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from llmapi_kit.engines.adapters import AdapterInfo, adapter_info, check_adapter_name, no_such_adapter, served_name
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.local.adapter_engine import AdapterEngine, Answering
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles, LoadedAdapter
from llmapi_kit.errors import ConfigError, NotFoundError


class LocalAdapters:
    """See `llmapi_kit.engines.adapters.Adapters`.

    Args:
        engine: of the model.
        read: reads an adapter of the model.
        install: takes its weights into the runner, under a number; blocking.
        uninstall: takes them out again; returns at once.
    """

    def __init__(
        self,
        engine: Answering,
        read: Callable[[str], AdapterFiles],
        install: Callable[[int, object], None],
        uninstall: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._read, self._install, self._uninstall = read, install, uninstall
        self._lock = threading.Lock()
        self._adding = threading.Lock()
        self._num_added = 0
        self._adapters: dict[str, LoadedAdapter] = {}
        self._engines: dict[str, AdapterEngine] = {}

    def add(self, source: str, name: str, *, is_replacing: bool = False) -> None:
        """See `Adapters.add`."""
        check_adapter_name(name)
        with self._adding:
            if name in self._adapters and not is_replacing:
                raise ConfigError(
                    f"The model {self._base!r} has an adapter {name!r} already, from {self._adapters[name].source}. "
                    "Remove it first, or choose another name."
                )
            files = self._read(source)
            self._num_added += 1
            adapter = LoadedAdapter(self._num_added, name, source, files)
            self._install(adapter.number, files.weights)
            with self._lock:
                old = self._adapters.get(name)
                self._adapters = {**self._adapters, name: adapter}
                self._engines = {**self._engines, served_name(self._base, name): self._front(adapter)}
        if old is not None:
            self._retire(old)

    def remove(self, name: str) -> None:
        """See `Adapters.remove`."""
        with self._lock:
            if name not in self._adapters:
                raise no_such_adapter(self._base, name, self._adapters)
            adapter = self._adapters[name]
            model = served_name(self._base, name)
            self._adapters = {each: other for each, other in self._adapters.items() if each != name}
            self._engines = {each: other for each, other in self._engines.items() if each != model}
        self._retire(adapter)

    def infos(self) -> list[AdapterInfo]:
        """See `Adapters.infos`."""
        return [
            AdapterInfo(
                name=each.name,
                model=served_name(self._base, each.name),
                source=each.source,
                rank=each.files.rank,
                size_bytes=each.files.size_bytes,
                added_at=each.added_at,
                num_running=each.num_running,
            )
            for each in self._adapters.values()
        ]

    def engines(self) -> Mapping[str, Engine]:
        """See `Adapters.engines`."""
        return self._engines

    @contextmanager
    def using(self, adapter: LoadedAdapter) -> Iterator[None]:
        """Keep an adapter's weights for a request.

        Raises:
            NotFoundError: it was removed.
        """
        with self._lock:
            if adapter.is_removed:
                raise NotFoundError(
                    f"The adapter {served_name(self._base, adapter.name)!r} was removed.",
                    param="model",
                    code="model_not_found",
                )
            adapter.num_running += 1
        try:
            yield
        finally:
            with self._lock:
                adapter.num_running -= 1
                is_over = adapter.is_removed and adapter.num_running == 0
            if is_over:
                self._uninstall(adapter.number)

    def _retire(self, adapter: LoadedAdapter) -> None:
        """Let no more requests have an adapter; its weights leave now, or with the last that has it."""
        with self._lock:
            adapter.is_removed = True
            is_unused = adapter.num_running == 0
        if is_unused:
            self._uninstall(adapter.number)

    @property
    def _base(self) -> str:
        return self._engine.info.id

    def _front(self, adapter: LoadedAdapter) -> AdapterEngine:
        info = adapter_info(self._engine.info, adapter.name, adapter.source)
        info = replace(info, created=int(adapter.added_at))
        return AdapterEngine(self._engine, adapter, info)
