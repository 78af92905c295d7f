"""Which models are in memory: one load at a time in the whole process, and room made for the next one.

Knows models by what they take and whether they are answering; loads and closes nothing itself but through them. Its
lock is theirs too: it is held for moments only, never while something loads, so an event loop may take it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from llmapi_kit.checkpoints.fit import MemoryNeed, free_memory
from llmapi_kit.errors import ModelTooLargeError

GIB = 2**30


class Evictable(Protocol):
    """A model in memory that may be unloaded. All but `id`, and `unload`, under the memory's lock."""

    @property
    def id(self) -> str:
        """For messages."""
        ...

    @property
    def need(self) -> MemoryNeed:
        """What it takes."""
        ...

    @property
    def last_used(self) -> float:
        """When it last began or ended an answer, on the monotonic clock."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether it is answering nothing."""
        ...

    def pause(self) -> None:
        """Let new requests wait, so that it becomes idle."""
        ...

    def resume(self) -> None:
        """Go on with those that wait."""
        ...

    def detach(self) -> Callable[[], None]:
        """Take the engine out of use; the caller calls what this returns, without the lock, to close it."""
        ...


class ModelMemory:
    """The models of a process that are loaded when they are asked for, and unloaded for one another.

    Args:
        free_bytes: memory free on a device.

    Attributes:
        changed: the lock of all its models, and the sign that one became idle, went or came.
    """

    def __init__(self, free_bytes: Callable[[str], int] = free_memory) -> None:
        self.changed = threading.Condition(threading.Lock())
        self._free_bytes = free_bytes
        self._turn = threading.Lock()
        self._models: list[Evictable] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nothing else is loaded, and let nothing else be loaded meanwhile."""
        with self._turn:
            yield

    def add(self, model: Evictable) -> None:
        """A model was loaded; under the lock."""
        self._models.append(model)
        self.changed.notify_all()

    def remove(self, model: Evictable) -> None:
        """A model is out of use; under the lock."""
        if model in self._models:
            self._models.remove(model)
        self.changed.notify_all()

    def make_room(self, name: str, need: MemoryNeed, is_wanted: Callable[[], bool], timeout_s: float | None) -> None:
        """Unload models until there is room for another, least recently used first; in the turn of that one.

        Those that are answering are waited for; the one that is next to go takes no new requests meanwhile.

        Args:
            name: what is to be loaded, for messages.
            need: what it takes.
            is_wanted: whether it still is; under the lock.
            timeout_s: how long to wait for those that are answering; None leaves them alone.

        Raises:
            ModelTooLargeError: it would not fit if all were unloaded, or they went on answering for too long.
        """
        deadline = time.monotonic() + (timeout_s or 0)
        held: Evictable | None = None
        try:
            while (free := self._free_bytes(need.device)) < need.wanted_bytes:
                with self.changed:
                    others = self._others(need.device)
                    if not others or not is_wanted():
                        return  # loading it will tell whether the little there is suffices
                    self._check(name, need, free, others)
                    victim = next((other for other in others if other.is_idle), None)
                    if victim is None and timeout_s is None:
                        return
                    if victim is None:
                        held = self._pause(others[0], held)
                        if not self._wait(others, is_wanted, deadline):
                            raise ModelTooLargeError(
                                f"{name} does not fit beside {_names(others)}, in use all the while. Ask again later."
                            )
                        continue
                    close = victim.detach()
                    held = None if victim is held else held
                close()
        finally:
            if held is not None:
                with self.changed:
                    held.resume()

    def unload_one(self, device: str) -> bool:
        """Unload the model that was idle for longest; whether there was one. In a turn."""
        with self.changed:
            victim = next((other for other in self._others(device) if other.is_idle), None)
            if victim is None:
                return False
            close = victim.detach()
        close()
        return True

    def _others(self, device: str) -> list[Evictable]:
        """What might go from a device, or from any, in the order in which it would."""
        there = [model for model in self._models if not device or model.need.device == device]
        return sorted(there, key=lambda each: each.last_used)

    def _check(self, name: str, need: MemoryNeed, free: int, others: list[Evictable]) -> None:
        could_free = sum(other.need.most_bytes for other in others)
        is_known = all(other.need.most_bytes for other in others)
        if is_known and free + could_free < need.least_bytes:
            raise ModelTooLargeError(
                f"{name} needs {need.least_bytes / GIB:,.2f} GiB on {need.device}, where {free / GIB:,.2f} GiB are "
                f"free; unloading {_names(others)} would free {could_free / GIB:,.2f} GiB more. Choose a smaller or a "
                "quantised model."
            )

    def _pause(self, model: Evictable, held: Evictable | None) -> Evictable:
        """Let one become idle, and no longer the one before."""
        if held is not model:
            if held is not None:
                held.resume()
            model.pause()
        return model

    def _wait(self, others: list[Evictable], is_wanted: Callable[[], bool], deadline: float) -> bool:
        """Wait until one is idle or gone, or nobody wants the other any more; whether that came about in time."""

        def can_go_on() -> bool:
            return not is_wanted() or any(other.is_idle or other not in self._models for other in others)

        return self.changed.wait_for(can_go_on, max(0.0, deadline - time.monotonic()))


def _names(models: list[Evictable]) -> str:
    return ", ".join(repr(model.id) for model in models)
