"""What `kit.launch` is given to serve, looked at before anything is loaded.

Loads nothing, knows no servers and imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.engines.adapters import adapters_of, served_name
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.catalog import check_names
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.load_request import LoadRequest, resolve
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.sources import LOCAL_SETTINGS

Loadable = str | os.PathLike[str] | ModelLoader | Choice | Model | Engine
Servable = LoadRequest | Model | Engine


def resolve_all(
    model: Loadable | Sequence[Loadable],
    *,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    aliases: Mapping[str, str] | None,
    default: str | None,
) -> list[Servable]:
    """What is there of the models, and what is to be loaded.

    Args:
        model: one, or several.
        options: arguments of `load` for those given by name.
        settings: of the server, which models given by name go by, too.
        aliases: further names.
        default: who answers where no model is named.

    Raises:
        ModelError: there is no model of a name, or it can't be served.
        ConfigError: something is not a model, or an argument or a name does not go with the models.
    """
    loadables = [model] if isinstance(model, str | Model) or not isinstance(model, Sequence) else list(model)
    found = [_resolve(loadable, options, settings) for loadable in loadables]
    taken = {name for each in found if isinstance(each, LoadRequest) for name in each.source.settings}
    for name in settings:
        if name in LOCAL_SETTINGS and name not in taken:
            raise ConfigError(f"{name} is a setting of models that are loaded here: pass it to kit.load().")
    check_names([name for each in found for name in _names_of(each)], aliases or {}, default)
    return found


def _resolve(each: object, options: Mapping[str, Any], settings: Mapping[str, Any]) -> Servable:
    if isinstance(each, str | os.PathLike | ModelLoader | Choice):
        others = {name: value for name, value in options.items() if name != "served_name"}
        return resolve(each, options.get("served_name"), others, settings)
    if isinstance(each, Model) and each.is_closed:
        raise ConfigError(f"The model {each.name!r} was closed. Load it again: kit.load({each.name!r}).")
    if not isinstance(each, Model | Engine):
        raise ConfigError(
            f"launch() takes a model's name, what load() returned, or an engine, not {type(each).__name__}."
        )
    return each


def _names_of(each: Servable) -> list[str]:
    """What it answers to: its own name, and those of its adapters."""
    if isinstance(each, LoadRequest):
        return [each.spec.id, *(served_name(each.spec.id, name) for name in each.adapters or ())]
    engine = each.engine if isinstance(each, Model) else each
    adapters = adapters_of(engine)
    return [engine.info.id, *(adapters.engines() if adapters is not None else ())]
