"""What a page shows of a chat, as JSON: all of it, so that a page that comes late or lost something catches up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmapi_kit.notebook.chat.backend import ModelChoice
from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.notebook.chat.options import SAMPLING
from llmapi_kit.notebook.chat.session import Session

SHOWN = ("id", "role", "content", "reasoning", "status", "error", "model", "finish_reason")
MEASURED = ("num_prompt_tokens", "num_completion_tokens", "ttft_s", "tokens_per_s")


def snapshot(sessions: Sequence[Session], models: Sequence[Sequence[ModelChoice]]) -> dict[str, Any]:
    """All that a page shows.

    Args:
        sessions: one for each column.
        models: for each session, what there is to choose from.
    """
    return {"panes": [snapshot_pane(session, each) for session, each in zip(sessions, models, strict=True)]}


def snapshot_pane(session: Session, models: Sequence[ModelChoice] = ()) -> dict[str, Any]:
    """What a page shows of one conversation."""
    with session.lock:
        options = session.options
        return {
            "is_busy": session.is_busy,
            "models": [each.name for each in models],
            "sees": bool(models) and sees(options.model, models) is not False,
            "options": {"model": options.model, "system": options.system}
            | {name: getattr(options, name) for name in SAMPLING},
            "tools": list(session.functions),
            "run_tools": session.run_tools,
            "messages": [_message(message) for message in session.conversation.path()],
        }


def _message(message: Message) -> dict[str, Any]:
    siblings = message.siblings()
    values = {name: getattr(message, name) for name in (*SHOWN, *MEASURED)}
    return {
        **values,
        "images": [{"title": image.title, "thumbnail": image.thumbnail} for image in message.images],
        "tool_calls": [{**asdict(call), "arguments": pretty_json(call.arguments)} for call in message.tool_calls],
        "branch": siblings.index(message),
        "branches": [each.id for each in siblings],
    }


def sees(model: str, models: Sequence[ModelChoice]) -> bool | None:
    """Whether the model that is asked takes pictures; None where nobody says.

    Args:
        model: which one; empty for the first.
        models: what there is to choose from.
    """
    return next((each.sees for each in models if each.name == model or not model), None)


def pretty_json(text: str) -> str:
    """A JSON text with room in it; anything else as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text
