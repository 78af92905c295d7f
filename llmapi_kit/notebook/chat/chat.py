"""`chat()` and what it returns: a conversation to click on and to use from code. A cell's call returns at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from llmapi_kit.errors import ConfigError
from llmapi_kit.notebook.chat.backend import ModelChoice
from llmapi_kit.notebook.chat.options import ChatOptions
from llmapi_kit.notebook.chat.panel import ChatPanel, Kind
from llmapi_kit.notebook.chat.session import Session
from llmapi_kit.places import is_jupyter_kernel


class Chat(ChatPanel):
    """A conversation with one model. `chat` makes it."""

    def send(self, text: str, *, images: Sequence[Any] = (), wait: bool = True) -> str:
        """Ask something, as if it was typed into the widget, and return the answer.

        Interrupting the cell stops the answer.

        Args:
            text: what to ask.
            images: pictures, for a model that sees: paths, bytes of files, Pillow images, arrays or URLs; see
                `llmapi_kit.images.attach.with_images`.
            wait: False returns at once, with an empty text; the answer comes in the widget and in `messages`.

        Returns:
            The answer. Empty where the model wants functions called that somebody has to allow first: click on Run,
            or call `run_tools`.

        Raises:
            ConfigError: an answer is being made, the text is empty, or the model takes text only.
            InvalidRequestError: a picture can't be read.
            LlmApiKitError: there is no answer; the message says why and what to do.
        """
        return self._send(text, images, wait)[0]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that is shown, as OpenAI's API has it, the system prompt included."""
        return _messages(self._sessions[0])

    def __repr__(self) -> str:
        return f"Chat with {_name(self._sessions[0], self._models[0])}: {_count(self.messages)}"


class Comparison(ChatPanel):
    """Several models side by side, each with a conversation of its own. `chat` makes it of a list."""

    def send(self, text: str, *, images: Sequence[Any] = (), wait: bool = True) -> list[str]:
        """Ask all of them the same at the same time; see `Chat.send`."""
        return self._send(text, images, wait)

    @property
    def messages(self) -> list[list[dict[str, Any]]]:
        """Each one's conversation; see `Chat.messages`."""
        return [_messages(session) for session in self._sessions]

    def __repr__(self) -> str:
        names = map(_name, self._sessions, self._models)
        return f"Chat with {' and '.join(names)}: {_count(self.messages[0])} each"


@overload
def chat(
    target: list[Any] | tuple[Any, ...],
    *,
    api_key: str | None = None,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    kind: Kind = "auto",
) -> Comparison: ...
@overload
def chat(
    target: Any = None,
    *,
    api_key: str | None = None,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    kind: Kind = "auto",
) -> Chat: ...
def chat(
    target: Any = None,
    *,
    api_key: str | None = None,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    kind: Kind = "auto",
) -> Chat | Comparison:
    """A chat in this cell. Returns at once; run the cell again for a new one.

    The conversation stays readable in the saved notebook, without a kernel.

    Args:
        target: what `launch`, `connect` or `load` returned, the URL of any OpenAI-compatible API, a model's name, or
            None for the newest server of this machine. A list of these shows them side by side, asked the same.
        api_key: for a URL. In a notebook that is shared, take it from the environment.
        model: which of the server's models; its first unless given. The widget lets one choose.
        system: what the conversation begins with.
        temperature: 0 to 2; the model's own unless given, as for the next three.
        top_p: above 0, at most 1.
        max_tokens: of an answer.
        seed: for the same answer again.
        kind: ``rich`` needs anywidget; ``plain`` is made of core ipywidgets; ``auto`` takes the first that loads.

    Raises:
        ConfigError: an argument can't be used.
        ServerNotFoundError: no target was given, and no server runs on this machine.
        MissingDependencyError: `kind` asks for a package that is not installed.

    Examples:
        >>> chat = kit.chat(kit.load("mock"))
        >>> chat.send("Hello!")
        'Hello!'
        >>> [message["role"] for message in chat.messages]
        ['user', 'assistant']
    """
    if kind not in ("auto", "rich", "plain"):
        raise ConfigError(f"kind is {kind!r}; it is 'auto', 'rich' or 'plain'.")
    given = {"model": model, "system": system}
    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    options = ChatOptions().changed({**given, **sampling})
    made: Chat | Comparison
    if isinstance(target, list | tuple):
        if not target:
            raise ConfigError("A list of targets has at least one.")
        made = Comparison(target, api_key, options, kind)
    else:
        made = Chat([target], api_key, options, kind)
    if is_jupyter_kernel():
        made.display()
    return made


def _messages(session: Session) -> list[dict[str, Any]]:
    with session.lock:
        return session.conversation.to_openai(session.conversation.last(), session.options.system)


def _name(session: Session, models: Sequence[ModelChoice]) -> str:
    return session.options.model or next((each.name for each in models), "a model")


def _count(messages: Sequence[object]) -> str:
    return f"{len(messages)} message{'' if len(messages) == 1 else 's'}"
