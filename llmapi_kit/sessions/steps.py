"""Steps before and after a bot: they rewrite or refuse what is said to it, and filter what it replies.

Whoever runs the server names them in the setting `bots`; a step is any object with the methods below. A step that
fails ends the ask in an error: nothing passes it unseen. Runs on the server's event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from llmapi_kit.errors import ConfigError

SHIPPED: Mapping[str, str] = {
    "words": "llmapi_kit.sessions.word_filter:WordFilter",
    "redact": "llmapi_kit.sessions.redactor:Redactor",
}


class Refusal(Exception):  # noqa: N818 - no error: an answer in place of the bot's
    """Raised by a step: `notice` is the reply, and nothing of the exchange is remembered."""

    def __init__(self, notice: str) -> None:
        super().__init__(notice)
        self.notice = notice


@runtime_checkable
class PromptStep(Protocol):
    """Sees what is said before the bot does."""

    async def rewrite(self, prompt: str) -> str:
        """What the bot gets in its place.

        Raises:
            Refusal: the bot is not to get it.
        """
        ...


class ReplyFilter(Protocol):
    """Filters one reply, which comes in pieces cut anywhere. What it let out can't be taken back."""

    async def feed(self, piece: str) -> str:
        """Take a piece; give out what is certain by now, which may be nothing.

        Raises:
            Refusal: the reply is withdrawn, and the bot stopped.
        """
        ...

    async def end(self) -> str:
        """What was held back, now that no more comes.

        Raises:
            Refusal: the reply is withdrawn.
        """
        ...


@runtime_checkable
class ReplyStep(Protocol):
    """Sees what the bot replies before the client does."""

    def reply_filter(self) -> ReplyFilter:
        """A filter for one reply."""
        ...


class ReplyFilters:
    """Filters one after the other, as one."""

    def __init__(self, steps: Sequence[ReplyStep]) -> None:
        self._filters = [step.reply_filter() for step in steps]

    async def feed(self, piece: str) -> str:
        """See `ReplyFilter.feed`."""
        for each in self._filters:
            if not piece:
                break
            piece = await each.feed(piece)
        return piece

    async def end(self) -> str:
        """See `ReplyFilter.end`."""
        rest = ""
        for each in self._filters:
            if rest:
                rest = await each.feed(rest)
            rest += await each.end()
        return rest


def make_step(spec: object, where: str) -> Any:
    """A step as the setting names it.

    Args:
        spec: ``"words"``, ``"redact"`` or ``"package.module:name"``, or an object with one of these as ``step``
            and what it is made with beside it. A name leads to a class or function that makes a step.
        where: in the setting, for messages.

    Raises:
        ConfigError: there is no such step, or it can't be made so.
    """
    given = dict(spec) if isinstance(spec, Mapping) else {"step": spec}
    name = given.pop("step", None)
    if not isinstance(name, str) or not (name in SHIPPED or _is_import_string(name)):
        raise ConfigError(
            f"{where} is {spec!r}: a step is one of {', '.join(SHIPPED)} or 'package.module:name', or an object with "
            "that as its 'step' and arguments beside it."
        )
    module, _, attribute = SHIPPED.get(name, name).partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"{where}: the step {name!r} can't be imported: {exc}.") from exc
    try:
        return factory(**given)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    except TypeError as exc:
        raise ConfigError(
            f"{where}: the step {name!r} is not made with {', '.join(given) or 'nothing'}: {exc}."
        ) from exc


def _is_import_string(name: str) -> bool:
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
