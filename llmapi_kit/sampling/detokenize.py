"""Token ids become text one at a time, in constant time a token, never half a character.

Knows nothing of models or requests. Byte-level vocabularies (GPT-2, Llama 3, Qwen) go through their bytes;
others (SentencePiece and the like) through the tokenizers library's own decode stream. Runs on the engine thread.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """Turns one answer's token ids into text as they come."""

    def feed(self, token_id: int) -> str:
        """Text that is complete now; may be empty."""
        ...

    def flush(self) -> str:
        """What is left of an unfinished character, as U+FFFD; call once, at the end."""
        ...


class ByteDetokenizer:
    """For vocabularies in which each token is a sequence of bytes.

    Args:
        token_bytes: bytes of a token id; empty for special tokens that are not shown.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def feed(self, token_id: int) -> str:
        """See `Detokenizer.feed`."""
        return self._decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        return self._decode(b"", True)


class WindowDetokenizer:
    """For every other vocabulary: decodes a short window before and after the new token.

    The window restarts at each text that comes out, so its length, and the time a token takes, stay bounded.

    Args:
        decode: ids to text, special tokens left out.
        context_ids: the end of the text that the answer goes on; without it, the first word loses its space.

    Source: the same idea as in Hugging Face text-generation-inference and vLLM (`detokenize_incrementally`).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context_ids: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context_ids)
        self._num_shown = len(self._window)

    def feed(self, token_id: int) -> str:
        """See `Detokenizer.feed`."""
        self._window.append(token_id)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._window = self._window[self._num_shown :]
        self._num_shown = len(self._window)
        return text

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        return self._new_text()

    def _new_text(self) -> str:
        shown = self._decode(self._window[: self._num_shown])
        return self._decode(self._window)[len(shown) :]
