"""Public URLs for a server on this machine, by way of a tunnel provider's agent program.

Knows nothing of the server behind the port, nor of notebooks. `kit.launch` opens a `WatchedTunnel` from a cell's
thread; everything slow happens on the tunnel's own thread. A new kind is a class with the constructor of `NgrokTunnel`
and a line in `TUNNEL_KINDS`.
"""

from __future__ import annotations

from llmapi_kit.tunnels.base import Tunnel, TunnelSettings, TunnelState, TunnelStatus
from llmapi_kit.tunnels.kinds import TUNNEL_KINDS, check_tunnel, open_tunnel, tunnel_settings

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
