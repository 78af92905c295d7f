"""The pictures in a conversation, as OpenAI's messages carry them.

Knows names and shapes only: nothing is read, fetched or decoded here.

Source: OpenAI API reference, "Chat", content parts of type ``image_url``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmapi_kit.errors import UnsupportedFieldError


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One picture.

    Attributes:
        url: a ``data:`` URL, or where it is to be fetched from.
        param: where it stands in the request.
        is_low: whether little detail is asked for.
    """

    url: str
    param: str
    is_low: bool = False


def image_parts(messages: Sequence[Mapping[str, Any]]) -> list[ImagePart]:
    """The pictures of all messages, in their order."""
    found = []
    for index, message in enumerate(messages):
        content = message.get("content")
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == "image_url":
                image, param = part["image_url"], f"messages.{index}.content.{at}.image_url"
                found.append(ImagePart(image["url"], param, is_low=image.get("detail") == "low"))
    return found


def refusal(param: str) -> UnsupportedFieldError:
    """Why a model that takes text only can't answer."""
    return UnsupportedFieldError(
        f"{param} is a picture, and this model takes text only. Leave it out, or ask a model that "
        "sees: /v1/models lists what each can do.",
        param=param,
    )
