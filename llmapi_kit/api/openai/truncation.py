"""How a request says that inputs which are too long shall be cut: vLLM's field, and Cohere's and Jina's.

Without a word they are refused, so that nobody gets the vector of half a text unawares.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmapi_kit.api.openai.request_body import RequestBody
from llmapi_kit.engines.base import Truncation
from llmapi_kit.errors import InvalidRequestError

AS_MUCH_AS_FITS = -1


class TruncatingBody(RequestBody):
    """A body with inputs that may be cut."""

    truncate_prompt_tokens: int | None = Field(
        None,
        description="Cut what is longer to so many tokens; -1 for as many as the model reads.",
        json_schema_extra={"minimum": -1, "not": {"const": 0}},
    )
    truncate: bool | Literal["NONE", "START", "END"] | None = Field(
        None, description="Cut what is too long for the model: true and END at its end, START at its beginning."
    )

    def truncation(self) -> Truncation | None:
        """What to do with long inputs; None to refuse them.

        Raises:
            InvalidRequestError: the fields contradict each other, or have values that can't be.
        """
        most = self.truncate_prompt_tokens
        if most is not None and most != AS_MUCH_AS_FITS and most < 1:
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {most}; it must be at least 1, or -1 for as many as the model reads.",
                param="truncate_prompt_tokens",
            )
        if self.truncate in (False, "NONE") and most is not None:
            raise InvalidRequestError(
                f"truncate_prompt_tokens={most} cuts, and truncate says not to; send one of the two.", param="truncate"
            )
        if most is None and self.truncate in (None, False, "NONE"):
            return None
        side: Literal["start", "end"] = "start" if self.truncate == "START" else "end"
        return Truncation(None if most in (None, AS_MUCH_AS_FITS) else most, side)
