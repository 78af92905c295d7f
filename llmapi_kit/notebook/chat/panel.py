"""What one chat and a comparison have in common: sessions, a front end over them, and commands in between.

What people click becomes a command in a queue; a thread of the panel's own does it, as Jupyter runs callbacks only
between cells. Answers stream on threads of their own; see `Session`.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from llmapi_kit.errors import ConfigError, LlmApiKitError
from llmapi_kit.notebook.chat import export
from llmapi_kit.notebook.chat.attachments import Attachment, attach, attach_file
from llmapi_kit.notebook.chat.backend import ModelChoice
from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.notebook.chat.failure import explain
from llmapi_kit.notebook.chat.front_end import FrontEnd, make_front_end
from llmapi_kit.notebook.chat.functions import read_functions
from llmapi_kit.notebook.chat.options import ChatOptions
from llmapi_kit.notebook.chat.session import RunTools, Session
from llmapi_kit.notebook.chat.snapshot import sees, snapshot
from llmapi_kit.notebook.chat.target import read_target
from llmapi_kit.notebook.chat.transcript import transcript
from llmapi_kit.places import is_jupyter_kernel

logger = logging.getLogger(__name__)

Kind = Literal["auto", "rich", "plain"]
EXPORTS: dict[str, Callable[[Session], str]] = {
    ".md": export.to_markdown,
    ".json": export.to_json,
    ".py": export.to_python,
}
SEPARATORS = {".md": "\n\n---\n\n", ".json": "\n", ".py": "\n\n"}  # between conversations side by side
IDLE_S = 60.0
LOOK_EVERY_S = 0.2  # so that a cell that waits can be interrupted everywhere


class ChatPanel:
    """One or several conversations that are shown side by side and asked the same. See `Chat` and `Comparison`.

    Args:
        targets: whom they are with; see `chat`.
        api_key: see `chat`.
        options: how to ask.
        kind: see `chat`.
    """

    def __init__(self, targets: Sequence[Any], api_key: str | None, options: ChatOptions, kind: Kind) -> None:
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._command_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._front_end: FrontEnd | None = None
        self._transcripts: list[Any] = []
        self._shown_in: object = None
        self._sessions = [Session(read_target(target, api_key), options, self) for target in targets]
        self._models: list[list[ModelChoice]] = [[] for _ in self._sessions]
        if is_jupyter_kernel():
            self._front_end = make_front_end(kind, self._state(), self._take)
        threading.Thread(target=self._find_models, name="llmapi_kit chat models", daemon=True).start()

    def tools(self, *functions: Callable[..., Any], run: RunTools = "ask") -> None:
        """Let the model call functions. They run in this kernel, with all that you may do.

        Args:
            functions: plain or ``async``; their names, docstrings and annotated parameters are what the model is
                told. None takes all away.
            run: ``ask`` shows each call and waits for a click, or `run_tools`; ``always`` runs them at once.

        Raises:
            ConfigError: a function can't be described, or `run` is neither of the two.
        """
        if run not in ("ask", "always"):
            raise ConfigError(f"run is {run!r}; it is 'ask' or 'always'.")
        found = read_functions(functions)
        for session in self._sessions:
            with session.lock:
                session.functions, session.run_tools = found, run
        self._show_all()

    def run_tools(self, *, allow: bool = True) -> None:
        """Run the calls that wait, as a click on Run does, and wait for what the model makes of them.

        Args:
            allow: False tells the model that they are not allowed.

        Raises:
            ConfigError: none waits.
        """
        waiting = self._waiting()
        if not waiting:
            raise ConfigError("No call waits to be allowed.")
        for session in waiting:
            session.allow(allow)
        self._wait(waiting)

    def stop(self) -> None:
        """End the answers that are being made; what came stays."""
        for session in self._sessions:
            session.stop()

    def clear(self) -> None:
        """Begin anew. The conversation so far stays, as a branch of the first message."""
        for session in self._sessions:
            session.begin_anew()

    def set(self, **options: Any) -> None:
        """Change how to ask, from the next question on.

        Args:
            options: ``model``, ``system``, ``temperature``, ``top_p``, ``max_tokens``, ``seed``; None leaves it to the
                model.

        Raises:
            ConfigError: there is no such option, or it has a value that can't be used.
        """
        for session in self._sessions:
            session.configure(options)

    def close(self) -> None:
        """Stop, and take the widget off the page; the conversation stays readable."""
        self.stop()
        front_end, self._front_end = self._front_end, None
        if front_end is not None:
            front_end.close()
        self._commands.put(None)

    def display(self) -> None:
        """Show it in the cell that runs. `chat` does this once; a second place shows the same conversation."""
        from IPython import display as output

        display: Any = output.display  # untyped there
        if self._front_end is not None:
            display(self._front_end.widget)
        self._transcripts.append(display(transcript(self._sessions), raw=True, display_id=True))
        self._shown_in = _current_cell()

    def _ipython_display_(self) -> None:
        """At the end of a cell; not twice in the cell that made it."""
        if self._shown_in is None or self._shown_in != _current_cell():
            self.display()

    # What sessions tell; see `llmapi_kit.notebook.chat.session.Listener`.

    def changed(self, session: Session) -> None:
        """A session is not what it was."""
        self._show_all()
        if not session.is_busy:
            self._update_transcripts()

    def grew(self, session: Session, message: Message) -> None:
        """An answer goes on."""
        if self._front_end is not None:
            self._guard(self._front_end.show_growth, message, self._state)

    def _state(self) -> dict[str, Any]:
        return snapshot(self._sessions, self._models)

    def _show_all(self) -> None:
        if self._front_end is not None:
            self._guard(self._front_end.show_state, self._state)

    def _update_transcripts(self) -> None:
        for handle in self._transcripts:
            self._guard(handle.update, transcript(self._sessions), raw=True)

    def _guard(self, show: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """What can't be shown must not end an answer: the kernel may be going down, its sockets closed."""
        try:
            show(*arguments, **options)
        except Exception:
            logger.debug("A chat could not be shown", exc_info=True)

    def _find_models(self) -> None:
        for index in range(len(self._sessions)):
            self._find_models_of(index)
        self._show_all()

    def _find_models_of(self, index: int) -> None:
        try:
            self._models[index] = self._sessions[index].backend.models()
        except Exception as exc:  # said when a question is asked, too
            logger.debug("The models could not be listed: %s", exc)

    def _wait(self, sessions: Sequence[Session]) -> None:
        """Wait for answers; an interrupted cell stops them.

        Raises:
            LlmApiKitError: one failed.
        """
        try:
            for session in sessions:
                while not session.wait(LOOK_EVERY_S):
                    pass
        except KeyboardInterrupt:
            self.stop()
            raise
        for session in sessions:
            last = session.conversation.last()
            if last.status == "failed":
                raise LlmApiKitError(last.error)

    def _send(self, text: str, images: Sequence[Any], wait: bool) -> list[str]:
        self._ask_all(text, attach(images))
        if wait:
            self._wait(self._sessions)
        return [session.conversation.last().content for session in self._sessions]

    def _ask_all(self, text: str, images: tuple[Attachment, ...] = ()) -> None:
        """Ask each one; or nobody, where one can't be asked now."""
        if any(session.is_busy for session in self._sessions):
            raise ConfigError("An answer is being made. Stop it first, or wait for its end.")
        if images:
            self._require_sight(self._sessions)
        for session in self._sessions:
            session.send(text, images)

    def _require_sight(self, sessions: Sequence[Session]) -> None:
        """Refuse pictures for a model that says that it takes text only. Looks anew, as it may be another one by now.

        Raises:
            ConfigError: one of them does.
        """
        for session in sessions:
            index = self._sessions.index(session)
            if self._sees(index) is not True:
                self._find_models_of(index)
            if self._sees(index) is False:
                name = session.options.model or self._models[index][0].name
                raise ConfigError(f"{name} takes text only. Leave the pictures out, or choose a model that sees.")

    def _sees(self, index: int) -> bool | None:
        return sees(self._sessions[index].options.model, self._models[index])

    def _take(self, command: dict[str, Any]) -> None:
        """Called by widgets, in the kernel's main thread or a subshell's."""
        with self._command_lock:
            self._commands.put(command)
            if self._thread is None:
                self._thread = threading.Thread(target=self._obey_all, name="llmapi_kit chat", daemon=True)
                self._thread.start()

    def _obey_all(self) -> None:
        """Do what comes; a chat that nobody touches for a while needs no thread."""
        while True:
            try:
                command = self._commands.get(timeout=IDLE_S)
            except queue.Empty:
                command = None
            front_end = self._front_end
            if command is not None and front_end is not None:
                self._obey_safely(command, front_end)
                continue
            with self._command_lock:
                if front_end is None or self._commands.empty():
                    self._thread = None
                    return

    def _obey_safely(self, command: dict[str, Any], front_end: FrontEnd) -> None:
        try:
            self._obey(command, front_end)
        except Exception as exc:
            self._guard(front_end.answer, command, error=explain(exc))

    def _obey(self, command: dict[str, Any], front_end: FrontEnd) -> None:
        """Do what somebody clicked on."""
        kind = command["kind"]
        sessions = self._sessions_of(command)
        answer: dict[str, Any] = {}
        if kind == "libraries":
            front_end.send_libraries(command)
            return
        if kind == "hello":
            front_end.show_state(self._state)
        elif kind == "export":
            answer["text"] = self._export(str(command["format"]))
        elif kind == "send":
            self._ask_all(str(command["text"]), _attached(command))
        elif kind == "edit":
            self._edit(sessions, command)
        else:
            for session in sessions:
                _do(session, kind, command)
        front_end.answer(command, **answer)

    def _edit(self, sessions: Sequence[Session], command: dict[str, Any]) -> None:
        if images := _attached(command):
            self._require_sight(sessions)
        for session in sessions:
            session.edit(str(command["id"]), str(command["text"]), images, command.get("kept"))

    def _sessions_of(self, command: dict[str, Any]) -> list[Session]:
        """The conversation that a command is about; all of them where it doesn't say."""
        if (pane := command.get("pane")) is not None:
            return [self._sessions[int(pane)]]
        return self._waiting() if command["kind"] == "allow" else self._sessions

    def _waiting(self) -> list[Session]:
        return [each for each in self._sessions if each.conversation.last().status == "waiting"]

    def _export(self, suffix: str) -> str:
        return SEPARATORS[suffix].join(EXPORTS[suffix](session) for session in self._sessions)

    def to_markdown(self) -> str:
        """The conversation for people."""
        return self._export(".md")

    def to_json(self) -> str:
        """The conversation as a request to an OpenAI-compatible API has it."""
        return self._export(".json")

    def to_python(self) -> str:
        """A program that asks the last question again, with the same settings. The key is not in it."""
        return self._export(".py")

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file, as its name says: ``.md``, ``.json`` or ``.py``.

        Raises:
            ConfigError: it ends in something else, or can't be written.
        """
        place = Path(path).expanduser()
        if place.suffix not in EXPORTS:
            raise ConfigError(f"{place.name} ends in {place.suffix!r}; a chat is saved as .md, .json or .py.")
        try:
            place.write_text(self._export(place.suffix), encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"The chat can't be written to {place}: {exc.strerror}.") from exc


def _do(session: Session, kind: str, command: dict[str, Any]) -> None:
    """One session's share of a command.

    Raises:
        ConfigError: it can't be done now.
    """
    actions: dict[str, Callable[[], None]] = {
        "stop": session.stop,
        "retry": lambda: session.retry(command.get("id")),
        "show": lambda: session.show(str(command["id"])),
        "clear": session.begin_anew,
        "set": lambda: session.configure(dict(command["options"])),
        "allow": lambda: session.allow(bool(command["allow"])),
    }
    if kind not in actions:
        raise ConfigError(f"A chat knows no command {kind!r}.")
    actions[kind]()


def _attached(command: dict[str, Any]) -> tuple[Attachment, ...]:
    """The pictures that came with a command."""
    files = zip(command.get("names") or (), command.get("buffers") or (), strict=True)
    return tuple(attach_file(str(name), bytes(data)) for name, data in files)


def _current_cell() -> object:
    """What tells one execution of a cell from another."""
    from IPython import get_ipython

    shell: Any = get_ipython()
    return shell.get_parent().get("header", {}).get("msg_id") if hasattr(shell, "get_parent") else None
