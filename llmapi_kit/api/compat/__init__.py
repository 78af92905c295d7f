"""Older APIs, so that their clients keep working: thin adapters over the same engines, limits and keys.

One module an API, with a `router` for its own paths and `VARIANTS` for those that it shares with another API; one that
keeps something for all requests makes it in `prepare(state)`. The setting `compat` says which are on.
"""

from __future__ import annotations

from importlib import import_module

from fastapi import FastAPI

from llmapi_kit.api.state import ApiState


def install(app: FastAPI, state: ApiState) -> None:
    """Mount the older APIs that the settings ask for."""
    for name in state.settings.compat:
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, "prepare"):
            module.prepare(state)
        if hasattr(module, "router"):
            app.router.routes.extend(module.router.routes)
        for variant in getattr(module, "VARIANTS", ()):
            state.variants.setdefault(variant.path, []).append(variant)
