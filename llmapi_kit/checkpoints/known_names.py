"""Names of models that are known without asking anybody: the kit's own, those of the table, and the hub's cache."""

from __future__ import annotations

from llmapi_kit.checkpoints.hub_cache import cached_names
from llmapi_kit.checkpoints.known_models import known_models

DEFAULT_MODEL = "pocket"  # where none is named
OWN = (DEFAULT_MODEL, "pocket-vision", "pocket-embed", "mock")


def known_names() -> list[str]:
    """All of them, each once."""
    return [*OWN, *dict.fromkeys([*(each.name for each in known_models()), *cached_names()])]
