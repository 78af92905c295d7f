"""OpenAI-shaped messages become what a chat template expects of earlier calls and their results.

Templates differ: most want a call's arguments as an object, some as text; some choose by whether content is None;
some want the function's name on its result, or ids of one length. Knows templates by their text only.

Where a template chooses by whether content is None, transformers' `apply_chat_template` takes that away, since it drops
keys without a value; `render_jinja_template` of the same library does not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmapi_kit.dialects.base import Json
from llmapi_kit.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class HistoryForm:
    """What a template wants.

    Attributes:
        has_text_arguments: it writes a call's arguments as they are given, so they stay the text that the model
            wrote, which also keeps the cached prefix; if not, they are given as an object.
        needs_none: it takes an assistant's turn for calls only where its content is None.
        call_id_length: it refuses ids of calls of any other length; 0 where any will do.
    """

    has_text_arguments: bool = False
    needs_none: bool = False
    call_id_length: int = 0


_ARGUMENTS_AS_TEXT = re.compile(r"arguments(?:['\"]\])? is (?:not )?string")
_ARGUMENTS_BARE = re.compile(r"arguments(?:['\"]\])?\s*(?:\+|~|-?\}\})")
_ARGUMENTS_AS_OBJECT = re.compile(r"arguments(?:['\"]\])?\s*(?:\|\s*(?:tojson|items)|\.items|is mapping)")
_CALLS_WHERE_NONE = re.compile(r"['\"]assistant['\"] and message(?:\.content|\[['\"]content['\"]\]) is none")
_ID_LENGTH = re.compile(r"(?:\bid|tool_call_id['\"]?\]?)\s*\|\s*length\s*!=\s*(\d+)")


def history_form(chat_template: str) -> HistoryForm:
    """What a template wants, by what it does with arguments, content and ids."""
    writes_bare = _ARGUMENTS_BARE.search(chat_template) and not _ARGUMENTS_AS_OBJECT.search(chat_template)
    length = _ID_LENGTH.search(chat_template)
    return HistoryForm(
        has_text_arguments=bool(_ARGUMENTS_AS_TEXT.search(chat_template) or writes_bare),
        needs_none=bool(_CALLS_WHERE_NONE.search(chat_template)),
        call_id_length=int(length[1]) if length else 0,
    )


def messages_for_template(messages: Sequence[Json], form: HistoryForm | None = None) -> list[dict[str, Any]]:
    """Copies of the messages with calls and results as the template wants them; other keys stay.

    Content of text parts becomes one text, and no content an empty one.

    Raises:
        InvalidRequestError: arguments are not a JSON object, or a result belongs to no earlier call; see `param`.
    """
    form = form or HistoryForm()
    names: dict[str, str] = {}
    prepared = []
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        copy = dict(message)
        calls = copy.pop("tool_calls", None)
        copy["content"] = _text_of(copy.get("content"))
        if calls:
            copy["tool_calls"] = [_call(call, f"{where}.tool_calls.{i}", form, names) for i, call in enumerate(calls)]
            if form.needs_none and not copy["content"]:
                copy["content"] = None
        if copy.get("role") == "tool":
            _name_result(copy, where, form, names)
        prepared.append(copy)
    return prepared


def _text_of(content: Any) -> Any:
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    return content


def _call(call: Json, where: str, form: HistoryForm, names: dict[str, str]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            f"{where}.function.name is missing; only calls of functions are possible.", param=f"{where}.function.name"
        )
    copy = {"type": "function", **call}
    copy["function"] = {**function, "arguments": _arguments(function.get("arguments"), where, form)}
    if isinstance(call.get("id"), str):
        names[call["id"]] = function["name"]
        copy["id"] = _fitting_id(call["id"], form)
    return copy


def _arguments(given: Any, where: str, form: HistoryForm) -> str | dict[str, Any]:
    param = f"{where}.function.arguments"
    if isinstance(given, str) and given.strip():
        try:
            value = json.loads(given)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequestError(f"{param} is not valid JSON: {exc}", param=param) from exc
    else:
        value = given or {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{param} is not a JSON object; arguments always are.", param=param)
    if not form.has_text_arguments:
        return dict(value)
    return given if isinstance(given, str) and given.strip() else json.dumps(value, ensure_ascii=False)


def _name_result(copy: dict[str, Any], where: str, form: HistoryForm, names: Mapping[str, str]) -> None:
    """Put the function's name on its result, in place."""
    call_id = copy.get("tool_call_id")
    if not isinstance(call_id, str) or call_id not in names:
        raise InvalidRequestError(
            f"{where}.tool_call_id is {call_id!r}; it must be the id of a call in an earlier assistant message.",
            param=f"{where}.tool_call_id",
        )
    copy.setdefault("name", names[call_id])
    copy["tool_call_id"] = _fitting_id(call_id, form)


def _fitting_id(call_id: str, form: HistoryForm) -> str:
    length = form.call_id_length
    if not length or (len(call_id) == length and call_id.isalnum()):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:length]
