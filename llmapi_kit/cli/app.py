"""The kit from a terminal: ``llmapi-kit serve|share|chat|keys|doctor|notebooks``.

The same words as in a cell, and no logic of its own. An error of the kit is one line on stderr and exit status 1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from llmapi_kit.cli import keys
from llmapi_kit.cli.error_lines import errors_as_lines
from llmapi_kit.cli.serve import serve
from llmapi_kit.cli.tunnel_flags import TUNNEL_HELP, TUNNEL_OPTION_HELP, tunnel_options
from llmapi_kit.errors import MissingDependencyError
from llmapi_kit.version import __version__

app = typer.Typer(
    help="Turn a machine into a model server with an OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
# So that --load_in_8bit is --load-in-8bit
UNDERSCORES = {"token_normalize_func": lambda name: name.replace("_", "-")}
app.command(context_settings=UNDERSCORES)(serve)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Turn a machine into a model server with an OpenAI-compatible API."""
    if version:
        print(f"llmapi-kit {__version__}")
        raise typer.Exit


@app.command()
def share(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Launch a server of this model, and share that.", show_default=False),
    ] = None,
    tunnel: Annotated[str, typer.Option(help=TUNNEL_HELP)] = "auto",
    tunnel_option: Annotated[list[str] | None, typer.Option(help=TUNNEL_OPTION_HELP, show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(help="Of the server to share. Default: this machine's newest.", show_default=False)
    ] = None,
) -> None:
    """Give a server a public URL until Ctrl-C.

    The newest server of yours on this machine, a notebook's too, goes on when the sharing ends. Where none runs, or a
    MODEL is named, one is launched: the same as 'serve MODEL --tunnel auto'.
    """
    with errors_as_lines():
        from llmapi_kit.cli.share import find_server, share_until

        options = tunnel_options(tunnel_option or ())
        record = None if models else find_server(port)
        if record is not None:
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
            # What it warns of is shown as it happens
            logging.getLogger("llmapi_kit.tunnels.watcher").setLevel(logging.ERROR)
            done = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: done.set())
            share_until(done, record, tunnel, options)
            return
    serve(models, tunnel=tunnel, tunnel_option=tunnel_option, port=8000 if port is None else port)


@app.command()
def chat(
    host: Annotated[
        str | None, typer.Option("--host", "--url", help="The server; default: this machine's newest.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the server's first, or the bot's.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    bot: Annotated[str | None, typer.Option(help="Chat in a session with this bot, such as 'chatgpt'.")] = None,
) -> None:
    """Chat with a running server. /help lists the commands, Ctrl-C ends an answer, Ctrl-D leaves.

    The key of a server on this machine is found by itself; for another one set LLMAPI_KIT_API_KEY.
    """
    with errors_as_lines():
        from llmapi_kit import kit
        from llmapi_kit.cli import terminal_chat
        from llmapi_kit.client import LLMClient
        from llmapi_kit.config import load_settings

        remote = kit.connect(host)
        with contextlib.ExitStack() as open_things:
            open_things.enter_context(terminal_chat.line_history(load_settings()))
            partner: terminal_chat.Partner
            if bot is not None:
                settings = {"model": model} if model else {}
                client = LLMClient(remote.url, bot=bot, apikey=remote.api_key, system=system, settings=settings)
                open_things.enter_context(client)
                client.start_session()
                partner = terminal_chat.BotPartner(client)
            else:
                partner = terminal_chat.ModelPartner(remote.client(), model or remote.models()[0], system or "")
            print(f"{partner.name} at {remote.url}. /help lists the commands, Ctrl-D leaves.")
            terminal_chat.TerminalChat(partner).run()


@app.command()
def doctor() -> None:
    """Check this machine and say what is missing."""
    from llmapi_kit.notebook.doctor import doctor as examine

    report = examine()
    print(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are, or are copied to.")] = Path("notebooks"),
) -> None:
    """Open JupyterLab on the notebooks; copies them to FOLDER first where they are not there."""
    with errors_as_lines():
        if importlib.util.find_spec("jupyterlab") is None:
            raise MissingDependencyError("jupyterlab", "notebook", "Opening the notebooks")
        if not any(folder.glob("0*.ipynb")):
            source = Path(__file__).parents[1] / "_notebooks"
            if not source.is_dir():
                source = Path(__file__).parents[2] / "notebooks"
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            print(f"Copied the notebooks to {folder}/")
        command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(folder)]
        if os.name == "posix" and os.geteuid() == 0:  # the rule on rented machines and in containers
            command.append("--allow-root")
        raise typer.Exit(subprocess.run(command, check=False).returncode)
