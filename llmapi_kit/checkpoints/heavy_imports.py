"""Imports what a local model needs where an interrupt can't break it, in as large parts as it is needed.

An interrupt in the middle of torch's import leaves a half-made torch behind, which no later import can mend: the kernel
would have to be restarted. So a thread of its own imports; a cell waits for it, and may be interrupted meanwhile: the
import goes on, and the next load waits for the rest. Free of torch.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

# All that a load imports of torch and transformers where the step in C computes; a test holds it so
LOCAL_MODELS = (
    "torch",
    "transformers",
    "llguidance",
    "llmapi_kit.checkpoints.weights",
    "llmapi_kit.engines.local.engine",
    "llmapi_kit.runners.native.runner",
    "llmapi_kit.loading.engine_assembly",
    "llmapi_kit.sampling.grammar_compiler",
    "llmapi_kit.sampling.recommended",
    "llmapi_kit.sampling.tokenizer",
)
# What a model of transformers needs beside, but for the module of its architecture. It takes longer than torch
MODEL_CLASSES = (
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "llmapi_kit.runners.torch_runner",
)
ADAPTERS = ("llmapi_kit.checkpoints.adapters",)
LOOK_EVERY_S = 0.2  # where a wait can't be interrupted, as on Windows


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage while it lasts.

    Imports make a great many objects that stay, and looking at them again and again is a seventh of the time. After
    it they count as old, so that they are not looked at the next moment either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled and gc.get_freeze_count() == 0:  # what others froze is to stay so
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


class _Import(threading.Thread):
    """Imports modules once.

    Attributes:
        is_done: set at its end. An interrupted `join` takes a thread for ended that runs (bpo-45274's repair).
        error: what it ended in; None while it runs, and where all went well.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        super().__init__(name="llmapi_kit import", daemon=True)
        self.is_done = threading.Event()
        self.error: Exception | None = None
        self._modules = modules

    def run(self) -> None:
        try:
            with uncollected():
                self._import_all()
        finally:
            self.is_done.set()

    def _import_all(self) -> None:
        for name in self._modules:
            try:
                import_module(name)
            except ModuleNotFoundError:
                continue  # left to whoever needs it, and says how to install it
            except Exception as exc:
                self.error = exc
                return


_lock = threading.Lock()
_begun: dict[tuple[str, ...], _Import] = {}


def import_heavy(modules: tuple[str, ...]) -> None:
    """Import `LOCAL_MODELS` or what else is named above; returns when it is there.

    Raises:
        Exception: what a broken package raises; one that is missing is left to whoever imports it next.
    """
    running = _running(modules)
    while not running.is_done.wait(LOOK_EVERY_S):
        pass
    if running.error is not None:
        raise running.error


def _running(modules: tuple[str, ...]) -> _Import:
    with _lock:
        latest = _begun.get(modules)
        if latest is None or (latest.error is not None and latest.is_done.is_set()):
            latest = _begun[modules] = _Import(modules)
            latest.start()
        return latest
