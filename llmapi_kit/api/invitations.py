"""POST /invitations: an invitation's code becomes a key, once. The route is public: whoever has the code is invited."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openapi import Error, Sent, answers, examples
from llmapi_kit.api.routes import StrangersRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.errors import NotFoundError

router = APIRouter(route_class=StrangersRoute, tags=["keys"])


class InvitationBody(StrictModel):
    """Body of POST /invitations."""

    code: str = Field(description="What stands behind #invite= in the invitation's link.")


class InvitedKey(Sent):
    """The key of whoever was invited; it is sent this once."""

    api_key: str
    name: str = Field(description="Of the key.")
    models: list[str] | None = Field(description="The models it may use; null for all.")
    expires_at: int | None = Field(description="Unix time in seconds; null for never.")


@router.post(
    "/invitations",
    summary="Exchange an invitation for a key",
    response_model=None,
    responses=answers(InvitedKey) | {410: {"model": Error, "description": "It was used, withdrawn, or has expired."}},
    openapi_extra=examples(A_code={"code": "the-43-characters-behind-invite="}),
)
async def exchange_invitation(body: InvitationBody, request: Request) -> Response:
    """The key that somebody was invited to. The link works once: what is sent here is not to be had again."""
    body.refuse_unsupported()
    invitations = state_of(request).invitations
    if invitations is None:
        raise NotFoundError("There are no invitations here.", param="code", code="invitation_not_found")
    api_key, invited = await invitations.exchange(body.code)
    answer: dict[str, Any] = {
        "api_key": api_key,
        "name": invited.name,
        "models": None if invited.limits.models is None else list(invited.limits.models),
        "expires_at": None if invited.expires_at is None else int(invited.expires_at),
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})
