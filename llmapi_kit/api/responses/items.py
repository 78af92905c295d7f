"""Items of a conversation: what clients send of them, and the conversation they make.

Source: OpenAI API reference, "Responses": input items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openai.conversation_builder import (
    Content,
    ConversationBuilder,
    content_of,
    image_part,
    text_part,
)
from llmapi_kit.api.openai.packed_reasoning import unpacked
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.responses.tools import offered_name
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError

# By type, the fields that such an item needs, and those it may have besides.
ITEM_FIELDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "message": (("role", "content"), ("phase",)),
    "function_call": (("call_id", "name", "arguments"), ("namespace",)),
    "function_call_output": (("call_id", "output"), ("name", "namespace")),
    "reasoning": ((), ("summary", "content", "encrypted_content")),
    "item_reference": (("id",), ()),
}
TEXT_PARTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
IMAGE_PART = "input_image"


# Of an item, the fields that are listed as they were sent.
LISTED = {"role", "phase", "call_id", "name", "namespace", "arguments", "summary"}


class ItemPart(StrictModel):
    """A part of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = Field(None, description="Of a part of type refusal.")
    image_url: str | None = Field(
        None, description="Of a part of type input_image, for models that see: a data: URL, or one of a listed host."
    )
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="Of a picture; low: at most 512 pixels a side, and no tiles where the model can do without."
    )


class InputItem(StrictModel):
    """One item of a conversation."""

    type: str | None = Field(
        None,
        description="message, function_call, function_call_output, reasoning or item_reference; a message if left out.",
    )
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ItemPart] | None = None
    phase: Literal["commentary", "final_answer"] | None = Field(None, description="Of the assistant; a label.")
    call_id: str | None = Field(None, description="Of a call, and of its output.")
    name: str | None = Field(None, description="Of the function that is called.")
    namespace: str | None = Field(None, description="Of the function that is called, where it has one.")
    arguments: str | None = Field(None, description="Of a call: a JSON object, as text.")
    output: str | list[ItemPart] | None = Field(None, description="Of a call: its result.")
    summary: list[ItemPart] | None = Field(None, description="Of reasoning.")
    encrypted_content: str | None = Field(None, description="Of reasoning: as it came.")

    @property
    def kind(self) -> str:
        """Its type; some clients leave that of a message out."""
        return self.type or ("item_reference" if self.id is not None and self.role is None else "message")


def check_item(item: InputItem, path: str) -> None:
    """Raise for an item that can't be, or has a field that its type has not.

    Raises:
        InvalidRequestError: it names the field.
    """
    if item.kind not in ITEM_FIELDS:
        raise UnsupportedFieldError(
            f"{path} is of type {item.kind[:40]!r}; this server takes {', '.join(ITEM_FIELDS)}. It runs no tools "
            "itself, so there are no calls of such.",
            param=f"{path}.type",
        )
    needed, others = ITEM_FIELDS[item.kind]
    for name in needed:
        if getattr(item, name) is None:
            raise InvalidRequestError(f"{path} is of type {item.kind} and has no {name}.", param=f"{path}.{name}")
    for name in InputItem.model_fields:
        if name not in ("type", "id", "status", *needed, *others) and getattr(item, name) is not None:
            raise InvalidRequestError(
                f"{path} is of type {item.kind}, which has no field {name}.", param=f"{path}.{name}"
            )
    for name in ("content", "output", "summary"):
        parts = getattr(item, name)
        may_show = name == "output" or (name == "content" and item.role == "user")
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            _check_part(part, f"{path}.{name}.{index}", may_show=may_show)


def _check_part(part: ItemPart, path: str, *, may_show: bool) -> None:
    kinds = (*TEXT_PARTS, IMAGE_PART) if may_show else TEXT_PARTS
    if part.type not in kinds:
        raise UnsupportedFieldError(
            f"{path} is of type {part.type[:40]!r}; here stand parts of the type {', '.join(kinds)}.",
            param=f"{path}.type",
        )
    name = {"refusal": "refusal", IMAGE_PART: "image_url"}.get(part.type, "text")
    if getattr(part, name) is None:
        raise InvalidRequestError(f"{path} has no {name}.", param=f"{path}.{name}")


def tell(builder: ConversationBuilder, items: Iterable[InputItem]) -> None:
    """Add items to a conversation; references have been resolved."""
    for item in items:
        if item.kind == "message":
            builder.say(item.role or "user", _content(item.content))
        elif item.kind == "function_call":
            builder.call(item.call_id or "", offered_name(item.namespace, item.name or ""), item.arguments or "")
        elif item.kind == "function_call_output":
            builder.result(item.call_id or "", _content(item.output))
        elif thought := reasoning_of(item):
            builder.think(thought)


def _content(content: str | Sequence[ItemPart] | None) -> Content:
    if content is None or isinstance(content, str):
        return content or ""
    return content_of(
        [
            image_part(part.image_url, part.detail) if part.image_url else text_part(part.text or part.refusal or "")
            for part in content
        ]
    )


def text_of(content: str | Sequence[ItemPart] | None) -> str:
    """Text in place of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text or part.refusal or "" for part in content)


def reasoning_of(item: InputItem) -> str:
    """What a reasoning item says: in the clear, or as this server packed it, or in short."""
    return text_of(item.content) or unpacked(item.encrypted_content or "") or text_of(item.summary)


def listed(item: InputItem, item_id: str) -> dict[str, Any]:
    """An item as it is kept and listed: with an id and a status, its content in parts."""
    given = item.model_dump(exclude_none=True, include=LISTED)
    kept: dict[str, Any] = {"id": item_id, "type": item.kind, **given}
    if item.kind == "reasoning":
        kept.setdefault("summary", [])
        if item.encrypted_content is not None:
            kept["encrypted_content"] = item.encrypted_content
    else:
        kept["status"] = item.status or "completed"
    if item.output is not None:
        kept["output"] = (
            item.output if isinstance(item.output, str) else [_part(part, "input_text") for part in item.output]
        )
    if item.content is not None:
        kind = {"assistant": "output_text", None: "reasoning_text"}.get(item.role, "input_text")
        parts = (
            [ItemPart.model_validate({"type": kind, "text": item.content})]
            if isinstance(item.content, str)
            else item.content
        )
        kept["content"] = [_part(part, kind) for part in parts]
    return kept


def _part(part: ItemPart, kind: str) -> dict[str, Any]:
    if part.type == IMAGE_PART:
        return {"type": IMAGE_PART, "image_url": part.image_url, "detail": part.detail or "auto"}
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.refusal}
    listed_part: dict[str, Any] = {"type": kind, "text": part.text}
    if kind == "output_text":
        listed_part["annotations"] = []
    return listed_part
