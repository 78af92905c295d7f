"""`%%chat`, and `%llmapi status|stop|doctor`: what ``%load_ext llmapi_kit`` brings.

`%%chat` asks the newest server on this machine, and where none runs the model itself. Runs in the cell's own thread.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from llmapi_kit import kit
from llmapi_kit.checkpoints.known_names import DEFAULT_MODEL
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError, ServerNotFoundError
from llmapi_kit.notebook.display import show_server
from llmapi_kit.notebook.doctor import doctor
from llmapi_kit.notebook.show import show

COMMANDS = ("status", "stop", "doctor")
OTHER_NAMES = ("llm", "ai")  # what other tools call %%chat
EXPRESSION = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


class _Options(argparse.ArgumentParser):
    """Options of a magic: what is wrong is raised, and not the end of the kernel."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. {self.format_usage().strip()}")


def install(shell: Any) -> None:
    """Register the magics with an IPython shell; names that somebody else has taken stay theirs."""

    def chat(line: str, cell: str) -> None:
        answer = ask(line, cell, shell.user_ns)
        if answer is not None:
            shell.displayhook.update_user_ns(answer)  # it is _ and Out[n] then, and not shown once more

    taken = shell.magics_manager.magics
    shell.register_magic_function(chat, "cell", "chat")
    shell.register_magic_function(command, "line", "llmapi")
    for name in OTHER_NAMES:
        if name not in taken["cell"]:
            shell.register_magic_function(chat, "cell", name)


def ask(line: str, cell: str, names: Mapping[str, Any]) -> str | None:
    """Ask what a ``%%chat`` cell says, and show the answer under it; returns the answer.

    Args:
        line: options: ``-m`` a model, ``-s`` a system prompt, ``--temperature``, ``--max-tokens``.
        cell: the question; ``{expression}`` is replaced by the value of the Python expression, ``{{`` is a brace.
        names: what expressions see.
    """
    options = _options(line)
    if options is None:
        return None
    content = fill_in(cell.strip(), names)
    if not content:
        raise ConfigError("%%chat: the cell asks nothing. Write the question below the first line.")
    messages = [{"role": "user", "content": content}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": fill_in(options.system, names)})
    given = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    sampling = {name: value for name, value in given.items() if value is not None}
    return str(show(_answer(options.model, messages, sampling)))


def command(line: str) -> Any:
    """``%llmapi status`` shows the servers of this machine, ``stop`` stops this kernel's, ``doctor`` looks around."""
    name = line.strip() or "status"
    if name == "status":
        return _status()
    if name == "stop":
        kit.stop_all()
        return None
    if name == "doctor":
        return doctor()
    hint = did_you_mean(name, COMMANDS)
    raise ConfigError(f"%llmapi has no command {name!r}.{hint} Commands are: {', '.join(COMMANDS)}.")


def fill_in(text: str, names: Mapping[str, Any]) -> str:
    """A text with the values of its ``{expressions}``; what is not a Python expression, such as JSON, stays.

    Raises:
        ConfigError: an expression raises, or names what is not there.
    """

    def value(found: re.Match[str]) -> str:
        if found.group() in ("{{", "}}"):
            return found.group()[0]
        code = found.group(1).strip()
        try:
            ast.parse(code, mode="eval")
        except (SyntaxError, ValueError):
            return found.group()
        try:
            return str(eval(code, dict(names)))  # noqa: S307 - the user's own cell, as any other
        except Exception as exc:
            raise ConfigError(
                f"%%chat: {{{code}}} can't be filled in: {type(exc).__name__}: {exc}. Write {{{{ and }}}} for braces."
            ) from exc

    return EXPRESSION.sub(value, text)


def _options(line: str) -> argparse.Namespace | None:
    """What the first line says; None where it asked for help, which is printed."""
    parser = _Options(prog="%%chat", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--model", help="which model; the server's first one unless given")
    parser.add_argument("-s", "--system", help="a system prompt, in quotes")
    parser.add_argument("-t", "--temperature", type=float)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    try:
        options = parser.parse_args(shlex.split(line))
    except ValueError as exc:  # a quote that is not closed
        raise ConfigError(f"%%chat: {exc}.") from exc
    if options.help:
        parser.print_help()
        return None
    return options


def _answer(name: str | None, messages: list[dict[str, str]], sampling: Mapping[str, Any]) -> Iterator[Any]:
    """Pieces of the answer: of a server that has the model, else of the model itself."""
    try:
        remote = kit.connect()
        models = remote.models()
    except ServerNotFoundError:
        models = []
    if models and (name is None or name in models):
        with remote.client() as client:
            yield from client.chat.completions.create(
                model=name or models[0],
                messages=messages,  # type: ignore[arg-type]  # plain dictionaries, as its documentation writes them
                stream=True,
                **sampling,
            )
    else:
        yield from kit.load(name or DEFAULT_MODEL).stream(messages, **sampling)


def _status() -> Any:
    """This kernel's servers as cards, those of others as a list."""
    records = kit.servers()
    own = kit.own_servers()
    for server in own:
        show_server(server)
    others = [record for record in records if record.url not in {server.url for server in own}]
    if not records:
        print("No server of llmapi_kit runs on this machine. kit.launch('pocket') starts one.")  # noqa: T201
    return others or None
