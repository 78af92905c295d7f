"""Imports what a local model needs where an interrupt can't break it.

An interrupt in the middle of torch's import leaves a half-made torch behind, which no later import can mend: the kernel
would have to be restarted. So a thread of its own imports; a cell waits for it, and may be interrupted meanwhile: the
import goes on, and the next load waits for the rest. Free of torch.
"""

from __future__ import annotations

import threading
from importlib import import_module

# All that a load imports of torch and transformers, but for the module of the model's architecture; a test holds it so
MODULES = (
    "torch",
    "transformers",
    "llguidance",
    "llmapi_kit.models.weights",
    "llmapi_kit.models.adapters",
    "llmapi_kit.engines.local.engine",
    "llmapi_kit.runners.torch_runner",
    "llmapi_kit.sampling.grammar_compiler",
    "llmapi_kit.sampling.recommended",
    "llmapi_kit.sampling.tokenizer",
)
LOOK_EVERY_S = 0.2  # where a wait can't be interrupted, as on Windows


class _Import(threading.Thread):
    """Imports `MODULES` once.

    Attributes:
        is_done: set at its end. An interrupted `join` takes a thread for ended that runs (bpo-45274's repair).
        error: what it ended in; None while it runs, and where all went well.
    """

    def __init__(self) -> None:
        super().__init__(name="llmapi_kit import", daemon=True)
        self.is_done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._import_all()
        finally:
            self.is_done.set()

    def _import_all(self) -> None:
        for name in MODULES:
            try:
                import_module(name)
            except ModuleNotFoundError:
                continue  # left to whoever needs it, and says how to install it
            except Exception as exc:
                self.error = exc
                return


_lock = threading.Lock()
_latest: _Import | None = None


def import_for_local_models() -> None:
    """Import what local models need; returns when it is there.

    Raises:
        Exception: what a broken package raises; one that is missing is left to whoever imports it next.
    """
    global _latest
    with _lock:
        if _latest is None or (_latest.error is not None and _latest.is_done.is_set()):
            _latest = _Import()
            _latest.start()
        running = _latest
    while not running.is_done.wait(LOOK_EVERY_S):
        pass
    if running.error is not None:
        raise running.error
