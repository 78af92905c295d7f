"""Stored responses: retrieve, follow, cancel, delete, and the items they answered.

A response is kept in the server's database unless it was made with ``store`` false, and is seen with the same API key
only, until it is deleted, expires, or newer ones of that key need the room.

Source: OpenAI API reference, "Responses": retrieve, delete, cancel, input items.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openapi import Error, answers
from llmapi_kit.api.owner import owner_of
from llmapi_kit.api.responses.body import ENCRYPTED, INCLUDES_NOTHING, LOGPROBS
from llmapi_kit.api.responses.create import follow, runs_of
from llmapi_kit.api.responses.events import EventWriter
from llmapi_kit.api.responses.response import UNFINISHED, Output
from llmapi_kit.api.responses.runs import ResponseRun, unpack
from llmapi_kit.api.responses.schemas import ModelResponse, ResponseDeleted, ResponseEvent, ResponseItemList
from llmapi_kit.api.responses.tools import offered_name
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import EventStream, LastFrame
from llmapi_kit.api.state import state_of
from llmapi_kit.errors import InvalidRequestError, NotFoundError, UnsupportedFieldError
from llmapi_kit.store.stored_response import StoredResponse

router = APIRouter(route_class=KeyedRoute, prefix="/v1/responses", tags=["responses"])

# How much longer than its time limit a response in the background may take to be stored
GRACE_S = 60
NOTHING_TO_CANCEL: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "It was not made in the background, or has ended."}
}
Include = Annotated[list[str] | None, Query(description="What else to send; of what this server has, nothing.")]


@router.get(
    "/{response_id}",
    summary="Retrieve a response",
    response_model=None,
    responses=answers(ModelResponse, event=ResponseEvent),
)
async def retrieve_response(
    response_id: str,
    request: Request,
    include: Include = None,
    stream: Annotated[bool, Query(description="Send its events, also those that are still to come.")] = False,
    starting_after: Annotated[
        int | None, Query(description="With stream: the number of the last event you have.")
    ] = None,
    include_obfuscation: Annotated[bool, Query(description="Only false: events are not padded.")] = False,
) -> Response:
    """One response, as it is now, or as its events."""
    _check_query(request, ("include", "include[]", "stream", "starting_after", "include_obfuscation"))
    if include_obfuscation:
        raise UnsupportedFieldError("include_obfuscation can only be false.", param="include_obfuscation")
    if starting_after is not None and not stream:
        raise InvalidRequestError("starting_after goes with stream=true only.", param="starting_after")
    after = -1 if starting_after is None else starting_after
    if after < -1:
        raise InvalidRequestError(f"starting_after is {after}; events count from 0.", param="starting_after")
    found = await _find(request, response_id)
    if isinstance(found, ResponseRun):
        return follow(found, state_of(request), after=after) if stream else JSONResponse(found.response)
    response = _as_it_is(request, found)
    if not stream:
        return JSONResponse(response)
    frames = _frames(found, response)[after + 1 :]
    return EventStream(_sent(b"".join(frames)), state_of(request).settings, on_end=_nothing)


@router.delete(
    "/{response_id}",
    summary="Delete a response",
    response_model=None,
    responses=answers(ResponseDeleted),
)
async def delete_response(response_id: str, request: Request) -> dict[str, Any]:
    """Forget one response and its input; one that is made in the background is given up."""
    if (run := runs_of(request).find(owner_of(request), response_id)) is not None:
        await run.cancel()
    if not await state_of(request).store.responses.delete(owner_of(request), response_id):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post(
    "/{response_id}/cancel",
    summary="Cancel a response in the background",
    response_model=None,
    responses=answers(ModelResponse) | NOTHING_TO_CANCEL,
)
async def cancel_response(response_id: str, request: Request) -> Response:
    """Give up a response that is made in the background."""
    found = await _find(request, response_id)
    if isinstance(found, ResponseRun):
        await found.cancel()
        response = dict(found.response)
    else:
        response = _as_it_is(request, found)
    if not response["background"]:
        raise InvalidRequestError(f"{response_id} was not made with background=true, so there is nothing to cancel.")
    if response["status"] != "cancelled":
        raise InvalidRequestError(f"{response_id} is {response['status']} already, so there is nothing to cancel.")
    return JSONResponse(response)


@router.get(
    "/{response_id}/input_items",
    summary="List the items a response answers",
    response_model=None,
    responses=answers(ResponseItemList),
)
async def list_input_items(
    response_id: str,
    request: Request,
    after: Annotated[str, Query(description="The last id of the page before.")] = "",
    limit: Annotated[int, Query(description="How many at most.", ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="asc: the oldest first.")] = "desc",
    include: Include = None,
) -> Response:
    """The items of a response's own input, a page at a time; those before are in the responses before."""
    _check_query(request, ("after", "limit", "order", "include", "include[]"))
    stored = await state_of(request).store.responses.get(owner_of(request), response_id)
    if stored is None:
        raise _not_found(response_id)
    items = stored.items if order == "asc" else stored.items[::-1]
    if after:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidRequestError(f"after is {after[:80]!r}, which is no item of {response_id}.", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(items) > limit})


@router.post("/{name}", include_in_schema=False)
async def no_such_route(name: str) -> None:
    """What OpenAI has beside these, such as compact."""
    raise NotFoundError(f"There is no POST /v1/responses/{name[:80]} here. The API is under /v1, e.g. /v1/responses.")


async def _find(request: Request, response_id: str) -> ResponseRun | StoredResponse:
    run = runs_of(request).find(owner_of(request), response_id)
    if run is not None:
        return run
    stored = await state_of(request).store.responses.get(owner_of(request), response_id)
    if stored is None:
        raise _not_found(response_id)
    return stored


def _as_it_is(request: Request, stored: StoredResponse) -> dict[str, Any]:
    """A stored response; one that no server can be working on any more has failed."""
    response = stored.response
    limit_s = state_of(request).settings.total_timeout_s + GRACE_S
    if response["status"] in UNFINISHED and time.time() - response["created_at"] > limit_s:
        message = "The server that worked on it ended before it was complete."
        response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
    return response


def _frames(stored: StoredResponse, response: dict[str, Any]) -> list[bytes]:
    """The events of a stored response: as they were sent, or as they would have been."""
    if response["status"] == stored.response["status"] and stored.events:
        return unpack(stored.events)
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None, "error": None}
    is_packed = any("encrypted_content" in item for item in response["output"])
    calls = [item for item in response["output"] if "namespace" in item]
    names = {offered_name(call["namespace"], call["name"]): (call["namespace"], call["name"]) for call in calls}
    writer = EventWriter(begun, Output(stored.id, (ENCRYPTED,) if is_packed else (), names))
    writer.replay(response)
    return writer.frames


def _check_query(request: Request, names: tuple[str, ...]) -> None:
    for name, value in request.query_params.multi_items():
        if name not in names:
            raise InvalidRequestError(
                f"The query has {name[:80]!r}, which is not known here; there are {', '.join(names)}.", param=name[:80]
            )
        if name.startswith("include") and name != "include_obfuscation" and value not in INCLUDES_NOTHING:
            says = "was decided when the response was made" if value in (LOGPROBS, ENCRYPTED) else "is not known here"
            raise UnsupportedFieldError(f"include has {value[:80]!r}, which {says}.", param="include")


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no stored response {response_id[:80]!r}. It was made with store=false or with another key, it was "
        "deleted, or it is older than what the server keeps.",
        param="response_id",
        code="response_not_found",
    )


async def _sent(frames: bytes) -> AsyncGenerator[bytes, None]:
    yield LastFrame(frames)


async def _nothing() -> None:
    pass
