"""Which of the sampling values that come with a model a request could have.

Makers of models write what they like into their files. A value out of the bounds of `SamplingParams` would make every
request that says nothing an error about a field that it never sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.parameters import SamplingParams

logger = logging.getLogger(__name__)


def honoured(values: Mapping[str, Any], name: str) -> dict[str, float]:
    """Those values that a request could have; the others are left out with a logged reason.

    Args:
        values: by the names of `SamplingParams`, from a file.
        name: the model's, for the log.
    """
    found: dict[str, float] = {}
    for key, value in values.items():
        try:
            found[key] = checked(key, value)
        except InvalidRequestError as exc:
            logger.warning("What comes with %s recommends a value that is left out: %s", name, exc)
    return found


def checked(key: str, value: Any) -> float:
    """A value as requests have it: 50.0 for `top_k` is 50, and -1 is 0, which turns it off.

    Raises:
        InvalidRequestError: no request could have it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequestError(f"{key} is {repr(value)[:80]}; it must be a number.", param=key)
    number: float = value
    if key == "top_k":
        if isinstance(number, float) and not number.is_integer():
            raise InvalidRequestError(f"top_k is {number}; it must be a whole number.", param=key)
        number = 0 if number == -1 else int(number)  # -1 is off, to vLLM and SGLang
    try:
        SamplingParams(**{key: number})  # type: ignore[arg-type]  # its keys are those of numbers
    except (TypeError, OverflowError) as exc:
        raise InvalidRequestError(f"{key} is {str(value)[:80]}, which can't be used: {exc}", param=key) from exc
    return number
