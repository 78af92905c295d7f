"""The server's card: what is shown in a notebook for a `Server`, as content and as HTML. No script, no key.

Pure functions of the server's state. `llmapi_kit.notebook.live_card` sends the content to pages that show it alive; the
HTML is what a notebook saves, so it says what was so at a time and claims nothing about now. It has its styles inline,
with Jupyter's variables where they help and neutral colours elsewhere: front-ends strip style sheets from notebooks
they do not trust, and light and dark pages both have to look right. Knows nothing of IPython.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from llmapi_kit.client import mask
from llmapi_kit.config import KEY_VARIABLE
from llmapi_kit.notebook.qr_code import public_qr_code
from llmapi_kit.notebook.snippets import curl_snippet, openai_snippet, python_snippet
from llmapi_kit.notebook.style import BORDER, CODE_FONT, TEXT, UI_FONT
from llmapi_kit.notebook.team import Member, team_content

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server

TUNNEL_TONES = {"up": "running", "starting": "waiting", "degraded": "waiting", "down": "died"}
QR_PX = 128
DIM = "opacity:.75"
WARNING = f"color:color-mix(in srgb, #c77700 50%, {TEXT})"  # of enough contrast on light and dark pages


@dataclass(frozen=True, slots=True)
class CardState:
    """All that a card shows but its speed. Two equal states look the same.

    Attributes:
        is_running: whether the server answers.
        url: of the server, without ``/v1``.
        models: the names it answers to, the default first.
        masked_key: recognisable, not usable.
        key_file: where the key is; None without one.
        started_at: when it was launched, as Unix time.
        aliases: further names, each with the model that it stands for.
        network_url: where others on the network reach it; None where they don't.
        tunnel: the tunnel's state; None without one.
        tunnel_kind: through whom the server is public.
        can_reopen_tunnel: whether there is or was a tunnel of its own.
        public_url: the tunnel's, also while it is down.
        reason: why it is down.
        failure: what ended the server, if nobody stopped it.
        replaced: models that the latest launch took out of service.
    """

    is_running: bool
    url: str
    models: tuple[str, ...]
    masked_key: str
    key_file: str | None
    started_at: float = 0.0
    aliases: tuple[tuple[str, str], ...] = ()
    network_url: str | None = None
    tunnel: str | None = None
    tunnel_kind: str | None = None
    can_reopen_tunnel: bool = False
    public_url: str | None = None
    reason: str | None = None
    failure: str | None = None
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a card.

    Attributes:
        label: what it is.
        text: the value.
        note: what follows it.
        tone: the colour of a dot before it; empty for no dot.
        isCode: whether the value is to be copied.
        isKey: whether it stands for the key.
        isStruck: whether it is no longer so.
        isWarning: whether the note is one.
    """

    label: str
    text: str
    note: str = ""
    tone: str = ""
    isCode: bool = False  # noqa: N815 - as the page's script names it
    isKey: bool = False  # noqa: N815
    isStruck: bool = False  # noqa: N815
    isWarning: bool = False  # noqa: N815


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code to copy; none holds the key."""

    title: str
    code: str


@dataclass(frozen=True, slots=True)
class CardContent:
    """A card in words.

    Attributes:
        title: whether it runs.
        tone: the same as a colour: ``running``, ``stopped`` or ``died``.
        models: their names.
        rows: its lines.
        snippets: how to use it.
        hint: what to do.
        qrCode: the public URL, without ``/v1``, as a picture's address; empty where there is none that works.
        pageUrl: what that picture says.
    """

    title: str
    tone: str
    models: str
    rows: list[Row] = field(default_factory=list)
    snippets: list[Snippet] = field(default_factory=list)
    hint: str = ""
    qrCode: str = ""  # noqa: N815 - as the page's script names it
    pageUrl: str = ""  # noqa: N815


def card_state(server: Server) -> CardState:
    """What the card of a server shows now. Asks nobody and does not block."""
    status = server.tunnel_status()
    return CardState(
        is_running=server.is_running,
        url=server.url,
        models=tuple(server.models),
        masked_key=mask(server.api_key),
        key_file=server.key_file,
        started_at=server.started_at,
        aliases=tuple(server.aliases.items()),
        network_url=server.network_url,
        tunnel=status.state if status else None,
        tunnel_kind=server.tunnel_kind if status else None,
        can_reopen_tunnel=server.can_reopen_tunnel,
        public_url=status.public_url if status else None,
        reason=status.reason if status else None,
        failure=_failure(server),
        replaced=server.replaced,
    )


def _failure(server: Server) -> str | None:
    if server.is_running or server.is_stopped:
        return None
    cause = server.failure
    return f"{type(cause).__name__}: {cause}" if cause is not None else "its thread ended"


def card_content(state: CardState) -> CardContent:
    """The card in words."""
    title, tone = "Model server stopped", "stopped"
    if state.is_running:
        title, tone = "Model server running", "running"
    elif state.failure is not None:
        title, tone = "Model server died", "died"
    page_url = (state.public_url or "") if state.tunnel in ("up", "degraded") and state.is_running else ""
    return CardContent(
        title=title,
        tone=tone,
        models=", ".join(state.models),
        rows=_rows(state),
        snippets=_snippets(state) if state.is_running else [],
        hint="Runs until this kernel ends, or server.stop()."
        if state.is_running
        else "Restart it, or launch it again.",
        qrCode=public_qr_code(page_url) if page_url else "",
        pageUrl=page_url,
    )


def live_state(state: CardState, speed: str, members: Sequence[Member] = ()) -> dict[str, Any]:
    """What a page that shows the card alive is told.

    Args:
        state: of the server.
        speed: what it is doing, in words.
        members: who has a key.
    """
    return {
        **asdict(card_content(state)),
        "isRunning": state.is_running,
        "hasTunnel": state.tunnel is not None,
        "canReopenTunnel": state.can_reopen_tunnel and state.is_running,
        "speed": speed,
        "team": team_content(members),
    }


def card_html(state: CardState, *, as_of: float, place: str = "") -> str:
    """The card as HTML that stays true.

    Args:
        state: of the server.
        as_of: when that was, as Unix time.
        place: a class for the element.
    """
    content = card_content(state)
    parts = [_head(state, content, as_of), *map(_row, content.rows), _qr_code(content)]
    parts += [_snippet(each, is_open=index == 0) for index, each in enumerate(content.snippets)]
    style = f"box-sizing:border-box;max-width:48rem;margin:4px 0;padding:12px 16px;border:{BORDER};border-radius:8px"
    return f'<div class="{escape(f"llmapi-kit-card {place}".strip())}" style="{style};{UI_FONT}">{"".join(parts)}</div>'


def _head(state: CardState, content: CardContent, as_of: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(as_of))
    was = "it was running" if state.is_running else "it had died" if state.failure is not None else "it was stopped"
    return (
        f'<div style="margin-bottom:8px"><strong style="font-size:14px">Model server</strong>'
        f'<span style="{DIM};margin-left:10px">{escape(content.models)}</span>'
        f'<div style="{DIM}">As of {when} {was}. A page without its kernel can not tell what is so now.</div></div>'
    )


def _rows(state: CardState) -> list[Row]:
    rows = [Row("URL", f"{state.url}/v1", isCode=True)]
    if state.failure is not None:
        rows.insert(0, Row("Cause", state.failure))
    if state.network_url is not None:
        rows.append(Row("Network", f"{state.network_url}/v1", isCode=True))
        rows.append(
            Row("", "", "Everybody on this network who has the key can use it, and what is sent is not encrypted.",
                isWarning=True)
        )  # fmt: skip
    if state.tunnel is not None:
        rows.append(_public(state))
    if state.key_file is None:
        rows.append(Row("Key", "none", "only this machine reaches the server"))
    else:
        rows.append(Row("Key", state.masked_key, "the whole key is server.api_key", isKey=True))
    if state.aliases:
        rows.append(Row("Also", ", ".join(f"{alias} = {model}" for alias, model in state.aliases)))
    if state.replaced and state.is_running:
        rows.append(Row("Instead of", ", ".join(state.replaced), "launch with another name=… for a second server"))
    if state.started_at:
        rows.append(Row("Launched", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.started_at))))
    return rows


def _public(state: CardState) -> Row:
    tunnel = state.tunnel or ""
    address = f"{state.public_url}/v1" if state.public_url else ""
    tone = TUNNEL_TONES.get(tunnel, "stopped")
    if tunnel == "up":
        return Row("Public", address, state.tunnel_kind or "", tone=tone, isCode=True)
    why = f"{tunnel}: {state.reason}" if state.reason else tunnel
    if tunnel == "degraded":
        return Row("Public", address, why, tone=tone, isCode=True, isWarning=True)
    return Row("Public", address, why, tone=tone, isStruck=True)


def _snippets(state: CardState) -> list[Snippet]:
    """What works for most people comes first; none holds the key."""
    model, has_key = state.models[0], state.key_file is not None
    key = f", the key in {KEY_VARIABLE}" if has_key else ""
    found = [
        Snippet(f"Python with openai{key}", openai_snippet(state.url, model, has_key=has_key)),
        Snippet("Python with this kit, which finds the key", python_snippet(state.url, model)),
        Snippet("curl, on this machine", curl_snippet(state.url, state.key_file, model)),
    ]
    if state.tunnel == "up" and state.public_url:
        found = [
            Snippet(f"Python with openai, anywhere{key}", openai_snippet(state.public_url, model)),
            Snippet(f"curl, anywhere{key}", curl_snippet(state.public_url, None, model, key_variable=KEY_VARIABLE)),
            *found[1:],
        ]
    return found


def _row(row: Row) -> str:
    text = escape(row.text)
    if row.isStruck:
        text = f'<s style="{CODE_FONT};{DIM}">{text}</s>' if text else ""
    elif row.isCode or row.isKey:
        text = f'<code style="{CODE_FONT}">{text}</code>'
    note = f'<span style="{WARNING if row.isWarning else DIM}">{escape(row.note)}</span>' if row.note else ""
    return (
        f'<div style="display:flex;gap:12px;margin:2px 0"><span style="{DIM};flex:0 0 5rem">{escape(row.label)}</span>'
        f'<span style="min-width:0;overflow-wrap:anywhere">{text} {note}</span></div>'
    )


def _qr_code(content: CardContent) -> str:
    if not content.qrCode:
        return ""
    return f'<img src="{escape(content.qrCode)}" alt="QR code of {escape(content.pageUrl)}" width="{QR_PX}">'


def _snippet(snippet: Snippet, *, is_open: bool) -> str:
    box = f"margin:4px 0 0;padding:8px 10px;border:{BORDER};border-radius:4px;background:rgba(128,128,128,.08)"
    return (
        f'<details style="margin-top:8px"{" open" if is_open else ""}>'
        f'<summary style="cursor:pointer">{escape(snippet.title)}</summary>'
        f'<pre style="{box};{CODE_FONT};white-space:pre;overflow-x:auto">{escape(snippet.code)}</pre></details>'
    )
