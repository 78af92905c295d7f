"""What a tunnel is to the rest of the kit: the protocol, its status and its settings.

Knows no provider, no process and no thread. `kit.launch` and the card in a notebook use these names only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import SecretStr

TunnelState = Literal["starting", "up", "down", "stopped"]


@dataclass(frozen=True)
class TunnelStatus:
    """What is known of a tunnel at one moment.

    Attributes:
        state: "starting" while the agent is asked for a URL, "up" while the link is believed to work, "down"
            when the agent ended, never came up, or the last check failed, "stopped" before `start()` and
            after `stop()`.
        public_url: the URL to give away, without a slash at its end; kept while "down", so that a person
            sees which link is dead.
        reason: when "down", a sentence for a person.
        code: the provider's own error code, such as ``ERR_NGROK_3200``, where it gave one.
    """

    state: TunnelState
    public_url: str | None = None
    reason: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class TunnelSettings:
    """What a tunnel needs to know besides the port. One kind may not use all of it.

    Attributes:
        state_dir: folder for pid files and the agents' private folders; made when missing. It must be on a
            local disk that allows programs, not on a shared or network drive.
        auth_token: the provider's token. A plain string is wrapped at once, so that no repr shows it.
        domain: a public host name reserved at the provider; None takes what it gives.
        ngrok_path: the agent program; None looks for one and downloads it if there is none.
        instance: the id that our server's `/healthz` answers with; given, `check()` tells our server from
            another.
        timeout_s: how long `start()` may take, a download included.
        on_progress: called with one line when something takes a while; from the tunnel's thread.
    """

    state_dir: Path
    auth_token: SecretStr | None = None
    domain: str | None = None
    ngrok_path: Path | None = None
    instance: str | None = None
    timeout_s: float = 30.0
    on_progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        token: object = self.auth_token
        if isinstance(token, str):
            object.__setattr__(self, "auth_token", SecretStr(token))
        path: object = self.ngrok_path
        if isinstance(path, str):
            object.__setattr__(self, "ngrok_path", Path(path))


@runtime_checkable
class Tunnel(Protocol):
    """One public URL for one local port. All methods may be called from any thread.

    A tunnel is used once: after `stop()`, or when it is down for good, open a new one.
    """

    @property
    def kind(self) -> str:
        """The name `open_tunnel` knows it by."""
        ...

    def prepare(self) -> None:
        """Find what must be there before it is started, such as a token; `start` does it, too. Quick; asks nobody.

        Raises:
            TunnelAuthError: there is no token.
            ConfigError: a setting can't be used.
        """
        ...

    def start(self) -> str:
        """Open the tunnel and return its public URL; a tunnel that is up answers at once.

        Blocks at most `timeout_s`, and a few seconds more to end an agent that gave no answer.
        An interrupt (Ctrl-C, a cell's stop button) stops the tunnel before it is passed on.

        Raises:
            TunnelError: one of its kinds, with the provider's code and the agent's last log lines.
            ConfigError: a setting can't be used.
        """
        ...

    def status(self) -> TunnelStatus:
        """What is known now: never blocks, asks nobody. A dead agent shows within 2 s."""
        ...

    def check(self, *, timeout_s: float = 10.0) -> TunnelStatus:
        """Ask the public URL's `/healthz`; return, and remember, what came of it. Blocks about `timeout_s`.

        It says "up" only if the answer came from our server, and "down" with what it saw otherwise. A
        tunnel that is not running is not asked.
        """
        ...

    def stop(self) -> None:
        """Close the tunnel and end its agent, also while `start()` runs. Takes seconds; may be repeated."""
        ...
