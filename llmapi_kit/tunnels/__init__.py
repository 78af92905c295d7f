"""Public URLs for a server on this machine, by way of a tunnel provider's agent program.

Knows nothing of the server behind the port, nor of notebooks. `kit.launch` calls `open_tunnel` from a
cell's thread; everything slow happens on the tunnel's own thread. A new kind is a class with the
constructor of `NgrokTunnel` and a line in `TUNNEL_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels.base import Tunnel, TunnelSettings, TunnelState, TunnelStatus

# Import strings, so that naming one kind does not import what the others need.
TUNNEL_KINDS: dict[str, str] = {
    "ngrok": "llmapi_kit.tunnels.ngrok:NgrokTunnel",
}


def check_tunnel(kind: str, state_dir: Path, options: Mapping[str, Any]) -> None:
    """Raise what opening a tunnel would end in, as far as that can be told without its provider.

    Args:
        kind: of the tunnel.
        state_dir: see `TunnelSettings`.
        options: other fields of it.

    Raises:
        ConfigError: the kind or an option is unknown, or an option can't be used.
        TunnelAuthError: there is no token.
    """
    settings = tunnel_settings(state_dir=state_dir, **options)
    open_tunnel(kind, port=1, settings=settings).prepare()  # the port matters to a tunnel that is started only


def tunnel_settings(**values: Any) -> TunnelSettings:
    """Settings of these names.

    Raises:
        ConfigError: one is unknown.
    """
    names = [field.name for field in fields(TunnelSettings)]
    for name in values:
        if name not in names:
            options = ", ".join(name for name in names if name not in ("state_dir", "instance"))
            raise ConfigError(f"A tunnel has no option {name!r}. Allowed: {options}.")
    return TunnelSettings(**values)


def open_tunnel(kind: str, *, port: int, settings: TunnelSettings) -> Tunnel:
    """A tunnel of this kind to `port` on this machine, not started: call its `start()` for the URL.

    Raises:
        ConfigError: the kind is unknown, or the port is none.
    """
    if kind not in TUNNEL_KINDS:
        hint = did_you_mean(kind, TUNNEL_KINDS) if isinstance(kind, str) else ' Pass tunnel="ngrok".'
        raise ConfigError(f"There is no tunnel kind {kind!r}.{hint} Allowed: {', '.join(sorted(TUNNEL_KINDS))}.")
    if not 1 <= port <= 65535:
        raise ConfigError(f"A tunnel needs the server's port, between 1 and 65535, not {port!r}.")
    module_name, _, class_name = TUNNEL_KINDS[kind].partition(":")
    make = cast("Callable[..., Tunnel]", getattr(import_module(module_name), class_name))
    return make(port=port, settings=settings)


__all__ = [
    "TUNNEL_KINDS",
    "Tunnel",
    "TunnelSettings",
    "TunnelState",
    "TunnelStatus",
    "check_tunnel",
    "open_tunnel",
    "tunnel_settings",
]
