"""The conversation that a request goes on with: what was stored before, what is said now, and what fits the context.

Source: OpenAI API reference, "Responses": previous_response_id, item references, truncation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmapi_kit.api.openai.conversation_builder import ConversationBuilder
from llmapi_kit.api.responses.body import QuestionBody
from llmapi_kit.api.responses.items import InputItem, listed, tell
from llmapi_kit.api.responses.response import RESPONSE_PREFIX, UNFINISHED
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from llmapi_kit.store.responses import ResponseStore  # it brings SQLAlchemy

# An item is named after its response; those of an input have an i before their number.
ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{24})(i?[0-9a-f]{4})")


class Question:
    """What a request asks, with all that it refers to.

    Args:
        body: of the request, checked.
        items: its own input, without references.
        past: what was said in the responses before, as items.
    """

    def __init__(self, body: QuestionBody, items: Sequence[InputItem], past: Sequence[InputItem]) -> None:
        self._body = body
        self._items = items
        self._past = past

    def messages(self) -> list[dict[str, Any]]:
        """The conversation in the engine's words."""
        builder = ConversationBuilder()
        if self._body.instructions:
            builder.say("system", self._body.instructions)
        tell(builder, self._past)
        tell(builder, self._items)
        messages = builder.messages
        if not messages:
            raise InvalidRequestError("input has no items; there is nothing to answer.", param="input")
        return messages

    def listed(self, response_id: str) -> list[dict[str, Any]]:
        """Its own input as it is stored with the response that answers it."""
        name = response_id.removeprefix(RESPONSE_PREFIX)
        return [listed(item, f"{_prefix(item)}_{name}i{index:04x}") for index, item in enumerate(self._items)]


async def read_question(store: ResponseStore, owner: str, body: QuestionBody) -> Question:
    """What a request asks.

    Raises:
        NotFoundError: it refers to what is not stored.
        StoreError: the database failed.
    """
    items = [await _resolved(store, owner, item, f"input.{index}") for index, item in enumerate(body.items)]
    past = await _past(store, owner, body.previous_response_id) if body.previous_response_id else []
    return Question(body, items, past)


async def truncated(engine: Engine, ask: GenerationRequest) -> GenerationRequest:
    """The request without the oldest messages that do not fit the context; what the system says first stays.

    One whose last message alone does not fit stays as it is, and is refused by its engine.
    """
    room = engine.info.context_length - (ask.sampling.max_tokens or 1)
    if not engine.info.context_length or await _fits(engine, ask, room):
        return ask
    messages = list(ask.messages or ())
    num_first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    # Not between a call and its result
    starts = [i for i in range(num_first + 1, len(messages)) if messages[i]["role"] != "tool"]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        shorter = replace(ask, messages=messages[:num_first] + messages[starts[middle] :])
        low, high = (low, middle) if await _fits(engine, shorter, room) else (middle + 1, high)
    return ask if low == len(starts) else replace(ask, messages=messages[:num_first] + messages[starts[low] :])


async def _fits(engine: Engine, ask: GenerationRequest, room: int) -> bool:
    return len(await engine.tokenize_chat(ask)) <= room


async def _past(store: ResponseStore, owner: str, response_id: str) -> list[InputItem]:
    chain, missing = await store.chain(owner, response_id)
    if missing:
        before = "" if missing == response_id else f", which {response_id} goes on after,"
        raise NotFoundError(
            f"The response {missing[:80]!r}{before} is not there. It was made with store=false or with another key, it "
            "was deleted, or it is older than what the server keeps.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    items = []
    for stored in chain:
        response = stored.response
        if response["status"] in UNFINISHED:
            raise InvalidRequestError(
                f"The response {stored.id} is {response['status']}; wait for its end before you go on after it.",
                param="previous_response_id",
            )
        items += [*stored.items, *response["output"]]
    return [InputItem.model_validate(item) for item in items]


async def _resolved(store: ResponseStore, owner: str, item: InputItem, path: str) -> InputItem:
    """An item in place of a reference to it."""
    if item.kind != "item_reference":
        return item
    found = await _find(store, owner, item.id or "")
    if found is None:
        raise NotFoundError(
            f"{path} refers to the item {(item.id or '')[:80]!r}, which is not there. Send the item itself, or store "
            "the response that it is of.",
            param=path,
            code="item_not_found",
        )
    return InputItem.model_validate(found)


async def _find(store: ResponseStore, owner: str, item_id: str) -> Mapping[str, Any] | None:
    named = ITEM_ID.fullmatch(item_id)
    stored = await store.get(owner, f"{RESPONSE_PREFIX}{named[1]}") if named else None
    if stored is None:
        return None
    return next((item for item in (*stored.items, *stored.response["output"]) if item["id"] == item_id), None)


def _prefix(item: InputItem) -> str:
    prefixes = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
    return prefixes[item.kind]
