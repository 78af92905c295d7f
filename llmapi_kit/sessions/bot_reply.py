"""One exchange in a session: what a bot replies to a prompt, by what kind of bot it is.

Knows nothing of the store, of locks or of deadlines; whoever waits for it may cancel it at any time.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import ContextLengthError, GenerationError, InvalidRequestError
from llmapi_kit.sessions.bots import Bot, engine_of
from llmapi_kit.sessions.history import EXCHANGE, count_text, fitting_history
from llmapi_kit.sessions.session_settings import ImageSettings, SessionSettings
from llmapi_kit.sessions.steps import ReplyFilters
from llmapi_kit.sessions.text_tokens import estimate_tokens
from llmapi_kit.store.sessions import StoredSession, Turn
from llmapi_kit.types import Delta, Finished, GeneratedImage, ImageRequest

# No text of Postgres may have it
NUL = "\0"
MOCK_REPLY = "Text mock reply for your prompt:"


class Dispatch(Protocol):
    """How the server runs an engine: under its limits, counted, stopped when it stops."""

    def generate(self, engine: Engine, request: GenerationRequest) -> AsyncGenerator[Delta | Finished, None]:
        """What comes after `Accepted`; closing it stops the generation.

        Raises:
            RequestError: it was not accepted, or failed.
        """
        ...

    async def embed(self, engine: Engine, text: str) -> Sequence[float]:
        """The vector of a text.

        Raises:
            RequestError: it can't be embedded.
        """
        ...

    async def draw(self, engine: Engine, request: ImageRequest) -> GeneratedImage:
        """The picture asked for.

        Raises:
            RequestError: it can't be made.
        """
        ...


@dataclass(frozen=True, slots=True)
class BotReply:
    """One prompt and its reply.

    Attributes:
        session: which.
        bot: its bot.
        settings: what it has set.
        prompt: what the bot is to reply to; steps have seen it.
        catalog: who may answer.
        dispatch: runs the engine.
        give: takes each piece of a text that may be shown.
    """

    session: StoredSession
    bot: Bot
    settings: SessionSettings
    prompt: str
    catalog: Catalog
    dispatch: Dispatch
    give: Callable[[str], None]

    async def reply(self, history: Sequence[Turn]) -> tuple[str, list[Turn]]:
        """The reply, and what to remember of the exchange: nothing where the bot has no use for a history.

        Raises:
            Refusal: a step withdrew the reply.
            SessionError, RequestError: there is none.
        """
        if NUL in self.prompt:
            raise InvalidRequestError("content has the character U+0000, which is not text.", param="content")
        if self.bot.kind == "echo":
            return await self._gather(_echo(self.prompt), estimate_tokens(self.prompt))
        engine = await engine_of(self.bot, self.settings.model or "", self.catalog)
        if self.bot.kind == "embedding":
            return json.dumps(list(await self.dispatch.embed(engine, self.prompt))), []
        if self.bot.kind == "image":
            return image_url(await self.dispatch.draw(engine, self._image_request())), []
        return await self._write(engine, await fitting_history(engine, lambda h: self._request(engine, h), history))

    async def _write(self, engine: Engine, history: Sequence[Turn]) -> tuple[str, list[Turn]]:
        num_tokens = await count_text(engine, self.prompt)
        while True:
            request = self._request(engine, history)
            try:
                return await self._gather(self.dispatch.generate(engine, request), num_tokens)
            except ContextLengthError:  # the engine counts otherwise, or does not say how much it takes
                if not history:
                    raise
                num_left_out = (len(history) // EXCHANGE + 1) // 2
                history = history[num_left_out * EXCHANGE :]

    async def _gather(
        self, events: AsyncGenerator[Delta | Finished, None], num_prompt_tokens: int
    ) -> tuple[str, list[Turn]]:
        """Take a text as it comes, through the filters."""
        filters = ReplyFilters(self.bot.post)
        shown: list[str] = []
        num_tokens = 0

        def show(piece: str) -> None:
            if piece:
                shown.append(piece)
                self.give(piece)

        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta):
                    show(await filters.feed(event.text.replace(NUL, "\ufffd")))
                else:
                    num_tokens = event.num_completion_tokens
        show(await filters.end())
        reply = "".join(shown)
        return reply, [Turn("user", self.prompt, num_prompt_tokens), Turn("assistant", reply, num_tokens)]

    def _request(self, engine: Engine, history: Sequence[Turn]) -> GenerationRequest:
        system = self.settings.system_prompt
        system = self.bot.system if system is None else system
        sampling = self.settings.sampling(engine.info.defaults)
        if self.bot.kind == "completion":
            said = [*([system] if system else []), *(turn.content for turn in history), self.prompt]
            prompt = "\n".join(said)
            return GenerationRequest(
                prompt=prompt, sampling=sampling, cache_salt=self.session.owner, affinity=self.session.id
            )
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": turn.role, "content": turn.content} for turn in history]
        messages.append({"role": "user", "content": self.prompt})
        return GenerationRequest(
            messages=messages, sampling=sampling, cache_salt=self.session.owner, affinity=self.session.id
        )

    def _image_request(self) -> ImageRequest:
        if not isinstance(self.settings, ImageSettings):
            raise RuntimeError(f"the bot {self.bot.type!r} draws with {type(self.settings).__name__}")
        if not self.prompt.strip():
            raise InvalidRequestError("content is empty; say what to draw.", param="content")
        looks = {name: getattr(self.settings, name) for name in ("size", "quality", "style")}
        return ImageRequest(prompt=self.prompt, wants_url=True, affinity=self.session.id, **looks)


def image_url(image: GeneratedImage) -> str:
    """Where a picture is; one that comes as bytes is in the URL itself."""
    if image.url:
        return image.url
    if not image.data:
        raise GenerationError("The model made no picture.")
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


async def _echo(prompt: str) -> AsyncGenerator[Delta | Finished, None]:
    """What the mock bot says, a word at a time."""
    words = (MOCK_REPLY + prompt).split(" ")
    for i, word in enumerate(words):
        await asyncio.sleep(0)  # as a model would, let others have their turn
        yield Delta(word if i == 0 else f" {word}")
    yield Finished("stop", estimate_tokens(prompt), len(words))
