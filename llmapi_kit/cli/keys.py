"""``llmapi-kit keys``: the teammates' keys of a server that runs on this machine. No logic of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmapi_kit.cli.error_lines import errors_as_lines
from llmapi_kit.errors import ConfigError

if TYPE_CHECKING:
    from llmapi_kit.server.keys import Keys

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LENGTH = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")

app = typer.Typer(help="Keys for teammates of a server that runs on this machine.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose key it is.", show_default=False)]
ServerName = Annotated[
    str | None, typer.Option("--name", help="The server, by the name of its launch. Default: this machine's newest.")
]
Rpm = Annotated[int | None, typer.Option(help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option(help="Tokens a minute, of prompts and answers.")]
Concurrency = Annotated[int | None, typer.Option(help="Requests at once.")]
Budget = Annotated[int | None, typer.Option(help="Tokens in all, of prompts and answers.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use. May be given again.", show_default=False)
]
Expires = Annotated[
    str | None, typer.Option(help="When it ends: 90m, 12h, 7d, 4w, 2026-12-31 or 2026-12-31T18:00.", show_default=False)
]


@app.command()
def create(
    name: Name,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    budget: Budget = None,
    models: Models = None,
    expires: Expires = None,
    server: ServerName = None,
) -> None:
    """Make a key and print it, this once."""
    with errors_as_lines():
        options = _options(rpm=rpm, tpm=tpm, concurrency=concurrency, budget=budget, models=models, expires=expires)
        key = _with_keys(server, lambda keys: keys.create(name, **options))
        print(key.api_key)
        print(f"For {name}, with the base URL {key.base_url}. It is not kept: copy it now.", file=sys.stderr)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="Who is invited.", show_default=False)],
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    budget: Budget = None,
    models: Models = None,
    expires: Expires = None,
    server: ServerName = None,
) -> None:
    """Print a link that gives one person a key: whoever opens it first gets it, once, within a week."""
    with errors_as_lines():
        options = _options(rpm=rpm, tpm=tpm, concurrency=concurrency, budget=budget, models=models, expires=expires)
        print(_with_keys(server, lambda keys: keys.invite(name, **options)).url)


@app.command("list")
def list_keys(server: ServerName = None) -> None:
    """List the keys that there are and were."""
    with errors_as_lines():
        print(_with_keys(server, lambda keys: keys.list().as_text()))


@app.command()
def revoke(name: Name, server: ServerName = None) -> None:
    """Close a key, or an invitation, for ever; what it is being answered ends within a second."""
    with errors_as_lines():
        _with_keys(server, lambda keys: keys.revoke(name))


@app.command()
def rotate(name: Name, server: ServerName = None) -> None:
    """Make another secret for a key, and print it; the old one opens nothing any more."""
    with errors_as_lines():
        print(_with_keys(server, lambda keys: keys.rotate(name)).api_key)


@app.command()
def pause(name: Name, server: ServerName = None) -> None:
    """Close a key until it is resumed."""
    with errors_as_lines():
        _with_keys(server, lambda keys: keys.pause(name))


@app.command()
def resume(name: Name, server: ServerName = None) -> None:
    """Let a key that was paused open again."""
    with errors_as_lines():
        _with_keys(server, lambda keys: keys.resume(name))


@app.command()
def usage(
    days: Annotated[int, typer.Option(help="So many days back, today's included.", min=1, max=3660)] = 30,
    server: ServerName = None,
) -> None:
    """Show what each key used."""
    with errors_as_lines():
        print(_with_keys(server, lambda keys: keys.usage(days).as_text()))


def _with_keys(server: str | None, work: Callable[[Keys], Any]) -> Any:
    from llmapi_kit.config import load_settings
    from llmapi_kit.server.keys_elsewhere import keys_elsewhere

    with keys_elsewhere(load_settings(), server) as keys:
        return work(keys)


def _options(*, models: list[str] | None, expires: str | None, **limits: int | None) -> Any:
    """What was given, as `Keys.create` takes it."""
    return {**limits, "models": models or None, "expires": None if expires is None else read_expiry(expires)}


def read_expiry(text: str) -> timedelta | datetime:
    """A length of time, or a moment of this machine's time zone.

    Raises:
        ConfigError: it is neither.
    """
    if found := LENGTH.fullmatch(text.strip()):
        return timedelta(**{UNITS[found[2]]: float(found[1])})
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ConfigError(f"--expires is {text!r}; write 90m, 12h, 7d, 4w, 2026-12-31 or 2026-12-31T18:00.") from exc
