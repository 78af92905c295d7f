"""The conversation as a cell's output that needs no kernel: what a saved notebook, GitHub and nbconvert show of a chat.

It stands below the widget; see `llmapi_kit.notebook.stand_in`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llmapi_kit.notebook.chat.export import to_markdown
from llmapi_kit.notebook.chat.markup import NO_MATH, render_markdown, show_invisible
from llmapi_kit.notebook.chat.session import Session
from llmapi_kit.notebook.chat.snapshot import snapshot_pane
from llmapi_kit.notebook.stand_in import stand_in_style

CLASS, PLAIN_CLASS, RICH_CLASS = "llmapi-kit-transcript", "llmapi-kit-plain-chat", "llmapi-kit-chat"
STYLE = f"{stand_in_style((RICH_CLASS, PLAIN_CLASS), CLASS)}<style>.{CLASS} pre{{white-space:pre-wrap}}</style>"
LINE = "rgba(128,128,128,.45)"
BOX = "max-width:60rem;overflow-wrap:anywhere;unicode-bidi:isolate"
ROW = "display:flex;flex-wrap:wrap;align-items:flex-start;gap:8px;margin:4px 0"
IMAGE = "max-width:12rem;max-height:9rem;border-radius:6px"
DIM = "opacity:.75;font-size:90%"


def transcript(sessions: Sequence[Session]) -> dict[str, str]:
    """A chat as text, Markdown and HTML, by media type. The key is in none of them."""
    texts = [to_markdown(session) for session in sessions]
    markdown = "\n\n---\n\n".join(text for text in texts if text)
    html = columns_html([snapshot_pane(session) for session in sessions])
    empty = "The conversation is empty."
    return {
        "text/plain": markdown or empty,
        "text/markdown": show_invisible(markdown) or empty,
        "text/html": f'<div class="{CLASS}">{STYLE}{html or empty}</div>',
    }


def columns_html(panes: Sequence[Mapping[str, Any]]) -> str:
    """Conversations side by side, as HTML; see `llmapi_kit.notebook.chat.snapshot` for what they are made of."""
    columns = [html for pane in panes if (html := _conversation(pane))]
    if len(columns) < 2:
        return "".join(columns)
    cells = "".join(f'<div style="flex:1 1 20rem;min-width:0">{html}</div>' for html in columns)
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{cells}</div>'


def _conversation(pane: Mapping[str, Any]) -> str:
    parts = [_system(pane["options"]["system"])] if pane["options"]["system"] else []
    return "".join([*parts, *(_message(message) for message in pane["messages"])])


def _system(text: str) -> str:
    return f'<div style="{BOX};{DIM}"><em>System:</em> {_text(text)}</div>'


def _message(message: Mapping[str, Any]) -> str:
    if message["role"] == "user":
        style = f"{BOX};margin:8px 0 0;padding:2px 0 2px 10px;border-left:3px solid {LINE};white-space:pre-wrap"
        shown = f"{images_html(message['images'])}{_text(message['content'])}"
        return f'<div class="{NO_MATH}" style="{style};font-weight:600">{shown}</div>'
    color = "var(--jp-brand-color1, #2196f3)"
    style = f"{BOX};margin:0 0 8px;padding:2px 0 2px 10px;border-left:3px solid {color}"
    return f'<div style="{style}">{"".join(_answer_parts(message))}</div>'


def images_html(images: Sequence[Mapping[str, str]]) -> str:
    """Pictures of a question in a row: small, as `llmapi_kit.notebook.chat.attachments` made them."""
    if not images:
        return ""
    return f'<div style="{ROW}">{"".join(_image(each, number) for number, each in enumerate(images, 1))}</div>'


def _image(image: Mapping[str, str], number: int) -> str:
    title = _text(f"Picture {number}: {image['title']}")
    if not image["thumbnail"]:
        return f"<span>{title}</span>"
    return f'<img src="{escape(image["thumbnail"])}" alt="{title}" title="{title}" style="{IMAGE}">'


def _answer_parts(message: Mapping[str, Any]) -> list[str]:
    parts = []
    if message["reasoning"]:
        parts.append(_folded("Reasoning", f'<div style="{DIM}">{render_markdown(message["reasoning"])}</div>'))
    if message["content"]:
        parts.append(render_markdown(message["content"]))
    for call in message["tool_calls"]:
        shown = f"<pre>{_text(call['arguments'])}</pre><pre>{_text(call['result'])}</pre>"
        parts.append(_folded(f"Function {call['name']}: {call['status']}", shown))
    if message["error"]:
        parts.append(f'<div role="alert"><strong>{_text(message["error"])}</strong></div>')
    return [*parts, f'<div style="{DIM}">{_text(_figures(message))}</div>']


def _figures(message: Mapping[str, Any]) -> str:
    """Who answered, how much and how fast, in a line."""
    parts = [message["model"]]
    if message["status"] == "stopped":
        parts.append("stopped")
    if message["finish_reason"] == "length":
        parts.append("cut off at max_tokens or the context's end")
    if message["num_prompt_tokens"]:
        parts.append(f"{message['num_prompt_tokens']:,} + {message['num_completion_tokens']:,} tokens")
    if message["ttft_s"]:
        parts.append(f"first after {message['ttft_s']:.2f} s")
    if message["tokens_per_s"]:
        parts.append(f"{message['tokens_per_s']:,.0f} tokens/s")
    return " · ".join(part for part in parts if part)


def _folded(title: str, html: str) -> str:
    return f"<details><summary>{escape(show_invisible(title))}</summary>{html}</details>"


def _text(text: str) -> str:
    return escape(show_invisible(text))
