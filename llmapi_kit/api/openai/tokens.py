"""POST /tokenize and /detokenize, and /version: what clients of vLLM's server ask besides OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.chat_body import Message, Tool, check_message, plain_message
from llmapi_kit.api.openai.request_body import RequestBody
from llmapi_kit.api.openai.response_schemas import Detokenized, Tokenized, Version
from llmapi_kit.api.openai.tool_use import MAX_TOOLS
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.engines.base import GenerationRequest, ToolUse
from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.version import __version__

router = APIRouter(route_class=KeyedRoute, tags=["tokens"])


class TokenizeBody(RequestBody):
    """Body of POST /tokenize: a prompt, or messages."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Further variables of the chat template.")
    add_generation_prompt: bool | None = Field(None, description="Of messages; true if left out.")
    add_special_tokens: bool | None = Field(None, description="Of a prompt; true if left out.")
    return_token_strs: bool | None = Field(None, description="Also send each token's text.")


class DetokenizeBody(RequestBody):
    """Body of POST /detokenize."""

    tokens: list[int]


@router.post(
    "/tokenize",
    summary="Text or messages to token ids",
    response_model=None,
    responses=answers(Tokenized),
    openapi_extra=examples(A_text={"prompt": "The sun"}),
)
async def tokenize(body: TokenizeBody, request: Request) -> Response:
    """The token ids that a prompt, or a conversation under the chat template, becomes."""
    body.refuse_unsupported()
    engine = await state_of(request).catalog.find(body.model)
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequestError("Send either prompt or messages.", param="prompt")
    if body.messages:
        for index, message in enumerate(body.messages):
            check_message(message, f"messages.{index}")
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []]
        ask = GenerationRequest(
            messages=[plain_message(message) for message in body.messages],
            tools=ToolUse(tools) if tools else None,
            template_options=body.chat_template_kwargs or {},
            has_generation_prompt=body.add_generation_prompt is not False,
        )
        ids = await engine.tokenize_chat(ask)
    else:
        ids = await engine.tokenize(body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
    most = engine.info.context_length
    if body.return_token_strs and 0 < most < len(ids):
        raise InvalidRequestError(
            f"The prompt has {len(ids)} tokens; return_token_strs is for at most {most}, the model's context.",
            param="return_token_strs",
        )
    texts = [await engine.detokenize([token_id]) for token_id in ids] if body.return_token_strs else None
    answer = {"count": len(ids), "max_model_len": engine.info.context_length, "tokens": ids, "token_strs": texts}
    return JSONResponse(answer)  # FastAPI would look at each of a million ids


@router.post(
    "/detokenize",
    summary="Token ids to text",
    response_model=None,
    responses=answers(Detokenized),
    openapi_extra=examples(Three_tokens={"tokens": [5, 6, 7]}),
)
async def detokenize(body: DetokenizeBody, request: Request) -> dict[str, str]:
    """The text of token ids, special tokens included."""
    body.refuse_unsupported()
    engine = await state_of(request).catalog.find(body.model)
    return {"prompt": await engine.detokenize(body.tokens)}


@router.post("/version", include_in_schema=False)
@router.get("/version", summary="The kit's version", response_model=None, responses=answers(Version))
async def version() -> dict[str, str]:
    """Which version of llmapi_kit this is."""
    return {"version": __version__}
