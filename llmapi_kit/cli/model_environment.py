"""The environment variables by which a GGUF server of old selects its model, for those who start ours in its place.

``MODEL_PATH`` names the model, ``MODEL_NAME`` what clients call it, ``MODEL_TYPE`` whether it reads images
(``VL``, with ``MMPROJ_PATH``) or not (``LLM``). Reads the environment and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmapi_kit.errors import ConfigError

DEFAULT_NAME = "default-model"
# What that server does where a request does not say; its context, 8192, is the kit's own
SAMPLING = {"temperature": 0.7}
MAX_TOKENS = 2048
TYPES = ("LLM", "VL")


@dataclass(frozen=True, slots=True)
class EnvironmentModel:
    """A model that the environment selects.

    Attributes:
        path: of the model, as for `kit.load`.
        served_name: what clients pass as ``model``.
        options: further arguments of `kit.load`.
    """

    path: str
    served_name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def environment_model(environ: Mapping[str, str] | None = None) -> EnvironmentModel | None:
    """The model that the environment selects; None where it selects none.

    Args:
        environ: variables; those of this process unless given.

    Raises:
        ConfigError: a variable has a value that can't be used, or one is missing.
    """
    environ = os.environ if environ is None else environ
    path, kind = environ.get("MODEL_PATH", ""), environ.get("MODEL_TYPE", "")
    if not path and not kind:
        return None
    if kind and kind.upper() not in TYPES:
        raise ConfigError(f"MODEL_TYPE is {kind!r} in the environment; it may be {' or '.join(TYPES)}.")
    if not path:
        raise ConfigError("MODEL_TYPE is set in the environment, but MODEL_PATH is not: name the model's file there.")
    mmproj = environ.get("MMPROJ_PATH", "")
    is_seeing = kind.upper() == "VL"
    if is_seeing and not mmproj:
        raise ConfigError(
            "MODEL_TYPE is VL in the environment, but MMPROJ_PATH is not set: name the file for pictures there."
        )
    if mmproj and not is_seeing:
        raise ConfigError("MMPROJ_PATH is set in the environment, and MODEL_TYPE is not VL. Set that, or unset this.")
    options: dict[str, Any] = {"sampling": SAMPLING}
    if mmproj:
        options["mmproj"] = mmproj
    if "LLMAPI_KIT_DEFAULT_MAX_TOKENS" not in environ:  # that one would be meant for us
        options["default_max_tokens"] = MAX_TOKENS
    return EnvironmentModel(path, environ.get("MODEL_NAME") or DEFAULT_NAME, options)
