"""POST /v1/images/generations.

Source: OpenAI API reference, "Images".
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.request_body import RequestBody
from llmapi_kit.api.openai.response_schemas import ImageList
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.engines.base import Engine, ImageEngine
from llmapi_kit.errors import InvalidRequestError, RequestTimeoutError, UnsupportedFieldError
from llmapi_kit.types import GeneratedImage, ImageRequest

MAX_IMAGES = 10
MAX_PROMPT = 32_000
SIZE = re.compile(r"[1-9][0-9]{1,3}x[1-9][0-9]{1,3}")

router = APIRouter(route_class=KeyedRoute, tags=["images"])


class ImageBody(RequestBody):
    """Body of POST /v1/images/generations."""

    prompt: str = Field(
        description="What to show.", json_schema_extra={"minLength": 1, "maxLength": MAX_PROMPT, "pattern": "\\S"}
    )
    n: int | None = Field(
        None,
        description=f"How many pictures, 1 to {MAX_IMAGES}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_IMAGES},
    )
    size: str | None = Field(
        None,
        description="Width and height, such as 1024x1024; auto or left out, the model's own.",
        json_schema_extra={"pattern": f"^(auto|{SIZE.pattern})$"},
    )
    quality: str | None = Field(None, description="Such as hd, for models that know it; auto is the model's own.")
    style: str | None = Field(None, description="Such as vivid, for models that know it.")
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="Left out, what the model gives. A model that gives no addresses gives data: URLs."
    )
    safety_identifier: str | None = Field(None, description="As user.")

    def request(self) -> ImageRequest:
        """What the engine is asked.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        if not self.prompt.strip() or len(self.prompt) > MAX_PROMPT:
            raise InvalidRequestError(
                f"prompt has {len(self.prompt)} characters; 1 to {MAX_PROMPT:,} are allowed.", param="prompt"
            )
        if self.n is not None and not 1 <= self.n <= MAX_IMAGES:
            raise InvalidRequestError(f"n is {self.n}; it must be 1 to {MAX_IMAGES}.", param="n")
        if self.size not in (None, "auto") and not SIZE.fullmatch(self.size or ""):
            raise InvalidRequestError(
                f"size is {(self.size or '')[:40]!r}; write width and height, such as 1024x1024.", param="size"
            )
        return ImageRequest(
            prompt=self.prompt,
            n=self.n or 1,
            size=_named(self.size),
            quality=_named(self.quality),
            style=self.style or "",
            wants_url=self.response_format == "url",
        )


@router.post(
    "/v1/images/generations",
    summary="Make pictures",
    response_model=None,
    responses=answers(ImageList),
    openapi_extra=examples(A_picture={"prompt": "A lighthouse at night", "size": "512x512"}),
)
async def create_image(body: ImageBody, request: Request) -> Response:
    """Make pictures of a text, with a model that can."""
    state = state_of(request)
    body.refuse_unsupported()
    engine = await state.catalog.find(body.model)
    images = await while_connected(request.receive, make_images(state, engine, body.request()))
    data = [_entry(image, body.response_format) for image in images]
    return JSONResponse({"created": int(time.time()), "data": data})


async def make_images(state: ApiState, engine: Engine, request: ImageRequest) -> list[GeneratedImage]:
    """Pictures, within the time that a request may take.

    Raises:
        RequestError: the engine makes none, or it failed.
    """
    if "images" not in engine.info.capabilities or not isinstance(engine, ImageEngine):
        raise UnsupportedFieldError(f"The model {engine.info.id!r} makes no images.", param="model")
    limit_s = state.settings.total_timeout_s
    async with state.counting(engine.info.id, lambda: 0) as counts:
        try:
            images = await asyncio.wait_for(engine.generate_images(request), limit_s)
        except asyncio.TimeoutError as exc:
            raise RequestTimeoutError(f"The request was not complete within {limit_s:g} s, so it was stopped.") from exc
        counts.images = len(images)
        return images


def _entry(image: GeneratedImage, response_format: str | None) -> dict[str, Any]:
    encoded = base64.b64encode(image.data).decode() if image.data else None
    url = image.url or None
    if response_format == "b64_json" and encoded is None:
        raise UnsupportedFieldError(
            "This model gives addresses of pictures only; leave response_format out.", param="response_format"
        )
    if response_format == "url" and url is None:
        url, encoded = f"data:{image.media_type};base64,{encoded}", None
    entry: dict[str, Any] = {"b64_json": encoded, "url": url}
    if image.revised_prompt:
        entry["revised_prompt"] = image.revised_prompt
    return entry


def _named(value: str | None) -> str:
    """A value of one's own; nothing for the model's."""
    return "" if value in (None, "auto") else str(value)
