"""Remembers how conversations were tokenized, so that the next turn tokenizes only what is new.

A special token is cut out of a text before anything else is tokenized. So what stands before one has the same tokens
whatever follows, and a conversation can be put together from what was tokenized before and the rest. Knows texts and
token ids, no requests. Called from worker threads.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass

MIN_CHARACTERS = 500  # below, tokenizing takes less time than looking


@dataclass(frozen=True, slots=True)
class _Beginning:
    text: str
    ids: array[int]
    salt: str


class EncodingCache:
    """Tokenizes texts that often begin like an earlier one.

    Args:
        encode: token ids of a text, without tokens that a prompt would get at its ends.
        boundaries: special tokens that are cut out first and take nothing of their neighbours with them; without any,
            nothing is remembered.
        max_tokens: kept in all; 4 bytes each, and their text.
        max_texts: kept in all.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        boundaries: Collection[str],
        *,
        max_tokens: int = 1_000_000,
        max_texts: int = 64,
    ) -> None:
        self._encode = encode
        self._boundaries = tuple(boundaries)
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._lock = threading.Lock()
        self._kept: list[_Beginning] = []  # the one used last at the end

    def encode(self, text: str, salt: str = "") -> list[int]:
        """Token ids of a text.

        Args:
            text: what to tokenize.
            salt: what was tokenized under another one is not used: the time it takes would tell of it.
        """
        if len(text) < MIN_CHARACTERS or not self._boundaries:
            return self._encode(text)
        known = self._longest(text, salt)
        ids = self._encode(text) if known is None else [*known.ids, *self._encode(text[len(known.text) :])]
        self._keep(text, ids, salt, known)
        return ids

    def _longest(self, text: str, salt: str) -> _Beginning | None:
        with self._lock:
            fitting = [each for each in self._kept if each.salt == salt and text.startswith(each.text)]
        return max(fitting, key=lambda each: len(each.text), default=None)

    def _keep(self, text: str, ids: list[int], salt: str, known: _Beginning | None) -> None:
        """Remember the text up to its last boundary, in place of what it goes on from."""
        cut = max(text.rfind(boundary) for boundary in self._boundaries)
        if cut <= 0 or (known is not None and cut <= len(known.text)):
            return
        rest = self._encode(text[cut:])
        if not rest or ids[-len(rest) :] != rest:
            return  # not a place where this tokenizer cuts
        with self._lock:
            self._kept = [each for each in self._kept if each is not known]
            self._kept.append(_Beginning(text[:cut], array("i", ids[: -len(rest)]), salt))
            while len(self._kept) > self._max_texts or sum(len(each.ids) for each in self._kept) > self._max_tokens:
                del self._kept[0]
