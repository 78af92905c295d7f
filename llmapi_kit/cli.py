"""The kit from a terminal: ``llmapi-kit serve|chat|doctor|notebooks``.

The same words as in a cell, and no logic of its own. An error of the kit is one line on stderr and exit status 1.
"""

from __future__ import annotations

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

from llmapi_kit.errors import LlmApiKitError, MissingDependencyError
from llmapi_kit.version import __version__

app = typer.Typer(
    help="Turn a machine into a model server with an OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Turn a machine into a model server with an OpenAI-compatible API."""
    if version:
        print(f"llmapi-kit {__version__}")
        raise typer.Exit


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="'pocket', 'mock', a folder, or a hub name.")] = "pocket",
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    tunnel: Annotated[str | None, typer.Option(help="'ngrok' for a public URL.")] = None,
    device: Annotated[str | None, typer.Option(help="'cpu' or 'cuda'; default: a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="'float32', 'bfloat16' or 'float16'.")] = None,
    max_slots: Annotated[int | None, typer.Option(help="Requests answered at once.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Most tokens a request may have.")] = None,
) -> None:
    """Serve a model until Ctrl-C.

    The key is random, or LLMAPI_KIT_API_KEY from the environment; it is written to a file that only you can read.
    """
    with _errors_as_lines():
        from llmapi_kit import kit
        from llmapi_kit.notebook.snippets import curl_snippet

        # Otherwise warnings would only be in the server's own buffer
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        done = threading.Event()
        print(f"Loading {model} ...", flush=True)
        sizes = {"max_slots": max_slots, "context_length": context_length}
        settings = {name: size for name, size in sizes.items() if size is not None}
        loaded = kit.load(model, device=device, dtype=dtype, **settings)
        key = os.environ.get("LLMAPI_KIT_API_KEY") or None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: done.set())
        server = kit.launch(loaded, port=port, host=host, tunnel=tunnel, api_key=key)
        print(server)
        print(f"  key in  {server.key_file}\n")
        print(f"{curl_snippet(server.url, server.key_file, loaded.name)}\n\nServing until Ctrl-C.", flush=True)
        while server.is_running and not done.wait(1):
            pass
        print("\nStopping ...", flush=True)
        kit.stop_all(drain_s=server.settings.drain_s)


@app.command()
def chat(
    url: Annotated[str | None, typer.Option(help="Of the server; default: the newest one on this machine.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the server's first.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
) -> None:
    """Chat with a running server. /reset forgets the conversation, Ctrl-D leaves.

    The key of a server on this machine is found by itself; for another one set LLMAPI_KIT_API_KEY.
    """
    with _errors_as_lines():
        from llmapi_kit import kit

        remote = kit.connect(url)
        model = model or remote.models()[0]
        print(f"{model} at {remote.url}. /reset forgets, Ctrl-D leaves.")
        client = remote.client()
        start = [{"role": "system", "content": system}] if system else []
        messages = list(start)
        while (question := _read_question()) is not None:
            if question == "/reset":
                messages = list(start)
                continue
            messages.append({"role": "user", "content": question})
            answer = _print_answer(client, model, messages)
            messages = [*messages, {"role": "assistant", "content": answer}] if answer is not None else messages[:-1]


@app.command()
def doctor() -> None:
    """Check this machine and say what is missing."""
    from llmapi_kit.notebook.doctor import doctor as examine

    report = examine()
    print(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are, or shall be copied to.")] = Path("notebooks"),
) -> None:
    """Open JupyterLab on the notebooks; copies them to FOLDER first where they are not there."""
    with _errors_as_lines():
        if importlib.util.find_spec("jupyterlab") is None:
            raise MissingDependencyError("jupyterlab", "notebook", "Opening the notebooks")
        if not any(folder.glob("0*.ipynb")):
            source = Path(__file__).parent / "_notebooks"
            if not source.is_dir():
                source = Path(__file__).parents[1] / "notebooks"
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            print(f"Copied the notebooks to {folder}/")
        command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(folder)]
        if os.name == "posix" and os.geteuid() == 0:  # the rule on rented machines and in containers
            command.append("--allow-root")
        raise typer.Exit(subprocess.run(command, check=False).returncode)


class _errors_as_lines:  # noqa: N801 - reads as a statement
    """An error of the kit becomes a line on stderr and exit status 1."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LlmApiKitError):
            print(f"llmapi-kit: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


def _read_question() -> str | None:
    """The next line that is not empty; None at the end."""
    try:
        while not (line := input("\n> ").strip()):
            pass
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    return line


def _print_answer(client: object, model: str, messages: list[dict[str, str]]) -> str | None:
    """Stream an answer to the terminal; None when it failed. Ctrl-C ends the answer and keeps what is there."""
    import openai

    parts: list[str] = []
    try:
        stream = client.chat.completions.create(model=model, messages=messages, stream=True)  # type: ignore[attr-defined]
        with stream:
            for chunk in stream:
                parts.append((chunk.choices and chunk.choices[0].delta.content) or "")
                print(parts[-1], end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except openai.APIError as exc:
        print(f"\n[{exc.message}]", file=sys.stderr)
        return None
    print()
    return "".join(parts)
