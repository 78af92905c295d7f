"""POST /v1/responses: answer whole, as a stream of events, or in the background; and count an input's tokens.

A thin way to the same engines as chat completions: items become messages, and what comes back becomes items.

Source: OpenAI API reference, "Responses"; what its Python SDK needs stands in the tests.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.answer_collector import ChatAnswer
from llmapi_kit.api.openai.generation import Generation, start
from llmapi_kit.api.openai.renamed_error import renaming
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.owner import owner_of
from llmapi_kit.api.responses.body import NAMES, QuestionBody, ResponsesBody
from llmapi_kit.api.responses.conversation import Question, read_question, truncated
from llmapi_kit.api.responses.events import EventWriter, ResponseStreamFormat
from llmapi_kit.api.responses.response import RESPONSE_PREFIX, Output, new_response
from llmapi_kit.api.responses.runs import ResponseRun, ResponseRuns, pack
from llmapi_kit.api.responses.schemas import InputTokens, ModelResponse, ResponseEvent
from llmapi_kit.api.responses.tools import namespaced_names
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.store.stored_completion import encode
from llmapi_kit.store.stored_response import StoredResponse
from llmapi_kit.types import Delta

router = APIRouter(route_class=KeyedRoute, prefix="/v1/responses", tags=["responses"])


@router.post(
    "",
    summary="Answer an input",
    response_model=None,
    responses=answers(ModelResponse, event=ResponseEvent),
    openapi_extra=examples(
        A_question={"input": "What is the capital of France?"},
        A_stream={"input": "Hello!", "stream": True, "max_output_tokens": 50},
    ),
)
async def create_response(body: ResponsesBody, request: Request) -> Response:
    """Answer an input, at once, as server-sent events, or in the background."""
    state, owner = state_of(request), owner_of(request)
    body.check()
    is_stored = _is_stored(state, body)
    engine = await state.catalog.find(body.model)
    question = await read_question(state.store.responses, owner, body)
    with renaming(NAMES):
        ask = body.request(question.messages(), engine.info.defaults, owner)
        if body.truncation == "auto":
            ask = await truncated(engine, ask)
        generation = await start(state, engine, [ask], RESPONSE_PREFIX)
    answer = Answer(state, owner, body, question, generation, is_stored=is_stored)
    if body.background:
        return await answer.in_background(runs_of(request))
    if body.stream:
        return EventStream(answer.stream(), state.settings, on_end=generation.close)
    response = await while_connected(request.receive, answer.whole(), on_end=generation.close)
    return JSONResponse(response)


@router.post(
    "/input_tokens",
    summary="Count the tokens of an input",
    response_model=None,
    responses=answers(InputTokens),
    openapi_extra=examples(A_question={"input": "What is the capital of France?"}),
)
async def count_input_tokens(body: QuestionBody, request: Request) -> dict[str, Any]:
    """How many tokens the prompt of a response would have."""
    state, owner = state_of(request), owner_of(request)
    body.check()
    engine = await state.catalog.find(body.model)
    question = await read_question(state.store.responses, owner, body)
    with renaming(NAMES):
        ask = body.request(question.messages(), engine.info.defaults, owner)
        if body.truncation == "auto":
            ask = await truncated(engine, ask)
        ids = await engine.tokenize_chat(ask)
    return {"object": "response.input_tokens", "input_tokens": len(ids)}


def runs_of(request: Request) -> ResponseRuns:
    """The responses that this server makes in the background."""
    runs: ResponseRuns = request.app.state.response_runs
    return runs


class Answer:
    """A response that its engine has accepted, in one of three ways to give it.

    Args:
        state: of the server.
        owner: the id of the key that asks.
        body: of the request, checked.
        question: what it asks.
        generation: accepted.
        is_stored: whether it is kept.
    """

    def __init__(
        self,
        state: ApiState,
        owner: str,
        body: ResponsesBody,
        question: Question,
        generation: Generation,
        *,
        is_stored: bool,
    ) -> None:
        self._state = state
        self._owner = owner
        self._body = body
        self._question = question
        self._generation = generation
        self._is_stored = is_stored
        response = new_response(body, generation.id, generation.model, is_stored=is_stored)
        is_silent = not (body.stream or body.background)
        output = Output(generation.id, body.include or (), namespaced_names(body.tools or ()))
        self._writer = EventWriter(response, output, is_silent=is_silent)

    async def whole(self) -> dict[str, Any]:
        """The response, when it is complete and stored."""
        async with aclosing(self._generation.follow()) as events:
            async for event in events:
                if isinstance(event, Delta):
                    self._writer.read(event)
                else:
                    self._writer.end(event)
        await self._complete()
        return self._writer.response

    def stream(self) -> Any:
        """Its events as they come."""

        async def complete(answers: list[ChatAnswer]) -> None:
            await self._complete()

        chunks = ResponseStreamFormat(self._writer, self._generation)
        return self._generation.stream(chunks, include_usage=False, on_complete=complete)

    async def in_background(self, runs: ResponseRuns) -> Response:
        """The response as it begins, or its events, while it is made whether or not its client stays."""
        self._writer.response["status"] = "queued"
        self._writer.begin()
        response = dict(self._writer.response)
        try:
            stored = self._stored()
            await self._state.store.responses.add(stored)
        except BaseException:
            await self._generation.close()
            raise
        run = ResponseRun(self._generation, self._writer, stored, self._state.store.responses)
        runs.add(self._generation.id, run)
        if self._body.stream:
            return follow(run, self._state, after=-1)
        return JSONResponse(response)

    async def _complete(self) -> None:
        self._writer.complete(self._generation.usage())
        if self._is_stored:
            await self._state.store.responses.add(self._stored())

    def _stored(self) -> StoredResponse:
        response = self._writer.response
        return StoredResponse(
            id=response["id"],
            owner=self._owner,
            body=encode(response),
            input=encode(self._question.listed(response["id"])),
            previous_id=self._body.previous_response_id or "",
            events=pack(self._writer.frames) if self._writer.frames else b"",
        )


def follow(run: ResponseRun, state: ApiState, *, after: int) -> Response:
    """The events of a response that is made in the background; it goes on when the client leaves."""

    async def nothing() -> None:
        pass

    return EventStream(run.follow(after), state.settings, on_end=nothing)


def _is_stored(state: ApiState, body: ResponsesBody) -> bool:
    """Whether a response is to be kept.

    Raises:
        UnsupportedFieldError: it is to, and this server keeps none.
    """
    if state.settings.max_stored_responses:
        return body.store is not False
    if body.store or body.background:
        param = "store" if body.store else "background"
        raise UnsupportedFieldError(
            f"This server stores no responses (its setting max_stored_responses is 0). Leave {param} out.", param=param
        )
    return False
