"""GET /v1/usage: what the caller's key used, by day and model.

Counts outlive the server that made them. A day is one in UTC.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request

from llmapi_kit.api.openapi import Sent, answers
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.config import DAY_S
from llmapi_kit.errors import InvalidRequestError

DEFAULT_DAYS = 30
MAX_DAYS = 366
FIRST_YEAR = 1970

router = APIRouter(route_class=KeyedRoute, tags=["usage"])


class DayUsage(Sent):
    """What was used of one model on one day."""

    object: Literal["usage"]
    date: str = Field(description="The day, in UTC.", examples=["2026-11-30"])
    model: str = Field(description="That answered.")
    requests: int = Field(description="Accepted by the model, however they ended.")
    failed: int = Field(description="Of these, ended in an error.")
    cancelled: int = Field(description="Of these, stopped before their end, as the client left.")
    prompt_tokens: int = Field(description="Tokens of the prompts.")
    cached_tokens: int = Field(description="Of these, not computed again.")
    completion_tokens: int = Field(description="Tokens made.")
    embedding_tokens: int = Field(description="Tokens embedded.")
    images: int = Field(description="Pictures made.")


class UsageList(Sent):
    """What a key used."""

    object: Literal["list"]
    start: str = Field(description="The first day.")
    end: str = Field(description="The last day.")
    data: list[DayUsage] = Field(description="The oldest first; a day and model without requests is left out.")


@router.get("/v1/usage", summary="What this key used", response_model=None, responses=answers(UsageList))
async def read_usage(
    request: Request,
    start: Annotated[date | None, Query(description=f"The first day; {DEFAULT_DAYS} days back if left out.")] = None,
    end: Annotated[date | None, Query(description="The last day; today if left out.")] = None,
) -> dict[str, Any]:
    """Requests and tokens of the key that asks, by day and model, from `start` to `end`, both included."""
    state = state_of(request)
    unknown = sorted(set(request.query_params) - {"start", "end"})
    if unknown:
        raise InvalidRequestError(
            f"The query has {unknown[0][:80]!r}, which is not known here; there are start and end.",
            param=unknown[0][:80],
        )
    last = end or datetime.now(timezone.utc).date()
    if last.year < FIRST_YEAR:
        raise InvalidRequestError(f"end is {last}; days from {FIRST_YEAR} on are known here.", param="end")
    first = start or last - timedelta(days=DEFAULT_DAYS - 1)
    num_days = (last - first).days + 1
    if num_days < 1:
        raise InvalidRequestError(f"start is {first}, which is after end, {last}.", param="start")
    if num_days > MAX_DAYS:
        raise InvalidRequestError(
            f"start to end are {num_days} days; at most {MAX_DAYS} are answered at once.", param="start"
        )
    used = await state.store.usage.read(state.key_check.key_id, _begin(first), _begin(last) + DAY_S)
    data = [{"object": "usage", "date": each.date, "model": each.model, **asdict(each.counts)} for each in used]
    return {"object": "list", "start": str(first), "end": str(last), "data": data}


def _begin(day: date) -> float:
    """The Unix time at which a day begins in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()
