"""A GGUF file's vocabulary, as llama.cpp reads it: text to ids and back. Free of torch; thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.runners.llama_model import LlamaModel


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

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, special tokens in it found."""
        raw = text.encode(errors="replace")  # half a surrogate pair is no text
        ask = partial(self._library.llama_tokenize, self._vocab, raw, len(raw))
        ids: list[int] = _fill(
            np.int32, len(raw) + 8, lambda room, size: ask(room, size, add_special_tokens, True)
        ).tolist()
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


def _fill(dtype: Any, size: int, ask: Callable[[int, int], int]) -> np.ndarray[Any, Any]:
    """What the library writes into an array, made larger where it says that this was too small."""
    for _ in range(2):
        room = np.empty(size, dtype)
        count = ask(room.ctypes.data, size)
        if count >= 0:
            return room[:count]
        size = -count
    raise RuntimeError(f"llama.cpp asks for {size:,} places and then does not take them")
