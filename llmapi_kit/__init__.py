"""Turn a notebook into a model server.

    import llmapi_kit as kit

    model = kit.load("pocket")
    server = kit.launch(model)
    server.client().chat.completions.create(model="pocket", messages=[{"role": "user", "content": "Hello!"}])

Importing the package imports nothing heavy: each public name is fetched when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmapi_kit.version import __version__

if TYPE_CHECKING:
    from llmapi_kit.errors import LlmApiKitError
    from llmapi_kit.kit import connect, launch, load, serve_engine, servers, stop_all
    from llmapi_kit.notebook.async_cells import run
    from llmapi_kit.notebook.dashboard.dashboard import dashboard
    from llmapi_kit.notebook.doctor import doctor


__all__ = [
    "LlmApiKitError",
    "__version__",
    "connect",
    "dashboard",
    "doctor",
    "launch",
    "load",
    "run",
    "serve_engine",
    "servers",
    "stop_all",
]

_HOMES = {
    "LlmApiKitError": "llmapi_kit.errors",
    "connect": "llmapi_kit.kit",
    "dashboard": "llmapi_kit.notebook.dashboard.dashboard",
    "doctor": "llmapi_kit.notebook.doctor",
    "launch": "llmapi_kit.kit",
    "load": "llmapi_kit.kit",
    "run": "llmapi_kit.notebook.async_cells",
    "serve_engine": "llmapi_kit.kit",
    "servers": "llmapi_kit.kit",
    "stop_all": "llmapi_kit.kit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    if "IPython" in sys.modules:
        import_module("llmapi_kit.notebook.display").install()
    return value


def __dir__() -> list[str]:
    return __all__
