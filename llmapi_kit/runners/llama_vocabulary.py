"""A GGUF file's vocabulary, as llama.cpp reads it: text to ids and back. Free of torch; thread-safe.

Before byte pairs, llama.cpp splits a text with `std::regex`, which recurses as deep as a match is long: some 20,000
characters without a space in between overflow a usual stack, and with it the process. So texts with long runs are read
on a thread with a larger one, and runs that would overflow that too are cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.runners import libllama
from llmapi_kit.runners.large_stack import start_with_large_stack
from llmapi_kit.runners.llama_model import LlamaModel

# A match takes about 400 bytes of stack a character; on macOS, threads have 512 KiB unless asked for more
SHORT_RUN, MAX_RUN = 512, 50_000
LONG_RUN = re.compile(rf"\s{{{SHORT_RUN + 1}}}|\S{{{SHORT_RUN + 1}}}")
WHOLE_RUNS = re.compile(rf"(?:\s{{1,{MAX_RUN}}}|\S{{1,{MAX_RUN}}})")


class LlamaVocabulary:
    """The vocabulary of a file. Holds it itself, so that it does not go with weights that are given back.

    Args:
        path: of the file.

    Attributes:
        size: tokens that there are.
    """

    def __init__(self, path: Path) -> None:
        self._model = LlamaModel(path, has_weights=False)
        self._library, self._vocab = self._model.library, self._model.vocab
        self.size = self._model.vocab_size
        self._splits_by_regex = self._library.llama_vocab_type(self._vocab) == libllama.BPE

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, special tokens in it found."""
        if not self._splits_by_regex or LONG_RUN.search(text) is None:
            return self._tokenize(text, add_special_tokens)
        done: Future[list[int]] = Future()
        start_with_large_stack(self._tokenize_long, text, add_special_tokens, done, name="llmapi_kit tokenizer")
        return done.result()

    def _tokenize_long(self, text: str, add_special_tokens: bool, done: Future[list[int]]) -> None:
        """The same for any text, on a large stack."""
        try:
            parts = _cut(text)
            if len(parts) == 1:
                done.set_result(self._tokenize(text, add_special_tokens))
                return
            ends = self._tokenize("", add_special_tokens)
            first = ends[:1] if ends[:1] == [self.role("bos")] else []
            ids = [token_id for part in parts for token_id in self._tokenize(part, False)]
            done.set_result([*first, *ids, *ends[len(first) :]])
        except BaseException as exc:
            done.set_exception(exc)

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[int]:
        raw = text.encode(errors="replace")  # half a surrogate pair is not text
        ask = partial(self._library.llama_tokenize, self._vocab, raw, len(raw))
        room = _fill(np.int32, len(raw) + 8, lambda address, size: ask(address, size, add_special_tokens, True))
        ids: list[int] = room.tolist()
        return ids

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The text of token ids, special tokens included."""
        ids = np.array(token_ids, np.int32)
        ask = partial(self._library.llama_detokenize, self._vocab, ids.ctypes.data, len(ids))
        return _fill(np.uint8, 8 * len(ids) + 8, lambda room, size: ask(room, size, False, True)).tobytes()

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for in a text; empty for ids without a token."""
        if not 0 <= token_id < self.size:
            return b""
        ask = partial(self._library.llama_token_to_piece, self._vocab, token_id)
        return _fill(np.uint8, 64, lambda room, size: ask(room, size, 0, True)).tobytes()

    def text(self, token_id: int) -> str:
        """A token as the file has it."""
        raw: bytes = self._library.llama_vocab_get_text(self._vocab, token_id)
        return raw.decode(errors="replace")

    def attributes(self, token_id: int) -> int:
        """Bits of `libllama`: ``CONTROL``, ``USER_DEFINED``, ``STRIPS``."""
        return int(self._library.llama_vocab_get_attr(self._vocab, token_id))

    def is_end(self, token_id: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self._library.llama_vocab_is_eog(self._vocab, token_id))

    def role(self, name: str) -> int:
        """The id of a role: ``bos``, ``eos``, ``pad``, ``fim_pre``, ``fim_suf``, ``fim_mid``; -1 where none has it."""
        return int(getattr(self._library, f"llama_vocab_{name}")(self._vocab))


def _cut(text: str) -> list[str]:
    """A text in parts without longer runs than `MAX_RUN`; whole where it has none."""
    parts, begin, previous = [], 0, -1
    for run in WHOLE_RUNS.finditer(text):
        if previous == run.start() and text[previous - 1].isspace() == text[previous].isspace():  # it goes on
            parts.append(text[begin:previous])
            begin = previous
        previous = run.end()
    return [*parts, text[begin:]]


def _fill(dtype: Any, size: int, ask: Callable[[int, int], int]) -> np.ndarray[Any, Any]:
    """What the library writes into an array, made larger where it says that this was too small."""
    for _ in range(2):
        room = np.empty(size, dtype)
        count = ask(room.ctypes.data, size)
        if count >= 0:
            return room[:count]
        size = -count
    raise RuntimeError(f"llama.cpp asks for {size:,} places and then does not take them")
