"""`metadata`: a client's own words about what it stores, and how many of them there may be.

Source: OpenAI API reference, "metadata" of a chat completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from llmapi_kit.api.openai.request_body import at_most
from llmapi_kit.errors import InvalidRequestError

MAX_PAIRS = 16
MAX_KEY_LENGTH = 64
MAX_VALUE_LENGTH = 512

Metadata = Annotated[
    dict[str, str],
    at_most(MAX_PAIRS),
    Field(
        json_schema_extra={
            "maxProperties": MAX_PAIRS,
            "propertyNames": {"maxLength": MAX_KEY_LENGTH},
            "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_LENGTH},
        }
    ),
]


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise for more, or longer, than is allowed.

    Raises:
        InvalidRequestError: it says what of it is too much.
    """
    if len(metadata) > MAX_PAIRS:
        raise InvalidRequestError(
            f"metadata has {len(metadata)} pairs; at most {MAX_PAIRS} are allowed.", param="metadata"
        )
    for key, value in metadata.items():
        if len(key) > MAX_KEY_LENGTH:
            raise InvalidRequestError(
                f"metadata has the key {key[:80]!r} of {len(key)} characters; at most {MAX_KEY_LENGTH} are allowed.",
                param="metadata",
            )
        if len(value) > MAX_VALUE_LENGTH:
            raise InvalidRequestError(
                f"metadata has {len(value)} characters under {key!r}; at most {MAX_VALUE_LENGTH} are allowed.",
                param="metadata",
            )
