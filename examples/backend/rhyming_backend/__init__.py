"""A back end for llmapi_kit: ``kit.load("rhyming:poet", mood="glad")``."""

from __future__ import annotations

from llmapi_kit.errors import ConfigError, ModelNotFoundError

from rhyming_backend.engine import MOODS, RhymingEngine

POETS = ("poet", "bard")


def make_engine(name: str, *, mood: str = "glad", **unknown: object) -> RhymingEngine:
    """What the entry point names: called with what stands after the colon, and with the options of `kit.load`.

    Loading belongs here; it may take its time.

    Raises:
        ModelNotFoundError: there is no such poet.
        ConfigError: an option is not known.
    """
    if name not in POETS:
        raise ModelNotFoundError(f"There is no poet {name!r}. There are: {', '.join(POETS)}.")
    if unknown:
        raise ConfigError(f"There is no option {next(iter(unknown))!r}. There is: mood.")
    if mood not in MOODS:
        raise ConfigError(f"mood is {mood!r}; it must be one of {', '.join(MOODS)}.")
    return RhymingEngine(name, mood)
