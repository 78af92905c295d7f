"""Turn a notebook into a model server.

    import llmapi_kit as kit

    model = kit.load("pocket")
    server = kit.launch(model)
    server.client().chat.completions.create(model="pocket", messages=[{"role": "user", "content": "Hello!"}])

Importing the package imports nothing heavy: each public name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmapi_kit.version import __version__

if TYPE_CHECKING:
    from llmapi_kit.errors import LlmApiKitError
    from llmapi_kit.kit import connect, launch, load, load_embeddings, serve_engine, servers, stop_all
    from llmapi_kit.notebook.async_cells import run
    from llmapi_kit.notebook.chat.chat import chat
    from llmapi_kit.notebook.chooser.choose import choose
    from llmapi_kit.notebook.dashboard.dashboard import dashboard
    from llmapi_kit.notebook.doctor import doctor
    from llmapi_kit.notebook.environment import describe_machine as machine
    from llmapi_kit.notebook.show import show


__all__ = [
    "LlmApiKitError",
    "__version__",
    "chat",
    "choose",
    "connect",
    "dashboard",
    "doctor",
    "launch",
    "load",
    "load_embeddings",
    "machine",
    "run",
    "serve_engine",
    "servers",
    "show",
    "stop_all",
]

_HOMES = {
    "LlmApiKitError": "llmapi_kit.errors",
    "chat": "llmapi_kit.notebook.chat.chat",
    "choose": "llmapi_kit.notebook.chooser.choose",
    "connect": "llmapi_kit.kit",
    "dashboard": "llmapi_kit.notebook.dashboard.dashboard",
    "doctor": "llmapi_kit.notebook.doctor",
    "launch": "llmapi_kit.kit",
    "load": "llmapi_kit.kit",
    "load_embeddings": "llmapi_kit.kit",
    "machine": "llmapi_kit.notebook.environment:describe_machine",
    "run": "llmapi_kit.notebook.async_cells",
    "serve_engine": "llmapi_kit.kit",
    "servers": "llmapi_kit.kit",
    "show": "llmapi_kit.notebook.show",
    "stop_all": "llmapi_kit.kit",
}
# What people reach for, and what it is here
_MODELS = "kit.choose() lists models to load, kit.servers() what runs, and server.models what a server has."
_LAUNCH = "It is kit.launch(model) here."
_ASK = "It is model.ask(…) here, with model = kit.load(…)."
_HABITS = {
    "models": _MODELS,
    "list_models": _MODELS,
    "serve": _LAUNCH,
    "start": _LAUNCH,
    "stop": "It is server.stop() here, or kit.stop_all() for all.",
    "client": "It is server.client() here, or kit.connect(url, api_key=…) for a server elsewhere.",
    "status": "It is kit.servers() here.",
    "ask": _ASK,
    "generate": _ASK,
    "embed": "It is model.embed(…) here, with model = kit.load_embeddings(…).",
    "rerank": "It is model.rerank(…) here, with model = kit.load_embeddings(…).",
    "download": "kit.load(name) downloads what is missing.",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        hint = (
            "" if name.startswith("_") else import_module("llmapi_kit.did_you_mean").did_you_mean(name, _HOMES, _HABITS)
        )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    if name[0].islower():
        import_module("llmapi_kit.notebook.display").install()
    return value


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext llmapi_kit``: the magics ``%%chat`` and ``%llmapi``; see `llmapi_kit.notebook.magics`."""
    import_module("llmapi_kit.notebook.magics").install(shell)


def __dir__() -> list[str]:
    return __all__
