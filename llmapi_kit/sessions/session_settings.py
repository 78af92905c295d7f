"""What a session may set: a client's `settings` when it starts one, by what its bot does.

Checked when the session starts, and kept with it as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values
from llmapi_kit.sessions.bots import Bot, Kind


class SessionSettings(BaseModel):
    """Settings of every bot."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str | None = Field(None, description="A model of this server that can do what the bot needs.")
    system: str | None = Field(None, description="What a conversation begins with; clients send it to any bot.")

    @property
    def system_prompt(self) -> str | None:
        """What the conversation begins with; None for the bot's own."""
        return self.system

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """How a reply is made; what is not set comes from `defaults`, the model's own.

        Raises:
            InvalidRequestError: a value is out of range; names it.
        """
        return SamplingParams(**defaults)  # type: ignore[arg-type]


class TextSettings(SessionSettings):
    """Settings of a bot that writes; ranges as in the OpenAI API."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """See `SessionSettings.sampling`."""
        values: dict[str, Any] = {**defaults, **self.model_dump(exclude_none=True, exclude={"model", "system"})}
        return SamplingParams(**with_off_values(values))


class EmbeddingSettings(SessionSettings):
    """Settings of a bot that embeds."""


class ImageSettings(SessionSettings):
    """Settings of a bot that draws; which values there are is the model's to say."""

    size: str = Field("", pattern=r"^(|[1-9][0-9]{1,3}x[1-9][0-9]{1,3})$")
    quality: str = Field("", max_length=64)
    style: str = Field("", max_length=64)


KINDS: Mapping[Kind, type[SessionSettings]] = {
    "chat": TextSettings,
    "completion": TextSettings,
    "echo": TextSettings,
    "embedding": EmbeddingSettings,
    "image": ImageSettings,
}


def read_settings(bot: Bot, given: Mapping[str, Any]) -> SessionSettings:
    """A session's settings.

    Raises:
        InvalidRequestError: one is unknown or has a value that can't be used; names it.
    """
    kind = KINDS[bot.kind]
    known = kind.model_fields
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:  # said here, as pydantic would list them all
        name = f"settings.{unknown}"[:100]
        raise InvalidRequestError(
            f"{name} is not a setting of the bot {bot.type!r}. It takes: {', '.join(known)}.", param=name
        )
    try:
        settings = kind.model_validate(dict(given))
    except ValidationError as exc:
        problem = exc.errors()[0]
        name = ".".join(["settings", *(str(part) for part in problem["loc"] if part not in ("str", "list[str]"))])
        raise InvalidRequestError(f"{name}: {problem['msg']}.", param=name) from exc
    try:
        settings.sampling({})
    except InvalidRequestError as exc:
        raise InvalidRequestError(f"settings.{exc}", param=f"settings.{exc.param}") from exc
    return settings
