"""A step that replaces what matches a pattern, such as card numbers, in what is said or replied.

A reply that comes in pieces is redacted as if it came whole: what may still become part of a match is held back. The
`regex` package tells that (a partial match), and it bounds the time of a search, which `re` can't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from llmapi_kit.errors import ConfigError, GenerationError
from llmapi_kit.sessions.steps import ReplyFilter, ReplyFilters

REPLACEMENT = "[redacted]"
# A search in a reply runs on the server's event loop
TIMEOUT_S = 0.2
# Whether a word is over only the next character tells, and not every pattern says that it looks for one
UNFINISHED_WORD = regex.compile(r"\w{1,32}\Z")


class Redactor:
    r"""See `llmapi_kit.sessions.steps.PromptStep` and `ReplyStep`.

    Args:
        patterns: regular expressions, or a mapping from them to what stands in place of a match (``\1`` for a group).
            They are applied one after the other.
        replacement: for patterns that bring none.

    Raises:
        ConfigError: there is no pattern, or one is not valid or matches an empty text.
    """

    def __init__(self, patterns: Mapping[str, str] | Sequence[str], replacement: str = REPLACEMENT) -> None:
        if isinstance(patterns, str) or not patterns:
            raise ConfigError("patterns is a list of regular expressions, or an object of them and replacements.")
        pairs = patterns.items() if isinstance(patterns, Mapping) else [(each, replacement) for each in patterns]
        self._patterns = [_Pattern(pattern, replacement) for pattern, replacement in pairs]

    async def rewrite(self, prompt: str) -> str:
        """See `PromptStep.rewrite`."""
        for pattern in self._patterns:
            prompt = await asyncio.to_thread(pattern.replace, prompt, 0)
        return prompt

    def reply_filter(self) -> ReplyFilter:
        """See `ReplyStep.reply_filter`."""
        return ReplyFilters(self._patterns)


class _Pattern:
    """A pattern and what replaces its matches."""

    def __init__(self, pattern: str, replacement: str) -> None:
        if not isinstance(pattern, str) or not isinstance(replacement, str):
            raise ConfigError(f"The pattern {pattern!r} with {replacement!r} can't be used: both are texts.")
        try:
            self._pattern = regex.compile(pattern)
            regex.sub(f"|{pattern}", replacement, "")  # has a match, so that the replacement is tried
        except (regex.error, IndexError) as exc:
            raise ConfigError(f"The pattern {pattern!r} with {replacement!r} can't be used: {exc}.") from exc
        if self._pattern.match(""):
            raise ConfigError(f"The pattern {pattern!r} matches an empty text, so everywhere. Make it need something.")
        self._replacement = replacement

    def reply_filter(self) -> _Redaction:
        """See `ReplyStep.reply_filter`."""
        return _Redaction(self)

    def search(self, text: str, start: int) -> Any:
        """The first match from there on; None where there is none.

        Raises:
            GenerationError: it took too long.
        """
        try:
            return self._pattern.search(text, start, timeout=TIMEOUT_S)
        except TimeoutError as exc:
            raise _too_slow() from exc

    def may_grow(self, text: str, start: int) -> bool:
        """Whether all from there on may be the beginning of a match.

        Raises:
            GenerationError: it took too long.
        """
        try:
            return self._pattern.fullmatch(text, start, partial=True, timeout=TIMEOUT_S) is not None
        except TimeoutError as exc:
            raise _too_slow() from exc

    def replace(self, text: str, start: int) -> str:
        """The text from there on, with every match replaced.

        Raises:
            GenerationError: it took too long.
        """
        try:
            made = self._pattern.sub(self._replacement, text, pos=start, timeout=TIMEOUT_S, concurrent=True)
            return str(made)[start:]
        except TimeoutError as exc:
            raise _too_slow() from exc

    def expand(self, match: Any) -> str:
        """What stands in place of a match."""
        return str(match.expand(self._replacement))


class _Redaction:
    """One reply; see `ReplyFilter`. What was given out stays, as a pattern may look behind."""

    def __init__(self, pattern: _Pattern) -> None:
        self._pattern = pattern
        self._text = ""
        self._num_given = 0
        self._open = 0  # the first place from which all text on may be the beginning of a match

    async def feed(self, piece: str) -> str:
        """See `ReplyFilter.feed`."""
        self._text += piece
        given = []
        while (match := self._next_match()) is not None:
            end = match.end() + (match.start() == match.end())  # a place between characters: go past the next one
            given += [self._text[self._num_given : match.start()], self._pattern.expand(match)]
            given.append(self._text[match.end() : end])
            self._num_given = end
        word = UNFINISHED_WORD.search(self._text, self._num_given)
        certain = self._open if word is None else min(self._open, word.start())
        given.append(self._text[self._num_given : certain])
        self._num_given = max(self._num_given, certain)
        return "".join(given)

    def _next_match(self) -> Any:
        """The next match that no more text can change."""
        self._open = max(self._open, self._num_given)
        while self._open < len(self._text) and not self._pattern.may_grow(self._text, self._open):
            self._open += 1  # what can't become a match by now never will
        match = self._pattern.search(self._text, self._num_given)
        return match if match is not None and match.start() < self._open else None

    async def end(self) -> str:
        """See `ReplyFilter.end`."""
        return self._pattern.replace(self._text, self._num_given)


def _too_slow() -> GenerationError:
    return GenerationError("A pattern that this bot's text is checked with took too long, so nothing was let through.")
