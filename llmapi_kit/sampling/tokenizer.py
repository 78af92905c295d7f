"""A Hugging Face tokenizer as the engine needs it: thread-safe, with bytes and constant-time detokenisation.

Knows nothing of requests or slots. Implements `llmapi_kit.engines.local.TextCodec`. Called from worker threads and
from the engine thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.detokenize import ByteDetokenizer, Detokenizer, WindowDetokenizer


class ModelTokenizer:
    """Wraps a tokenizer of transformers.

    Args:
        tokenizer: from `AutoTokenizer`.
        eos_ids: tokens that end an answer, beside the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, eos_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        # A fast tokenizer's Rust core may be read from many threads, but the Python object around it sets padding
        # and truncation on each call, and two of those at once raise "Already borrowed".
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.eos_ids = frozenset((*own, *eos_ids))
        self._special_ids = frozenset(tokenizer.all_special_ids)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation under the model's chat template, ready for the answer.

        Raises:
            InvalidRequestError: there is no template, or it refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequestError(
                "This model has no chat template. Use /v1/completions, or load an instruction-tuned model.",
                param="messages",
            )
        try:
            # transformers renders in a sandbox (CVE-2024-34359 was a template that broke out of one)
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as exc:
            raise InvalidRequestError(
                f"The model's chat template can't render these messages: {exc}", param="messages"
            ) from exc
        return self.encode(text, add_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; empty for special tokens and ids without a token."""
        if self._byte_table is not None:
            return self._byte_table.get(token_id, b"")
        return b"" if token_id in self._special_ids else self._decode([token_id]).encode()

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one answer."""
        return WindowDetokenizer(self._decode) if self._byte_table is None else ByteDetokenizer(self.token_bytes)

    def _decode(self, ids: Sequence[int]) -> str:
        if self._backend is not None:
            return str(self._backend.decode(list(ids), skip_special_tokens=True))
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def _byte_table(self) -> dict[int, bytes] | None:
        """Token id to bytes where the vocabulary is byte-level, else None."""
        if type(getattr(self._backend, "decoder", None)).__name__ != "ByteLevel":
            return None
        alphabet = _byte_alphabet()
        added = {i: str(token) for i, token in self._tokenizer.added_tokens_decoder.items()}
        table: dict[int, bytes] = {}
        for token, token_id in self._tokenizer.get_vocab().items():
            if token_id in self._special_ids:
                table[token_id] = b""
            elif token_id in added:
                table[token_id] = added[token_id].encode()
            else:
                table[token_id] = b"".join(alphabet.get(char, char.encode()) for char in token)
        return table


def _byte_alphabet() -> dict[str, bytes]:
    """Character to byte in byte-level vocabularies.

    Printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on.
    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode`.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    alphabet |= {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}
    return alphabet
