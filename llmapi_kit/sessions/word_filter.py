"""A step that refuses what has a word of a list in it, and answers with a fixed notice.

Upper and lower case, full-width forms, runs of white space and invisible characters make no difference. A word of an
alphabet with upper and lower case, or of digits, is found as a whole word only ("ass" is not in "class"); one of a
script that does not part its words, such as Chinese, is found anywhere. In a stream only what may still become a word
is held back, so a word that comes in pieces never gets out. Runs in time proportional to the text.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from llmapi_kit.errors import ConfigError
from llmapi_kit.sessions.steps import Refusal

NOTICE = "This can't be answered here: it has a word in it that is not allowed."
MAX_WORD_LENGTH = 200
# Characters looked at before others have their turn on the event loop: some milliseconds' worth
STRETCH = 5000


@dataclass(slots=True)
class _Node:
    """A place in the tree of words: what may come next, and whether a word ends here."""

    next: dict[str, _Node] = field(default_factory=dict)
    is_end: bool = False


class WordFilter:
    """See `llmapi_kit.sessions.steps.PromptStep` and `ReplyStep`.

    Args:
        words: that are not allowed.
        file: more of them, one a line, in UTF-8; empty lines and lines that begin with ``#`` are left out.
        notice: the reply in place of the bot's.

    Raises:
        ConfigError: there are no words, one is too long, or the file can't be read.
    """

    def __init__(self, words: Sequence[str] = (), file: str | None = None, notice: str = NOTICE) -> None:
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ConfigError("words is a list of texts.")
        if not isinstance(notice, str) or not notice:
            raise ConfigError("notice is a text.")
        self.notice = notice
        self._root = _Node()
        listed = [*words, *(_read(file) if file is not None else ())]
        for word in listed:
            self._add(word)
        if not self._root.next:
            raise ConfigError("A word filter needs words: as 'words', or as a 'file' with one a line.")

    async def rewrite(self, prompt: str) -> str:
        """See `PromptStep.rewrite`: the prompt as it is, or a refusal."""
        scan = self.reply_filter()
        for start in range(0, len(prompt), STRETCH):
            await scan.feed(prompt[start : start + STRETCH])
            await asyncio.sleep(0)
        await scan.end()
        return prompt

    def reply_filter(self) -> _Scan:
        """See `ReplyStep.reply_filter`."""
        return _Scan(self._root, self.notice)

    def _add(self, word: str) -> None:
        if len(word) > MAX_WORD_LENGTH:
            raise ConfigError(f"A word has {len(word)} characters; at most {MAX_WORD_LENGTH} are allowed.")
        for form in ("NFC", "NFD"):  # an accent may come as a character of its own
            node = self._root
            for char in _folded(unicodedata.normalize(form, word.strip())):
                node = node.next.setdefault(char, _Node())
            node.is_end = node is not self._root


class _Scan:
    """Looks for words in a text that comes in pieces; see `ReplyFilter`."""

    def __init__(self, root: _Node, notice: str) -> None:
        self._root = root
        self._notice = notice
        self._held = ""
        self._walks: list[tuple[int, _Node]] = []  # where in `held` a word may have begun, and how far it has come
        self._last = " "

    async def feed(self, piece: str) -> str:
        """See `ReplyFilter.feed`."""
        at = len(self._held)
        self._held += piece
        for char in piece:
            for folded in _fold(char):
                self._step(folded, at)
            at += 1
        certain = min((start for start, _ in self._walks), default=len(self._held))
        given, self._held = self._held[:certain], self._held[certain:]
        self._walks = [(start - certain, node) for start, node in self._walks]
        return given

    async def end(self) -> str:
        """See `ReplyFilter.end`."""
        if any(node.is_end for _, node in self._walks):
            raise Refusal(self._notice)
        given, self._held, self._walks = self._held, "", []
        return given

    def _step(self, char: str, at: int) -> None:
        if char == self._last == " ":
            return
        is_boundary = not (_is_of_word(char) and _is_of_word(self._last))
        if is_boundary and any(node.is_end for _, node in self._walks):
            raise Refusal(self._notice)
        walks = [*self._walks, (at, self._root)] if is_boundary else self._walks
        self._walks = [(start, node.next[char]) for start, node in walks if char in node.next]
        if not _is_of_word(char) and any(node.is_end for _, node in self._walks):
            raise Refusal(self._notice)  # no need to see what follows
        self._last = char


def _read(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError, TypeError) as exc:
        raise ConfigError(f"The file of words {file!r} can't be read: {exc}.") from exc
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _folded(text: str) -> str:
    """A text as it is compared."""
    chars: list[str] = []
    for char in "".join(map(_fold, text)):
        if not (char == " " and chars[-1:] == [" "]):
            chars.append(char)
    return "".join(chars)


@lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    """A character as it is compared: nothing for an invisible one."""
    if unicodedata.category(char) == "Cf":
        return ""
    return "".join(" " if each.isspace() else each for each in unicodedata.normalize("NFKC", char).casefold())


@lru_cache(maxsize=4096)
def _is_of_word(char: str) -> bool:
    """Whether it belongs with its neighbours to a word: a digit, a letter that knows upper and lower case, a mark."""
    return char.isdigit() or char.lower() != char.upper() or unicodedata.combining(char) != 0
