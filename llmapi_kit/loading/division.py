"""The options that divide a model, over processes or over devices: which values they take, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmapi_kit.checkpoints.device_map import check_device_map
from llmapi_kit.checkpoints.tensor_parallel import check_tensor_parallel
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.draft import draft_spec

DIVIDING = ("tensor_parallel", "device_map")


def check_division(options: Mapping[str, Any]) -> None:
    """Raise unless the options of a load divide its model in a way that can be, or not at all.

    Raises:
        ConfigError: a value can't be used, or options contradict each other.
        MissingDependencyError: a package is not installed.
    """
    given = [name for name in DIVIDING if options.get(name) is not None]
    if not given:
        return
    if len(given) > 1:
        raise ConfigError("tensor_parallel and device_map both divide the model. Leave one out.")
    (name,) = given
    if name == "tensor_parallel":
        check_tensor_parallel(options[name])
        if options[name] == 1:
            return
    else:
        check_device_map(options[name])
        if options.get("device") is not None:
            raise ConfigError("device and device_map both say where to load the model. Leave one out.")
    for other in ("lora", "kv_cache_dtype", "quantize"):
        is_fine = other == "quantize" and name == "device_map" and options.get(other) in ("8bit", "4bit")
        if options.get(other) and not is_fine:
            raise ConfigError(f"{name} does not go with {other}: it is for a whole model in one place. Leave one out.")


def check_undivided(settings: Settings, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a model that is divided has settings for a whole one."""
    name = next((each for each in DIVIDING if options.get(each) not in (None, 1)), None)
    if name is None:
        return
    for what, is_asked in (("compile=True", settings.compile), ("a draft model", draft_spec(settings) is not None)):
        if is_asked:
            raise ConfigError(f"{name} does not go with {what}, which is for a whole model. Leave one out.")
