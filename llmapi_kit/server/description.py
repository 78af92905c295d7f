"""A server in words, for terminals, and what its tables have in a cell. Knows nothing of how it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmapi_kit import tables
from llmapi_kit.client import mask
from llmapi_kit.engines.base import Engine
from llmapi_kit.tunnels.base import TunnelStatus

REQUEST_COLUMNS: tables.Columns = {
    "id": ("Id", tables.text),
    "key": ("Key", tables.text),
    "model": ("Model", tables.text),
    "state": ("State", tables.text),
    "prompt_tokens": ("Prompt tokens", tables.count),
    "completion_tokens": ("Tokens so far", tables.count),
    "seconds": ("Since", tables.seconds),
}
USAGE_COLUMNS: tables.Columns = {
    "date": ("Day (UTC)", tables.text),
    "model": ("Model", tables.text),
    "requests": ("Requests", tables.count),
    "failed": ("Failed", tables.count),
    "cancelled": ("Cancelled", tables.count),
    "prompt_tokens": ("Prompt tokens", tables.count),
    "cached_tokens": ("Cached", tables.count),
    "completion_tokens": ("Tokens made", tables.count),
}


def describe_server(
    state: str,
    url: str,
    api_key: str | None,
    engines: Sequence[Engine],
    *,
    aliases: Mapping[str, str],
    replaced: Sequence[str],
    tunnel: TunnelStatus | None,
    tunnel_kind: str | None,
) -> str:
    """A server as text, without its key.

    Args:
        state: such as "running".
        url: of it, without ``/v1``.
        api_key: its key.
        engines: who answers.
        aliases: further names, each with the model that it stands for.
        replaced: models that it took out of service.
        tunnel: how that is; None without one.
        tunnel_kind: through whom it is public.
    """
    lines = [
        f"llmapi_kit server, {state}",
        f"  URL     {url}/v1",
        f"  key     {mask(api_key)}  (server.api_key is the whole key)",
        f"  models  {', '.join(_describe_model(engine) for engine in engines)}",
    ]
    if aliases:
        lines.append(f"  also    {', '.join(f'{alias} = {model}' for alias, model in aliases.items())}")
    if replaced:
        lines.append(f"  instead of {', '.join(replaced)}  (another name=… makes a second server)")
    if tunnel is not None:
        lines.insert(2, f"  public  {tunnel.public_url or '-'}  ({tunnel_kind}, {tunnel.state}{_because(tunnel)})")
    return "\n".join(lines)


def tunnel_fields(kind: str | None, status: TunnelStatus | None) -> dict[str, str | None] | None:
    """A tunnel as `GET /v1/status` tells of it; None without one."""
    if kind is None or status is None:
        return None
    return {"kind": kind, "state": status.state, "public_url": status.public_url, "reason": status.reason}


def _describe_model(engine: Engine) -> str:
    """Its name, and its state unless it is simply there."""
    readiness = engine.readiness()
    if readiness.state != "loaded":
        return f"{engine.info.id} ({readiness.state}{'' if readiness.ready else ': ' + readiness.reason})"
    return engine.info.id


def _because(status: TunnelStatus) -> str:
    return f": {status.reason}" if status.reason else ""
