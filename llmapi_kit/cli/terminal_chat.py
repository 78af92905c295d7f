"""The interactive chat of ``llmapi-kit chat``: reads lines, shows answers as they come, knows a few commands.

Talks to a model through the OpenAI API or to a bot in a session. Blocking; runs in the terminal's main thread.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import typer

from llmapi_kit.client import LLMClient
from llmapi_kit.config import Settings
from llmapi_kit.errors import LlmApiKitError

FOLDER, HISTORY = "chat", "history"
MAX_LINES = 1000
TIMEOUT_S = 120.0
# A model's text must not move the cursor, set the title or answer for the user
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HELP = """/system TEXT  begin anew with this system prompt; without a text, with none
/reset        begin anew
/save FILE    write the conversation to a new file
/help         this
Ctrl-C ends an answer, Ctrl-D leaves."""


class Partner(Protocol):
    """Whom the chat is with.

    Attributes:
        name: shown, and written into saved conversations.
        remembers_stopped: whether an answer that was ended early stays part of the conversation.
    """

    name: str
    remembers_stopped: bool

    def say(self, text: str) -> Generator[str, None, None]:
        """Pieces of the answer; closing it ends the answer.

        Raises:
            LlmApiKitError: there is none; nothing is remembered of it.
        """
        ...

    def forget(self, system: str | None = None) -> None:
        """Begin anew, with another system prompt unless that is None."""
        ...


class ModelPartner:
    """A model, through the OpenAI API; the conversation is kept here. See `Partner`.

    Args:
        client: an `openai.OpenAI`.
        model: which.
        system: what the conversation begins with; empty for nothing.
    """

    remembers_stopped = True

    def __init__(self, client: Any, model: str, system: str = "") -> None:
        self.name = model
        self._client = client
        self._system = system
        self._messages: list[dict[str, str]] = []

    def say(self, text: str) -> Generator[str, None, None]:
        """See `Partner.say`."""
        import httpx
        import openai

        question = {"role": "user", "content": text}
        system = [{"role": "system", "content": self._system}] if self._system else []
        messages = [*system, *self._messages, question]
        parts: list[str] = []
        try:
            with self._client.chat.completions.create(model=self.name, messages=messages, stream=True) as stream:
                for chunk in stream:
                    parts.append((chunk.choices and chunk.choices[0].delta.content) or "")
                    yield parts[-1]
        except openai.APIError as exc:
            raise LlmApiKitError(exc.message) from exc
        except httpx.HTTPError as exc:
            raise LlmApiKitError(f"The answer was cut off: {exc or type(exc).__name__}.") from exc
        except (KeyboardInterrupt, GeneratorExit):
            if parts:
                self._remember(question, parts)
            raise
        self._remember(question, parts)

    def forget(self, system: str | None = None) -> None:
        """See `Partner.forget`."""
        self._messages.clear()
        self._system = self._system if system is None else system

    def _remember(self, question: dict[str, str], parts: list[str]) -> None:
        self._messages += [question, {"role": "assistant", "content": "".join(parts)}]


class BotPartner:
    """A bot in a session, which keeps the conversation. See `Partner`.

    Args:
        client: in its newer form.
    """

    remembers_stopped = False

    def __init__(self, client: LLMClient[str]) -> None:
        self.name = client.bot_type
        self._client = client

    def say(self, text: str) -> Generator[str, None, None]:
        """See `Partner.say`."""
        return self._client.stream(text, TIMEOUT_S)

    def forget(self, system: str | None = None) -> None:
        """See `Partner.forget`."""
        self._client.end_session()
        self._client.system = self._client.system if system is None else system


class TerminalChat:
    """One conversation in a terminal.

    Args:
        partner: whom it is with.
    """

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self._said: list[tuple[str, str]] = []
        self._commands: Mapping[str, Callable[[str], None]] = {
            "/system": self._begin_with,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: typer.echo(HELP),
        }

    def run(self) -> None:
        """Read and answer until the input ends."""
        while (line := _read_line()) is not None:
            command, _, argument = line.partition(" ")
            if command in self._commands:
                self._commands[command](argument.strip())
            elif command.startswith("/") and "/" not in command[1:]:
                typer.echo(f"There is no {command}. {', '.join(self._commands)} are there.", err=True)
            else:
                self._answer(line)

    def _answer(self, question: str) -> None:
        """Show an answer as it comes; Ctrl-C ends it."""
        parts: list[str] = []
        try:
            with closing(self._partner.say(question)) as pieces:
                for piece in pieces:
                    parts.append(piece)
                    typer.echo(CONTROL.sub("", piece), nl=False)
            typer.echo()
        except KeyboardInterrupt:
            typer.echo(" [stopped]" if self._partner.remembers_stopped else " [stopped, and forgotten]")
            if not self._partner.remembers_stopped:
                return
        except LlmApiKitError as exc:
            typer.echo(f"\n[{exc}]" if parts else f"[{exc}]", err=True)
            return
        self._said += [("you", question), (self._partner.name, "".join(parts))]

    def _reset(self, argument: str) -> None:
        self._partner.forget()
        self._said.clear()
        typer.echo("Forgotten.")

    def _begin_with(self, system: str) -> None:
        self._partner.forget(system)
        self._said.clear()
        typer.echo(
            "A new conversation, with that system prompt." if system else "A new conversation, with no system prompt."
        )

    def _save(self, name: str) -> None:
        if not name:
            typer.echo("Say where: /save FILE", err=True)
            return
        try:
            with open(Path(name).expanduser(), "x", encoding="utf-8") as file:
                file.writelines(f"{who}: {text}\n\n" for who, text in self._said)
        except OSError as exc:
            typer.echo(f"[Not saved: {exc.strerror or exc}: {name}]", err=True)
            return
        typer.echo(f"Saved {len(self._said)} messages to {name}.")


@contextlib.contextmanager
def line_history(settings: Settings) -> Iterator[None]:
    """Lines typed before come back with the arrow keys, also in the next chat. Nothing of it without a terminal."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    file = settings.folder(FOLDER) / HISTORY  # a folder that nobody else can read
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(MAX_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)


def _read_line() -> str | None:
    """The next line that is not empty; None at the end."""
    while True:
        typer.echo()
        try:
            if line := input("> ").strip():
                return line
        except KeyboardInterrupt:
            continue
        except EOFError:
            typer.echo()
            return None
