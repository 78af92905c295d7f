"""Which kinds of tunnel there are, and how one is made. Imports no kind before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels.base import Tunnel, TunnelSettings

# What the kit sets, and what every kind has
INTERNAL = ("state_dir", "instance", "may_ask_person")
COMMON_OPTIONS = ("timeout_s", "probe_interval_s", "on_progress")
TEXTS = ("domain", "region", "host", "host_key", "public_url")
SSH_OPTIONS = ("host", "identity_file", "host_key", "remote_port", "public_url")


@dataclass(frozen=True, slots=True)
class TunnelKind:
    """One kind of tunnel.

    Attributes:
        where: import string of a callable with the arguments ``port`` and ``settings``.
        options: fields of `TunnelSettings` that it has, besides `COMMON_OPTIONS`.
    """

    where: str
    options: tuple[str, ...]


TUNNEL_KINDS: dict[str, TunnelKind] = {
    "ngrok": TunnelKind("llmapi_kit.tunnels.ngrok:NgrokTunnel", ("auth_token", "domain", "region", "ngrok_path")),
    "cloudflared": TunnelKind(
        "llmapi_kit.tunnels.cloudflared:CloudflaredTunnel", ("auth_token", "domain", "cloudflared_path")
    ),
    "ssh": TunnelKind("llmapi_kit.tunnels.ssh:SshTunnel", SSH_OPTIONS),
    "localhost.run": TunnelKind(
        "llmapi_kit.tunnels.ssh_providers:LocalhostRunTunnel", ("domain", "identity_file", "host_key")
    ),
    "pinggy": TunnelKind("llmapi_kit.tunnels.ssh_providers:PinggyTunnel", ("auth_token", "host_key")),
    "serveo": TunnelKind("llmapi_kit.tunnels.ssh_providers:ServeoTunnel", ("domain", "identity_file", "host_key")),
    "auto": TunnelKind(
        "llmapi_kit.tunnels.auto:AutoTunnel", ("region", "ngrok_path", "cloudflared_path", *SSH_OPTIONS)
    ),
}
# Hosts of providers, so that host="localhost.run" is the kind of that name
PROVIDER_HOSTS = {
    "localhost.run": "localhost.run",
    "ssh.localhost.run": "localhost.run",
    "a.pinggy.io": "pinggy",
    "free.pinggy.io": "pinggy",
    "pro.pinggy.io": "pinggy",
    "serveo.net": "serveo",
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
        TunnelError: a program that it needs is not installed.
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
            options = ", ".join(name for name in names if name not in INTERNAL)
            raise ConfigError(f"A tunnel has no option {name!r}. Allowed: {options}.")
    return TunnelSettings(**values)


def open_tunnel(kind: str, *, port: int, settings: TunnelSettings) -> Tunnel:
    """A tunnel of this kind to `port` on this machine, not started: call its `start()` for the URL.

    Raises:
        ConfigError: the kind is unknown, it has no such option, or the port is not valid.
    """
    if kind not in TUNNEL_KINDS:
        hint = ' Pass tunnel="ngrok", or "auto" for the first that works.'
        if isinstance(kind, str):
            hint = did_you_mean(kind, TUNNEL_KINDS)
        raise ConfigError(f"There is no tunnel kind {kind!r}.{hint} Allowed: {', '.join(TUNNEL_KINDS)}.")
    if not 1 <= port <= 65535:
        raise ConfigError(f"A tunnel needs the server's port, between 1 and 65535, not {port!r}.")
    if kind == "ssh" and (provider := _provider(settings.host)) is not None:
        kind, settings = provider, replace(settings, host=None)
    _check_options(kind, settings)
    module_name, _, class_name = TUNNEL_KINDS[kind].where.partition(":")
    make = cast("Callable[..., Tunnel]", getattr(import_module(module_name), class_name))
    return make(port=port, settings=settings)


def settings_of_choice(kind: str, settings: TunnelSettings) -> TunnelSettings:
    """What a kind is given that "auto" tries: only what it has an option for.

    The user's login is for the user's host, and nobody is asked for a token, as other kinds need none.
    """
    options = TUNNEL_KINDS[kind].options if kind == "ssh" else set(TUNNEL_KINDS[kind].options) - set(SSH_OPTIONS)
    unused: dict[str, Any] = {name: None for name in _given(settings) if name not in options}
    return replace(settings, may_ask_person=False, **unused)


def _check_options(kind: str, settings: TunnelSettings) -> None:
    """No option is accepted and then ignored."""
    for name in _given(settings):
        if name not in TUNNEL_KINDS[kind].options:
            options = ", ".join((*TUNNEL_KINDS[kind].options, *COMMON_OPTIONS))
            having = ", ".join(other for other, each in TUNNEL_KINDS.items() if name in each.options)
            raise ConfigError(f"A tunnel of kind {kind!r} has no option {name!r}; {having} have. Allowed: {options}.")
    for name in ("timeout_s", "probe_interval_s"):
        seconds: object = getattr(settings, name)
        if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
            raise ConfigError(f"{name} is {seconds!r}; it must be a number of seconds above 0.")
    for name in TEXTS:
        text: object = getattr(settings, name)
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"{name} is {text!r}; it must be a string.")


def _given(settings: TunnelSettings) -> list[str]:
    """Options that only some kinds have, where they are set."""
    names = [field.name for field in fields(TunnelSettings) if field.name not in (*INTERNAL, *COMMON_OPTIONS)]
    return [name for name in names if getattr(settings, name) is not None]


def _provider(host: str | None) -> str | None:
    """The kind that a provider's ssh host stands for."""
    return PROVIDER_HOSTS.get(host.rpartition("@")[2].partition(":")[0]) if isinstance(host, str) else None
