"""A conversation taken elsewhere: Markdown, JSON, and Python that has it again. No key is in any of them."""

from __future__ import annotations

import json
from typing import Any

from llmapi_kit.config import KEY_VARIABLE
from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.notebook.chat.session import Session
from llmapi_kit.notebook.chat.snapshot import pretty_json

SPEAKERS = {"user": "You", "assistant": "Model"}


def to_markdown(session: Session) -> str:
    """The branch that is shown, for people. In place of a picture it says which size it has."""
    with session.lock:
        parts = [f"**System:** {session.options.system}"] if session.options.system else []
        parts += [part for message in session.conversation.path() for part in _markdown(message)]
    return "\n\n".join(parts)


def to_json(session: Session) -> str:
    """The branch that is shown, as a request to an OpenAI-compatible API has it."""
    return json.dumps(_request(session), ensure_ascii=False, indent=2)


def to_python(session: Session) -> str:
    """A program that asks the last question of the branch that is shown again."""
    request = _request(session, up_to_question=True)
    fields = "".join(f"    {name}={_literal(value)},\n" for name, value in request.items())
    if session.backend.url is None:
        sampling = "".join(f", {name}={value!r}" for name, value in session.options.sampling().items())
        return (
            f"import llmapi_kit as kit\n\nmodel = kit.load({request['model']!r})\n"
            f"messages = {_literal(request['messages'])}\nprint(model.ask(messages{sampling}))\n"
        )
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url={session.backend.url!r}, api_key=os.environ["{KEY_VARIABLE}"])\n'
        f"answer = client.chat.completions.create(\n{fields})\nprint(answer.choices[0].message.content)\n"
    )


def _request(session: Session, *, up_to_question: bool = False) -> dict[str, Any]:
    with session.lock:
        path = session.conversation.path()
        model = session.options.model or next((each.model for each in reversed(path) if each.model), "")
        if up_to_question:
            questions = [number for number, message in enumerate(path) if message.role == "user"]
            path = path[: questions[-1] + 1] if questions else []
        options = session.options
        messages = session.conversation.to_openai(path[-1], options.system) if path else []
        tools = [function.definition() for function in session.functions.values()]
    request = {"model": model, "messages": messages, **options.sampling()}
    return {**request, "tools": tools} if tools else request


def _literal(value: Any) -> str:
    """A value as Python writes it, over several lines where it is long."""
    if isinstance(value, list):
        return "[\n" + "".join(f"        {each!r},\n" for each in value) + "    ]"
    return repr(value)


def _markdown(message: Message) -> list[str]:
    speaker = message.model or SPEAKERS[message.role] if message.role == "assistant" else SPEAKERS[message.role]
    parts = [f"**{speaker}:**"]
    if message.reasoning:
        parts.append("\n".join(f"> {line}" for line in message.reasoning.strip().splitlines()))
    parts += [f"*(picture {number}: {image.title})*" for number, image in enumerate(message.images, 1)]
    if message.content:
        parts.append(message.content)
    for call in message.tool_calls:
        parts.append(f"Calls `{call.name}`:\n\n{fenced(pretty_json(call.arguments), 'json')}")
        if call.result:
            parts.append(f"Result:\n\n{fenced(call.result)}")
    if message.status == "stopped":
        parts.append("*(stopped)*")
    if message.error:
        parts.append(f"*({message.error})*")
    return parts


def fenced(text: str, language: str = "") -> str:
    """A code block that nothing in the text can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
