"""Stored chat completions: list, retrieve, update, delete, and the messages they answered.

A chat completion with `store` set is kept in the server's database and is seen with the same API key only, until it is
deleted or newer ones of that key need the room.

Source: OpenAI API reference, "Chat Completions": list, retrieve, update, delete, messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from llmapi_kit.api.openai.chat_body import ChatBody, Message, plain_message
from llmapi_kit.api.openai.metadata import MAX_PAIRS, Metadata, check_metadata
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openai.stored_schemas import (
    CompletionDeleted,
    StoredChatCompletion,
    StoredChatCompletionList,
    StoredMessageList,
)
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.errors import InvalidRequestError, NotFoundError, UnsupportedFieldError
from llmapi_kit.store.stored_completion import CompletionFilter, StoredCompletion, encode

router = APIRouter(route_class=KeyedRoute, prefix="/v1/chat/completions", tags=["stored chat completions"])

ID = re.compile(r"chatcmpl-[0-9a-f]{24}")
METADATA_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "description": "Only those with these pairs: metadata[key]=value.",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
After = Annotated[str, Query(description="The last id of the page before.")]
Limit = Annotated[int, Query(description="How many at most.", ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query(description="asc: the oldest first.")]


class MetadataBody(StrictModel):
    """Body of POST /v1/chat/completions/{completion_id}."""

    metadata: Metadata | None = Field(description="In place of what is there; null for none.")


def check_store(state: ApiState, body: ChatBody) -> None:
    """Raise if a completion is to be stored on a server that stores none."""
    if body.store and not state.settings.max_stored_completions:
        raise UnsupportedFieldError(
            "This server stores no completions (its setting max_stored_completions is 0). Leave store out.",
            param="store",
        )


async def store_completion(state: ApiState, body: ChatBody, completion: dict[str, Any]) -> None:
    """Keep a finished completion with the messages it answers."""
    messages = [_message(message, f"{completion['id']}-{index}") for index, message in enumerate(body.messages)]
    kept = {name: value for name, value in completion.items() if name != "metadata"}
    stored = StoredCompletion(
        id=completion["id"],
        owner=state.key_check.key_id,
        model=completion["model"],
        body=encode(kept),
        messages=[(message["id"], encode(message)) for message in messages],
        metadata=body.metadata or {},
    )
    await state.store.completions.add(stored)


@router.get(
    "",
    summary="List stored completions",
    response_model=None,
    responses=answers(StoredChatCompletionList),
    openapi_extra={"parameters": [METADATA_PARAMETER]},
)
async def list_chat_completions(
    request: Request,
    after: After = "",
    limit: Limit = 20,
    order: Order = "asc",
    model: Annotated[str, Query(description="Only those of this model.")] = "",
) -> Response:
    """The completions that were stored with this key, a page at a time."""
    state = state_of(request)
    metadata = _metadata_filter(request, ("after", "limit", "order", "model"))
    if after and not ID.fullmatch(after):
        raise InvalidRequestError(f"after is {after[:80]!r}, which is not the id of a completion.", param="after")
    found = await state.store.completions.page(
        CompletionFilter(state.key_check.key_id, model, metadata),
        after=after,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    return _page([(stored.id, stored.as_json()) for stored in found], limit)


@router.get(
    "/{completion_id}",
    summary="Retrieve a stored completion",
    response_model=None,
    responses=answers(StoredChatCompletion),
)
async def retrieve_chat_completion(completion_id: str, request: Request) -> Response:
    """One completion."""
    return _json((await _stored(request, completion_id)).as_json())


@router.post(
    "/{completion_id}",
    summary="Replace the metadata of a stored completion",
    response_model=None,
    responses=answers(StoredChatCompletion),
    openapi_extra=examples(A_label={"metadata": {"topic": "capitals"}}),
)
async def update_chat_completion(completion_id: str, body: MetadataBody, request: Request) -> Response:
    """Replace the metadata; nothing else of it can be changed."""
    body.refuse_unsupported()
    check_metadata(body.metadata or {})
    state = state_of(request)
    stored = await state.store.completions.update(state.key_check.key_id, completion_id, body.metadata or {})
    if stored is None:
        raise _not_found(completion_id)
    return _json(stored.as_json())


@router.delete(
    "/{completion_id}",
    summary="Delete a stored completion",
    response_model=None,
    responses=answers(CompletionDeleted),
)
async def delete_chat_completion(completion_id: str, request: Request) -> dict[str, Any]:
    """Forget one completion and its messages."""
    state = state_of(request)
    if not await state.store.completions.delete(state.key_check.key_id, completion_id):
        raise _not_found(completion_id)
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}


@router.get(
    "/{completion_id}/messages",
    summary="List the messages a stored completion answers",
    response_model=None,
    responses=answers(StoredMessageList),
)
async def list_chat_completion_messages(
    completion_id: str, request: Request, after: After = "", limit: Limit = 20, order: Order = "asc"
) -> Response:
    """The messages of the question, a page at a time; the answer itself is in the completion."""
    _metadata_filter(request, ("after", "limit", "order"), is_known=False)
    messages = list((await _stored(request, completion_id)).messages)
    if order == "desc":
        messages.reverse()
    if after:
        ids = [message_id for message_id, _ in messages]
        if after not in ids:
            raise InvalidRequestError(
                f"after is {after[:80]!r}, which is no message of {completion_id}.", param="after"
            )
        messages = messages[ids.index(after) + 1 :]
    return _page(messages, limit)


async def _stored(request: Request, completion_id: str) -> StoredCompletion:
    state = state_of(request)
    stored = await state.store.completions.get(state.key_check.key_id, completion_id)
    if stored is None:
        raise _not_found(completion_id)
    return stored


def _not_found(completion_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no stored completion {completion_id[:80]!r}. It was made without store=true or with another key, it "
        "was deleted, or it is older than what the server keeps.",
        param="completion_id",
        code="completion_not_found",
    )


def _metadata_filter(request: Request, names: Sequence[str], *, is_known: bool = True) -> dict[str, str]:
    """The pairs of ``metadata[key]=value``.

    Raises:
        InvalidRequestError: there are too many, or the query has something else, which would be ignored.
    """
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        matched = METADATA_FILTER.fullmatch(name) if is_known else None
        if matched is not None:
            pairs[matched.group(1)] = value
        elif name not in names:
            allowed = ", ".join([*names, *(["metadata[key]"] if is_known else [])])
            raise InvalidRequestError(
                f"The query has {name[:80]!r}, which is not known here; there are {allowed}.", param=name[:80]
            )
    if len(pairs) > MAX_PAIRS:
        raise InvalidRequestError(
            f"The query asks for {len(pairs)} pairs of metadata; at most {MAX_PAIRS} are allowed.", param="metadata"
        )
    return pairs


def _message(message: Message, message_id: str) -> dict[str, Any]:
    """A message as it was sent; content that came in parts is listed as such, with no content."""
    content = message.content
    parts = [{"type": p.type, p.type: p.text or p.refusal} for p in content] if isinstance(content, list) else None
    text = content if isinstance(content, str) else None
    rest = {name: value for name, value in plain_message(message).items() if name not in ("role", "content")}
    if message.refusal:
        rest["refusal"] = message.refusal
    return {"id": message_id, "role": message.role, "content": text, "content_parts": parts, **rest}


def _page(found: Sequence[tuple[str, bytes]], limit: int) -> Response:
    """A page of OpenAI's lists, of `found` and what is after it."""
    page = found[:limit]
    ends = {
        "first_id": page[0][0] if page else None,
        "last_id": page[-1][0] if page else None,
        "has_more": len(found) > limit,
    }
    data = b",".join(item for _, item in page)
    return _json(b'{"object":"list","data":[' + data + b"]," + encode(ends)[1:])


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
