"""The flags for tunnels: what their help says, and what ``--tunnel-option`` comes to in `kit.launch`."""

from __future__ import annotations

from collections.abc import Sequence

from llmapi_kit.errors import ConfigError

TUNNEL_HELP = (
    "A public URL: 'auto' for the first that works, 'ngrok', 'cloudflared', 'ssh', 'localhost.run', 'pinggy' or "
    "'serveo'. Tokens come from the environment: NGROK_AUTHTOKEN, TUNNEL_TOKEN, PINGGY_TOKEN."
)
TUNNEL_OPTION_HELP = "Such as host=user@example.com (ssh) or domain=… (ngrok, cloudflared). May be given again."
NUMBERS = {"remote_port": int, "timeout_s": float, "probe_interval_s": float}
NO_ARGUMENT = ("on_progress",)
SECRET = "auth_token"  # noqa: S105 - an option's name


def tunnel_options(given: Sequence[str]) -> dict[str, object]:
    """Options of a tunnel from ``name=value`` each.

    Raises:
        ConfigError: one has no value, or one that can't be used, or would show a secret.
    """
    return dict(map(_option, given))


def _option(text: str) -> tuple[str, object]:
    name, is_there, value = text.partition("=")
    name = name.replace("-", "_")
    if not is_there or not value:
        raise ConfigError(f"--tunnel-option {name!r} has no value. Write --tunnel-option host=user@example.com.")
    if name == SECRET:
        raise ConfigError(
            "auth_token is not taken: all users of this machine can read a command line. Set NGROK_AUTHTOKEN (ngrok), "
            "TUNNEL_TOKEN (cloudflared) or PINGGY_TOKEN (pinggy) in the environment."
        )
    if name in NO_ARGUMENT:
        raise ConfigError(
            f"--tunnel-option {name} is not taken: a function can be passed in Python only. Leave it out."
        )
    try:
        return name, NUMBERS[name](value) if name in NUMBERS else value
    except ValueError:
        raise ConfigError(f"--tunnel-option {name} is {value!r}; it must be a number.") from None
