"""Where and how a server is to answer, and whether it can: all that can be told without a model.

Starts nothing and leaves nothing behind. `kit.launch` asks before it loads models, which may take minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmapi_kit.api.auth import check_key_format, check_key_length, is_short
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError
from llmapi_kit.loopback import LOOPBACK
from llmapi_kit.server.port import check_free
from llmapi_kit.sessions.bots import Bots
from llmapi_kit.tunnels import check_tunnel

logger = logging.getLogger(__name__)

NO_KEYS = ("none", "null", "empty", "no", "nokey", "no-key", "not-needed", "true")  # what clients send that need none


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a server needs besides models.

    Attributes:
        host: address to bind.
        port: port to bind; 0 picks a free one, None the default one or the next that is free.
        api_key: the key to ask for; None for a random one, False for none.
        tunnel: through whom it is to be public; None for not.
        tunnel_options: fields of `llmapi_kit.tunnels.base.TunnelSettings`.
    """

    host: str
    port: int | None
    api_key: str | Literal[False] | None = field(repr=False)
    tunnel: str | None = None
    tunnel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def check(self, settings: Settings, *, is_held: bool = False) -> None:
        """Raise what a server there would end in.

        Args:
            settings: of the server.
            is_held: whether the port is held by a server that will make way.

        Raises:
            PortInUseError: the port is taken.
            ConfigError: the address can't be bound, the key is not fit for it, or the settings can't be followed.
            TunnelAuthError: the tunnel's token is missing.
        """
        if self.api_key and str(self.api_key).lower() in NO_KEYS:
            raise ConfigError(
                f"api_key={self.api_key!r} is what clients send that need no key, and everybody would guess it. "
                "Leave it out for a random one, or pass api_key=False to ask for none, on this machine only."
            )
        if self.api_key is not None:
            check_key(None if self.api_key is False else self.api_key, self.host, self.tunnel)
        check_free(self.host, 0 if is_held or self.port is None else self.port)
        if self.tunnel is not None:
            check_tunnel(self.tunnel, settings.folder("tunnels"), self.tunnel_options)
        if "sessions" in settings.compat:
            Bots(settings.bots)


def check_key(key: str | None, host: str, tunnel: str | None = None) -> None:
    """Raise `ConfigError` unless a key is fit for where it is asked for. The message does not contain it."""
    if key is None and (tunnel is not None or host not in LOOPBACK):
        raise ConfigError(
            "api_key=False works on this machine only: no tunnel, no other host than 127.0.0.1, as everybody could use "
            "the model."
        )
    if key is None:
        return
    check_key_format(key)
    if tunnel is not None:
        check_key_length(key, f"through a tunnel ({tunnel})")
    if host not in LOOPBACK:
        check_key_length(key, f"at {host}")


def warn_of_short_key(key: str | None) -> None:
    """Log that a key is short, where it is."""
    if key is not None and is_short(key):
        logger.warning(
            "The API key has %d characters, which other programs on this machine could find by trying. The server is "
            "kept to this machine: it opens no tunnel with that key",
            len(key),
        )
