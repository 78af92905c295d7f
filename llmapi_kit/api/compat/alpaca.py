"""The Alpaca demo's chat: messages whose text stands under `message`, answered with the whole conversation.

It shares POST /v1/chat/completions with OpenAI's API and is told apart by the messages: a plain string, or at least
one that has `message`. All else is OpenAI's, in a smaller choice; the demo's completions and embeddings are answered by
OpenAI's endpoints as they are. See the setting `instruction_template` for the former.

Source: the HTTP demo of the Chinese LLaMA and Alpaca models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.chat_body import ChatBody
from llmapi_kit.api.openai.generation import start
from llmapi_kit.api.openai.request_body import DecodingBody, StrictModel
from llmapi_kit.api.openapi import Sent
from llmapi_kit.api.routes import read_body
from llmapi_kit.api.sse import while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.api.variants import Variant
from llmapi_kit.errors import UnsupportedFieldError

PATH = "/v1/chat/completions"


class AlpacaMessage(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    message: str

    @model_validator(mode="before")
    @classmethod
    def _refuse_content(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("content") is not None:
            raise ValueError(
                "it has content, and a message of this conversation has message; use one of the two in all"
            )
        return value


def _as_list(messages: object) -> object:
    """A text is the user's only message."""
    return [{"role": "user", "message": messages}] if isinstance(messages, str) else messages


class AlpacaChatBody(DecodingBody):
    """Body of POST /v1/chat/completions, as the Alpaca demo's clients send it."""

    messages: Annotated[
        list[AlpacaMessage],
        BeforeValidator(_as_list, json_schema_input_type=str | list[AlpacaMessage]),
        Field(min_length=1, description="A conversation, oldest first; a text is the user's only message."),
    ]
    stream: bool | None = Field(None, description="Only false: the answer holds the whole conversation.")

    def chat(self) -> ChatBody:
        """The same request in OpenAI's words, checked.

        Raises:
            InvalidRequestError: it names the field.
        """
        self.refuse_unsupported()
        if self.stream:
            raise UnsupportedFieldError(
                "stream=true does not go with messages that have message: the answer is the whole conversation. Send "
                "content in place of message for a stream.",
                param="stream",
            )
        messages = [{"role": message.role, "content": message.message} for message in self.messages]
        body = ChatBody(**{**self.model_dump(exclude={"messages", "stream"}), "messages": messages})
        body.check()
        return body


class ConversationMessage(Sent):
    """A message of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ConversationChoice(Sent):
    """A message and its place in the conversation."""

    index: int
    message: ConversationMessage


class Conversation(Sent):
    """The whole conversation, the new answer last."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    choices: list[ConversationChoice]


def is_alpaca_chat(body: Any) -> bool:
    """Whether a body for /v1/chat/completions is meant for this API."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if isinstance(messages, list):
        return any(isinstance(message, dict) and message.get("message") is not None for message in messages)
    return isinstance(messages, str)


async def alpaca_chat(request: Request) -> Response:
    """Answer a conversation with the whole of it."""
    body = await read_body(request, AlpacaChatBody)
    state = state_of(request)
    chat = body.chat()
    engine = await state.catalog.find(body.model)
    ask = chat.request(engine.info.defaults, state.key_check.key_id)
    generation = await start(state, engine, [ask], "chatcmpl-")
    (answer,) = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    said = [*body.messages, AlpacaMessage(role="assistant", message=answer.text)]
    return JSONResponse(
        {
            "id": generation.id,
            "object": "chat.completion",
            "created": generation.created,
            "model": generation.model,
            "choices": [
                {"index": index, "message": {"role": each.role, "content": each.message}}
                for index, each in enumerate(said)
            ],
        }
    )


VARIANTS = (Variant(PATH, is_alpaca_chat, alpaca_chat, AlpacaChatBody, Conversation),)
