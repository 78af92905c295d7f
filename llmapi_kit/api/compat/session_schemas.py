"""Bodies and answers of the session API, with names and order of fields as its clients know them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openapi import Sent

MIN_TIMEOUT_S, MAX_TIMEOUT_S, DEFAULT_TIMEOUT_S = 5, 120, 30
# Of older clients: a key of the user's own for the model's provider, and a login that no server has any more
OF_OLD_CLIENTS = ("bot_key", "token")


class SessionBody(StrictModel):
    """What every body may have."""

    apikey: str | None = Field(None, description="The API key, for clients that send no Authorization header.")
    timestamp: str | float | None = Field(None, description="Sent by older clients; it changes nothing.")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, body: Any) -> Any:
        """Fields that older clients send also where they have nothing to say."""
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if not (name in OF_OLD_CLIENTS and value == "")}


class StartBody(SessionBody):
    """Body of POST /v1/chat/start."""

    bot_type: str = Field(description="mock, chatgpt, gpt3, gpt-embedding, dall-e, welm, newbing, or one set up here.")
    settings: dict[str, Any] | None = Field(
        None,
        description="Of a bot that writes: system, model, max_tokens, temperature, top_k, top_p, min_p, "
        "repetition_penalty, presence_penalty, frequency_penalty, seed, stop. Of one that embeds: model. Of one that "
        "draws: model, size, quality, style.",
    )


class AskBody(SessionBody):
    """Body of POST /v1/chat/ask."""

    session: str
    content: str = Field(description="What is said.")
    timeout: float | None = Field(
        None,
        ge=MIN_TIMEOUT_S,
        le=MAX_TIMEOUT_S,
        description=f"Seconds for waiting and replying; {DEFAULT_TIMEOUT_S} if left out.",
    )
    stream: bool | None = Field(None, description="Send the reply piece by piece, as server-sent events.")


class EndBody(SessionBody):
    """Body of POST /v1/chat/end."""

    session: str


class SessionFailure(Sent):
    """It failed: -1 internal error, -2 failed, -3 parameters, -4 session, -5 bot type, -6 timeout."""

    code: int = Field(lt=0, ge=-6)
    msg: str = Field(description="What the code means, and what happened.")


class KeyRefused(SessionFailure):
    """The key is missing or wrong, in this API's shape and in OpenAI's at once."""

    error: dict[str, str | None]


class SessionStarted(Sent):
    """A session began."""

    code: int = Field(ge=0, le=0)
    msg: str
    session: str = Field(description="Its id.")


class SessionReply(Sent):
    """A reply; the last event of a stream is one."""

    code: int = Field(ge=0, le=0)
    msg: str
    reply: str = Field(
        description="Text; of a bot that embeds, the vector as JSON; of one that draws, the URL of the picture."
    )
    timestamp: float = Field(description="When it was complete, Unix time in seconds.")


class SessionReplyPiece(Sent):
    """A piece of a reply that is being made."""

    code: int = Field(ge=0, le=0)
    msg: str
    session: str
    delta: str = Field(description="What to append. Where the last event's reply is another text, that stands.")


class SessionEnded(Sent):
    """A session was ended."""

    code: int = Field(ge=0, le=0)
    msg: str
