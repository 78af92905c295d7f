"""Sessions at work: start one, ask in it, end it.

An ask waits for its turn, takes the history, has a bot reply, and is acknowledged when prompt and reply are in the
store. Runs on the server's event loop; knows neither HTTP nor how the server runs an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import SessionGoneError
from llmapi_kit.sessions.bot_reply import BotReply, Dispatch
from llmapi_kit.sessions.bots import Bots, engine_of
from llmapi_kit.sessions.locks import Deadline, SessionLocks
from llmapi_kit.sessions.session_settings import read_settings
from llmapi_kit.sessions.steps import Refusal
from llmapi_kit.store.sessions import SessionStore, StoredSession, Turn


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply, stored.

    Attributes:
        text: what stands. Where a step refused the prompt or withdrew the reply, its notice, whatever pieces came
            before; then nothing is stored.
    """

    text: str


class Conversations:
    """The sessions of one server.

    Args:
        catalog: who answers.
        store: where sessions are kept.
        bots: the bot types there are.
    """

    def __init__(self, catalog: Catalog, store: SessionStore, bots: Bots) -> None:
        self._catalog = catalog
        self._store = store
        self._bots = bots
        self._locks = SessionLocks()

    async def start(self, owner: str, bot_type: str, settings: Mapping[str, Any]) -> StoredSession:
        """Begin a session.

        Raises:
            BotTypeError: there is no such bot.
            BotUnavailableError: nothing here can answer for it.
            InvalidRequestError: a setting can't be used; names it.
            SessionLimitError: the owner has as many sessions as allowed.
            StoreError: the database failed.
        """
        bot = self._bots.get(bot_type)
        checked = read_settings(bot, settings)
        if bot.kind != "echo":
            await engine_of(bot, checked.model or "", self._catalog)
        return await self._store.create(owner, bot_type, settings)

    async def find(self, owner: str, session_id: str) -> StoredSession:
        """A session of an owner.

        Raises:
            SessionGoneError: there is none: it ended, expired, or never was.
            StoreError: the database failed.
        """
        session = await self._store.get(owner, session_id)
        if session is None:
            raise SessionGoneError("There is no such session: it ended, expired, or never was. Start another one.")
        return session

    async def ask(
        self, session: StoredSession, prompt: str, timeout_s: float, dispatch: Dispatch
    ) -> AsyncGenerator[str | Reply, None]:
        """Pieces of a reply as they come, then the `Reply`.

        The work goes on beside whoever reads; closing the generator stops it, unless the reply is being stored.

        Args:
            session: from `find`.
            prompt: what is said.
            timeout_s: for waiting and replying, together.
            dispatch: runs the engine.

        Raises:
            RequestTimeoutError: the time was over; nothing is stored.
            SessionError, RequestError: it can't be answered; nothing is stored.
            StoreError: the database failed.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(self._ask(session, prompt, timeout_s, dispatch, pieces))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # was raised above, or nobody is there any more to be told

    async def end(self, owner: str, session_id: str) -> None:
        """Forget a session.

        Raises:
            SessionGoneError: there is none.
            StoreError: the database failed.
        """
        if not await self._store.end(owner, session_id):
            raise SessionGoneError("There is no such session: it ended, expired, or never was.")

    async def _ask(
        self,
        session: StoredSession,
        prompt: str,
        timeout_s: float,
        dispatch: Dispatch,
        pieces: asyncio.Queue[str | None],
    ) -> Reply:
        bot = self._bots.get(session.bot_type)
        settings = read_settings(bot, session.settings)
        with Deadline(timeout_s, "There was no whole reply") as deadline:
            async with self._locks.hold(session.id):
                history = await self._store.turns(session.owner, session.id)
                try:
                    for step in bot.pre:
                        prompt = await step.rewrite(prompt)
                    exchange = BotReply(session, bot, settings, prompt, self._catalog, dispatch, pieces.put_nowait)
                    reply, turns = await exchange.reply(history)
                except Refusal as refusal:
                    return Reply(refusal.notice)
                deadline.lift()
                await self._append(session, turns, len(history))
                return Reply(reply)

    async def _append(self, session: StoredSession, turns: Sequence[Turn], expected: int) -> None:
        """Store turns; if the client leaves meanwhile, the next ask still waits until that is done."""
        write = asyncio.ensure_future(self._store.append(session.owner, session.id, turns, expected=expected))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            await asyncio.wait({write})
            raise
