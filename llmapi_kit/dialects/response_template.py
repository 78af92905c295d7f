"""Replies read by a response template that a tokenizer ships, with transformers' own parser.

For models whose way of writing is not known here. That parser gives a call when it is whole, so arguments do not
stream, and raises where a call is broken; then what was written comes out as text. It also keeps all text it has seen
and copies it with each piece, so its time is not linear. Families that are known here do not use it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmapi_kit.dialects.base import Json, Piece, Reasoning
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.text_stream import TextStream
from llmapi_kit.dialects.trimmed_text import TrimmedText

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
CALLS_FIELD = "tool_calls"
ANCHORS = ("open", "open_pattern", "close", "close_pattern")


class ResponseTemplateForm:
    """What a response template says of its model.

    Args:
        template: the tokenizer's ``response_template``.
        added_tokens: the vocabulary's added tokens, special or not.

    Raises:
        ValueError: transformers can't use the template.
    """

    def __init__(self, template: Json, added_tokens: Collection[str]) -> None:
        from transformers.utils.chat_parsing.response_templates import load_response_template  # an extra

        load_response_template(dict(template))
        self._template = template
        self._added_tokens = added_tokens
        self._fields: Mapping[str, Json] = template["fields"]

    @property
    def has_calls(self) -> bool:
        """Whether it reads calls."""
        return CALLS_FIELD in self._fields

    @property
    def reasoning(self) -> Reasoning | None:
        """How it marks reasoning, where it does so by fixed texts."""
        for name in REASONING_FIELDS:
            field = self._fields.get(name, {})
            opening, closing = field.get("open"), field.get("close")
            if isinstance(opening, str) and isinstance(closing, str):
                return Reasoning(opening, closing)
        return None

    @property
    def markers(self) -> tuple[str, ...]:
        """Added tokens that stand in what opens or closes a field."""
        anchors = [str(field.get(key, "")) for field in self._fields.values() for key in ANCHORS]
        bare = "\n".join(anchors).replace("\\", "")
        return tuple(token for token in self._added_tokens if token in bare)

    def parser(self, tools: Sequence[Json], *, parses_calls: bool, starts_in_reasoning: bool) -> ResponseTemplateReply:
        """A fresh parser for one answer."""
        kept = {
            name: {**f, "optional": True} for name, f in self._fields.items() if parses_calls or name != CALLS_FIELD
        }
        template = {**self._template, "fields": kept}
        prefix = self.reasoning.opening if starts_in_reasoning and self.reasoning else ""
        return ResponseTemplateReply(template, tools, prefix)


class ResponseTemplateReply:
    """See `llmapi_kit.dialects.base.ReplyParser`.

    Args:
        template: a response template without required fields.
        tools: what the request offers.
        prefix: what the prompt has opened.
    """

    def __init__(self, template: Json, tools: Sequence[Json], prefix: str) -> None:
        self._template = template
        self._tools = tools
        self._parser = self._fresh(prefix)
        self._text = TrimmedText(is_trimmed=True)
        self._thought = TrimmedText(is_trimmed=True)
        self._calls = Calls(TextStream(), {})
        self._raw: list[str] = []  # fed, and not come out yet

    @property
    def num_calls(self) -> int:
        """Calls begun so far."""
        return self._calls.num_begun

    def feed(self, text: str) -> Piece:
        """See `ReplyParser.feed`."""
        for char in text:  # one at a time, since the events of a feed that raises are lost
            self._raw.append(char)
            try:
                self._read(self._parser.feed(char))
            except (ValueError, KeyError, TypeError):
                self._give_up()
        return self._take()

    def flush(self) -> Piece:
        """See `ReplyParser.flush`."""
        try:
            self._read(self._parser.finalize()[1])
        except (ValueError, KeyError, TypeError):
            self._give_up()
        self._thought.end()
        self._text.end()
        return self._take()

    def _fresh(self, prefix: str) -> Any:
        from transformers.utils.chat_parsing import ResponseParser  # an extra

        return ResponseParser(dict(self._template), prefix=prefix, tools=[dict(tool) for tool in self._tools])

    def _give_up(self) -> None:
        """What was being read is broken: it is text, and what follows is read anew."""
        self._text.add("".join(self._raw))
        self._raw.clear()
        self._parser = self._fresh("")

    def _take(self) -> Piece:
        return Piece(self._text.take(), self._thought.take(), self._calls.take())

    def _read(self, events: Sequence[Json]) -> None:
        for event in events:
            field, kind = event["field"], event["type"]
            if field == CALLS_FIELD:
                if kind == "region_close":
                    self._call(event["value"])
            elif kind == "region_chunk":
                (self._thought if field in REASONING_FIELDS else self._text).add(event["text"])
                self._raw = list("".join(self._raw).partition(event["text"])[2])
            elif kind == "region_close" and field in REASONING_FIELDS:
                self._thought.frame()
                self._raw.clear()

    def _call(self, value: Any) -> None:
        for call in value if isinstance(value, list) else [value]:
            function = call["function"]
            arguments = function.get("arguments", {})
            self._calls.begin(str(function["name"]))
            self._calls.add(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
        self._text.frame()
        self._raw.clear()
