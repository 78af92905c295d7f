"""A conversation that goes on: asks, streams the answer from a plain worker thread, stops, branches, calls functions.

The kernel's main thread is never waited for: each answer has a daemon thread with a loop of its own. Knows nothing of
widgets; whoever shows a session listens to it. Methods may be called from any thread and return at once, except `wait`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol

from llmapi_kit.errors import ConfigError
from llmapi_kit.ids import random_hex
from llmapi_kit.notebook.chat.attachments import Attachment
from llmapi_kit.notebook.chat.backend import Backend, ChatRequest
from llmapi_kit.notebook.chat.conversation import REFUSED, STOPPED, Conversation, Message, ToolCall
from llmapi_kit.notebook.chat.failure import explain
from llmapi_kit.notebook.chat.functions import Function
from llmapi_kit.notebook.chat.options import ChatOptions
from llmapi_kit.types import Delta, Finished, ToolCallDelta

RunTools = Literal["ask", "always"]
MAX_ROUNDS = 10  # of calls and answers to one question; a model that goes on calling is stopped
FLUSH_EVERY_S = 1 / 30  # front ends lose messages when flooded


class Listener(Protocol):
    """Hears what happens to a session, on whatever thread that is. Must not block or raise."""

    def changed(self, session: Session) -> None:
        """Something else than an answer's text changed."""
        ...

    def grew(self, session: Session, message: Message) -> None:
        """An answer's text or reasoning grew; at most thirty times a second."""
        ...


class Session:
    """One conversation with one model.

    Args:
        backend: who answers.
        options: how to ask.
        listener: hears what happens.
    """

    def __init__(self, backend: Backend, options: ChatOptions, listener: Listener) -> None:
        self.backend = backend
        self.options = options
        self.conversation = Conversation()
        self.functions: dict[str, Function] = {}
        self.run_tools: RunTools = "ask"
        self.lock = threading.RLock()
        self._listener = listener
        self._is_busy = False
        self._is_told = threading.Event()  # set when an answer has ended and the listener knows
        self._is_told.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_flush = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being made."""
        return self._is_busy

    def send(self, text: str, images: tuple[Attachment, ...] = ()) -> None:
        """Ask something. Whether the model sees is not looked at here.

        Raises:
            ConfigError: the text is empty, or an answer is being made.
        """
        if not text.strip():
            raise ConfigError("The question is empty.")
        with self.lock:
            self._require_idle()
            last = self.conversation.last()
            self._refuse_waiting(last)
            self._begin(self.conversation.add(last, "user", text, images))

    def retry(self, message_id: str | None = None) -> None:
        """Answer again, as a branch of its own; the answer before stays.

        Args:
            message_id: of the answer; the last one unless given.
        """
        with self.lock:
            self._require_idle()
            message = self.conversation.get(message_id) if message_id else self.conversation.last()
            if message.role != "assistant" or message.parent is None:
                raise ConfigError("There is no answer to try again.")
            self._begin(message.parent)

    def edit(
        self, message_id: str, text: str, images: tuple[Attachment, ...] = (), kept: Collection[int] | None = None
    ) -> None:
        """Ask something else in place of a question, as a branch of its own.

        Args:
            message_id: of the question.
            text: what is asked now.
            images: pictures beside those that the question has.
            kept: which of those it keeps, by their places; all of them unless given.
        """
        if not text.strip():
            raise ConfigError("The question is empty.")
        with self.lock:
            self._require_idle()
            message = self.conversation.get(message_id)
            if message.role != "user" or message.parent is None:
                raise ConfigError("Only questions can be edited.")
            old = [image for i, image in enumerate(message.images) if kept is None or i in kept]
            self._begin(self.conversation.add(message.parent, "user", text, (*old, *images)))

    def show(self, message_id: str) -> None:
        """Show another branch."""
        with self.lock:
            self._require_idle()
            self.conversation.show(self.conversation.get(message_id))
        self._listener.changed(self)

    def begin_anew(self) -> None:
        """Show an empty conversation; the earlier ones stay, as branches."""
        with self.lock:
            self._require_idle()
            self.conversation.begin_anew()
        self._listener.changed(self)

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change how to ask, from the next question on."""
        with self.lock:
            self.options = self.options.changed(changes)
        self._listener.changed(self)

    def allow(self, is_allowed: bool) -> None:
        """Run the calls that wait for it, or tell the model that they are not allowed. Then the model goes on."""
        with self.lock:
            self._require_idle()
            message = self.conversation.last()
            if message.status != "waiting":
                raise ConfigError("No call waits to be allowed.")
            if not is_allowed:
                _refuse(message)
            message.status = "done"
            self._start(message, self._go_on(message))

    def stop(self) -> None:
        """End the answer that is being made, also before its first token. Does nothing where there is none."""
        with self.lock:
            if self.is_busy and self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until no answer is being made and the last one is shown; whether that is so."""
        return self._is_told.wait(timeout_s)

    def _require_idle(self) -> None:
        if self.is_busy:
            raise ConfigError("An answer is being made. Stop it first, or wait for its end.")

    def _refuse_waiting(self, message: Message) -> None:
        """Somebody who asks on instead of allowing a call does not allow it."""
        if message.status == "waiting":
            _refuse(message)
            message.status = "done"

    def _begin(self, question: Message) -> None:
        """Start an answer to a message. The lock is held."""
        answer = self._new_answer(question)
        self._start(answer, self._answer(answer))

    def _new_answer(self, question: Message) -> Message:
        answer = self.conversation.add(question, "assistant")
        answer.status, answer.model = "streaming", self.options.model
        return answer

    def _start(self, message: Message, work: Any) -> None:
        self._is_busy = True
        self._is_told.clear()
        loop = self._loop = asyncio.new_event_loop()
        self._task = loop.create_task(work)
        threading.Thread(target=self._run, args=(loop, self._task), name="llmapi_kit chat answer", daemon=True).start()

    def _run(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        self._listener.changed(self)
        try:
            # Not asyncio.run, which nest_asyncio may have replaced
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            with self.lock:
                self._close_open_answer()
                self._is_busy = False
            self._listener.changed(self)
            with self.lock:
                if self._task is task:  # or the next answer has begun already
                    self._is_told.set()
            loop.close()

    def _close_open_answer(self) -> None:
        """An answer that was stopped before it began has no other end than this."""
        last = self.conversation.last()
        if last.status == "streaming":
            last.status = "stopped"

    async def _go_on(self, message: Message) -> None:
        """Run what was allowed, and let the model go on."""
        try:
            await self._run_calls(message)
        except asyncio.CancelledError:
            _end_calls(message)
            raise
        with self.lock:
            answer = self._new_answer(message)
        await self._answer(answer)

    async def _answer(self, answer: Message) -> None:
        """Stream answers and run calls until the model is done, or somebody has to allow a call."""
        try:
            for _ in range(MAX_ROUNDS):
                await self._stream(answer)
                if not answer.tool_calls:
                    return
                if self.run_tools == "ask" or not self.functions:
                    answer.status = "waiting"
                    return
                await self._run_calls(answer)
                with self.lock:
                    answer = self._new_answer(answer)
            answer.status = "failed"
            answer.error = f"The model called functions {MAX_ROUNDS} times and did not answer. Ask in another way."
        except asyncio.CancelledError:
            answer.status = "stopped"
            _end_calls(answer)
        except Exception as exc:
            answer.status, answer.error = "failed", explain(exc)

    async def _stream(self, answer: Message) -> None:
        """One answer, from the request to its last token."""
        self._listener.changed(self)
        request = ChatRequest(
            model=answer.model or (await asyncio.to_thread(self.backend.models))[0].name,
            messages=self.conversation.to_openai(answer.parent or answer, self.options.system),
            sampling=self.options.sampling(),
            tools=[function.definition() for function in self.functions.values()],
        )
        answer.model = request.model
        began, first = time.monotonic(), 0.0
        flusher = asyncio.ensure_future(self._flush(answer))
        stream = self.backend.stream(request)
        try:
            async for event in stream:
                first = first or time.monotonic()
                if isinstance(event, Finished):
                    _finish(answer, event, ttft_s=first - began, rest_s=time.monotonic() - first)
                else:
                    _grow(answer, event)
        except BaseException:
            answer.tool_calls.clear()  # half a call can't be made
            raise
        finally:
            flusher.cancel()
            await stream.aclose()

    async def _flush(self, answer: Message) -> None:
        """Tell the listener what has grown, at once for the first piece and then thirty times a second."""
        told = (0, 0)
        while True:
            size = (len(answer.content), len(answer.reasoning))
            if size != told:
                told = size
                self._listener.grew(self, answer)
            await asyncio.sleep(FLUSH_EVERY_S if any(told) else 0.005)

    async def _run_calls(self, message: Message) -> None:
        for call in message.tool_calls:
            if call.status == "waiting":
                await self._run_call(call)

    async def _run_call(self, call: ToolCall) -> None:
        call.status = "running"
        self._listener.changed(self)
        try:
            if call.name not in self.functions:
                there = ", ".join(self.functions) or "none"
                raise ValueError(f"there is no function {call.name!r}; there is {there}")
            call.result = await self.functions[call.name].call(call.arguments)
            call.status = "done"
        except Exception as exc:
            call.result, call.status = f"Error: {exc}", "failed"
        self._listener.changed(self)


def _refuse(message: Message) -> None:
    for call in message.tool_calls:
        if call.status == "waiting":
            call.status, call.result = "refused", REFUSED


def _end_calls(message: Message) -> None:
    """Every call needs a result, or no model takes the conversation any more."""
    for call in message.tool_calls:
        if call.status in ("waiting", "running"):
            call.status, call.result = "failed", STOPPED


def _grow(answer: Message, delta: Delta) -> None:
    answer.content += delta.text
    answer.reasoning += delta.reasoning
    answer.num_completion_tokens += delta.num_tokens
    for piece in delta.tool_calls:
        _grow_call(answer.tool_calls, piece)


def _grow_call(calls: list[ToolCall], piece: ToolCallDelta) -> None:
    while len(calls) <= piece.index:
        calls.append(ToolCall(id=f"call_{random_hex(8)}"))
    call = calls[piece.index]
    call.id = piece.id or call.id
    call.name = piece.name or call.name
    call.arguments += piece.arguments


def _finish(answer: Message, end: Finished, *, ttft_s: float, rest_s: float) -> None:
    answer.status, answer.finish_reason = "done", end.reason
    answer.num_prompt_tokens = end.num_prompt_tokens
    answer.num_completion_tokens = end.num_completion_tokens or answer.num_completion_tokens
    answer.ttft_s = ttft_s
    if rest_s > 0 and answer.num_completion_tokens > 1:
        answer.tokens_per_s = (answer.num_completion_tokens - 1) / rest_s
