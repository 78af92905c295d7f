"""The server's card: what is shown in a notebook for a `Server`. HTML only; no script, no key.

A pure function of the server's state, so it can be drawn again when that changes. The markup has its styles inline,
with Jupyter's variables where they help and neutral colours elsewhere: front-ends strip style sheets from notebooks
they do not trust, and light and dark pages both have to look right. Knows nothing of IPython.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llmapi_kit.client import mask
from llmapi_kit.notebook.snippets import KEY_VARIABLE, curl_snippet, openai_snippet, python_snippet

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server

GREEN, AMBER, RED, GREY = "#2e9e5b", "#c77700", "#d13438", "#8a8a8a"
TUNNEL_COLOURS = {"up": GREEN, "starting": AMBER, "down": RED, "stopped": GREY}
BORDER = "1px solid var(--jp-border-color2, rgba(128,128,128,.35))"
UI_FONT = "font-family:var(--jp-ui-font-family, system-ui, sans-serif);font-size:13px;line-height:1.5"
CODE_FONT = "font-family:var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace);font-size:12px"
DIM = "opacity:.7"


@dataclass(frozen=True, slots=True)
class CardState:
    """All that a card shows. Two equal states look the same, so a card is drawn again only when it has to be.

    Attributes:
        is_running: whether the server answers.
        url: of the server, without ``/v1``.
        models: the names it answers to, the default first.
        masked_key: recognisable, not usable.
        key_file: where the key is; None without one.
        tunnel: the tunnel's state; None without one.
        public_url: the tunnel's, also while it is down.
        reason: why it is down.
        failure: what ended the server, if nobody stopped it.
    """

    is_running: bool
    url: str
    models: tuple[str, ...]
    masked_key: str
    key_file: str | None
    tunnel: str | None = None
    public_url: str | None = None
    reason: str | None = None
    failure: str | None = None


def card_state(server: Server) -> CardState:
    """What the card of a server shows now. Asks nobody and does not block."""
    status = server.tunnel_status()
    return CardState(
        is_running=server.is_running,
        url=server.url,
        models=tuple(server.models),
        masked_key=mask(server.api_key),
        key_file=server.key_file,
        tunnel=status.state if status else None,
        public_url=status.public_url if status else None,
        reason=status.reason if status else None,
        failure=_failure(server),
    )


def _failure(server: Server) -> str | None:
    if server.is_running or server.is_stopped:
        return None
    cause = server.failure
    return f"{type(cause).__name__}: {cause}" if cause is not None else "its thread ended"


def card_html(state: CardState) -> str:
    """The card as HTML."""
    parts = [_head(state), *_rows(state)]
    if state.is_running:
        parts += [_snippet(*each, is_open=index == 0) for index, each in enumerate(_snippets(state))]
        parts.append(
            f'<div style="{DIM};margin-top:8px">Runs until this kernel ends, or {_code("server.stop()")}.</div>'
        )
    else:
        parts.append(f'<div style="{DIM};margin-top:8px">Run the launch cell again to start it.</div>')
    style = f"box-sizing:border-box;max-width:46rem;margin:4px 0;padding:12px 16px;border:{BORDER};border-radius:8px"
    return f'<div class="llmapi-kit-card" style="{style};{UI_FONT}">{"".join(parts)}</div>'


def _head(state: CardState) -> str:
    title, colour = "Model server stopped", GREY
    if state.is_running:
        title, colour = "Model server running", GREEN
    elif state.failure is not None:
        title, colour = "Model server died", RED
    models = ", ".join(escape(model) for model in state.models)
    return (
        f'<div style="margin-bottom:8px">{_dot(colour)}<strong style="font-size:14px">{title}</strong>'
        f'<span style="{DIM};margin-left:10px">{models}</span></div>'
    )


def _rows(state: CardState) -> list[str]:
    rows = [_row("URL", _code(f"{state.url}/v1"))]
    if state.failure is not None:
        rows.insert(0, _row("Cause", escape(state.failure)))
    if state.tunnel is not None:
        rows.append(_row("Public", _public(state)))
    if state.key_file is None:
        rows.append(_row("Key", "none: only this machine reaches the server"))
    else:
        where = f'<span style="{DIM}">the whole key is</span> {_code("server.api_key")}'
        rows.append(_row("Key", f"{_code(state.masked_key)} {where}"))
    return rows


def _public(state: CardState) -> str:
    tunnel = state.tunnel or ""
    mark = _dot(TUNNEL_COLOURS.get(tunnel, GREY))
    address = escape(f"{state.public_url}/v1") if state.public_url else ""
    if tunnel == "up":
        return f"{mark}{_code(f'{state.public_url}/v1')}"
    shown = f'<s style="{CODE_FONT};{DIM}">{address}</s> ' if address else ""
    why = f": {escape(state.reason)}" if state.reason else ""
    return f"{mark}{shown}<strong>{escape(tunnel)}</strong>{why}"


def _snippets(state: CardState) -> list[tuple[str, str]]:
    """Headings and code; none holds the key."""
    model = state.models[0]
    found = [
        ("Python, on this machine", python_snippet(state.url, model)),
        ("curl, on this machine", curl_snippet(state.url, state.key_file, model)),
    ]
    if state.tunnel == "up" and state.public_url:
        where = f"with the key in {KEY_VARIABLE}"
        found = [
            (f"Python, anywhere, {where}", openai_snippet(state.public_url, model)),
            (f"curl, anywhere, {where}", curl_snippet(state.public_url, None, model, key_variable=KEY_VARIABLE)),
            *found,
        ]
    return found


def _snippet(title: str, code: str, *, is_open: bool) -> str:
    box = f"margin:4px 0 0;padding:8px 10px;border:{BORDER};border-radius:4px;background:rgba(128,128,128,.08)"
    return (
        f'<details style="margin-top:8px"{" open" if is_open else ""}>'
        f'<summary style="cursor:pointer">{escape(title)}</summary>'
        f'<pre style="{box};{CODE_FONT};white-space:pre;overflow-x:auto">{escape(code)}</pre></details>'
    )


def _row(label: str, value: str) -> str:
    return (
        f'<div style="display:flex;gap:12px;margin:2px 0"><span style="{DIM};flex:0 0 3.5rem">{label}</span>'
        f'<span style="min-width:0;overflow-wrap:anywhere">{value}</span></div>'
    )


def _code(text: str) -> str:
    return f'<code style="{CODE_FONT}">{escape(text)}</code>'


def _dot(colour: str) -> str:
    style = f"display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px;background:{colour}"
    return f'<span style="{style}"></span>'
