"""A Hugging Face tokenizer as the engine needs it: thread-safe, with bytes and constant-time detokenisation.

Knows nothing of requests or slots. Implements `llmapi_kit.engines.local.text_codec.TextCodec`. Called from worker
threads and from the engine thread.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes

from llmapi_kit.errors import InvalidRequestError, ModelLoadError, UnsupportedFieldError
from llmapi_kit.sampling.detokenize import REPLACEMENT, ByteDetokenizer, Detokenizer, WindowDetokenizer

# ruff: noqa: RUF001  (a token's name has bars of its own)
# What stands before the prefix, between prefix and suffix, and before what is made.
# Source: the model cards of Qwen2.5-Coder, StarCoder 2 and DeepSeek-Coder.
INFILL_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
# Characters, or ids. More go through the library's calls for batches, the only ones that let go of the GIL: two
# megabytes of text held up the whole process for a second and a half.
LONG_TEXT = 10_000


class ModelTokenizer:
    """Wraps a tokenizer of transformers.

    Args:
        tokenizer: from `AutoTokenizer`.
        eos_ids: tokens that end an answer, beside the tokenizer's own.
        markers: texts of special tokens that are shown all the same, as they mark parts of an answer.

    Attributes:
        eos_ids: tokens that end an answer.
        added_tokens: those beside the trained vocabulary, special or not: text to id.
        boundaries: special tokens at which a text may be cut and tokenized in parts.
    """

    def __init__(self, tokenizer: Any, eos_ids: Iterable[int] = (), *, markers: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        # A fast tokenizer's Rust core may be read from many threads, but the Python object around it sets padding
        # and truncation on each call, and two of those at once raise "Already borrowed".
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._lock = threading.Lock()
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.eos_ids = frozenset((*own, *eos_ids))
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self.added_tokens: dict[str, int] = {str(token): int(i) for i, token in added.items()}
        self.boundaries = _boundaries(added.values()) if self._backend is not None else frozenset()
        self._hidden_ids = frozenset(special - {self.added_tokens.get(marker) for marker in markers})

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` in it; None in a slow one."""
        return self._backend

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        if self._backend is not None:
            if len(text) > LONG_TEXT:
                return list(self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def render_chat(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        """The text of a conversation under the model's chat template.

        Args:
            messages: as the template expects them.
            options: of `apply_chat_template`: tools, whether to begin an answer, variables of the template.

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
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
        except Exception as exc:  # it is a program, and fails in any way that programs do
            raise InvalidRequestError(
                f"The model's chat template can't render these messages: {exc}", param="messages"
            ) from exc

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template reads, those that every template gets included."""
        return template_variables(self._tokenizer.chat_template)

    def encode_infill(self, prefix: str, suffix: str) -> list[int]:
        """Token ids of a prompt for what stands between two texts.

        Raises:
            UnsupportedFieldError: the vocabulary has no tokens for it.
        """
        for names in INFILL_TOKENS:
            marks = [self.added_tokens[name] for name in names if name in self.added_tokens]
            if len(marks) == len(names):
                texts = [self.encode(text, add_special_tokens=False) for text in (prefix, suffix)]
                return [marks[0], *texts[0], marks[1], *texts[1], marks[2]]
        raise no_infill()

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        if self._backend is not None:
            if len(token_ids) > LONG_TEXT:
                return str(self._backend.decode_batch([list(token_ids)], skip_special_tokens=False)[0])
            return str(self._backend.decode(list(token_ids), skip_special_tokens=False))
        with self._lock:
            return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
        """The bytes a token adds to a text; empty for special tokens that are skipped and ids without a token.

        Args:
            token_id: any number.
            skip_special_tokens: whether special tokens add nothing.
            begins_text: whether nothing stands before it, where many vocabularies write a word without its space.
        """
        if skip_special_tokens and token_id in self._hidden_ids:
            return b""
        if self._byte_table is not None:
            return self._byte_table.get(token_id, b"")
        alone = self.decode([token_id])
        if alone == REPLACEMENT:
            return self._single_byte(token_id) or alone.encode()
        if begins_text:
            return alone.encode()
        text, ids = self._any_text
        after = self.decode([*ids, token_id])
        return (after.removeprefix(text) if after.startswith(text) else alone).encode()

    def detokenizer(self, *, skip_special_tokens: bool = True, context_ids: Sequence[int] = ()) -> Detokenizer:
        """A fresh one for one answer, which goes on after `context_ids`."""
        if self._byte_table is None:
            return WindowDetokenizer(self._decode if skip_special_tokens else self.decode, context_ids)
        return ByteDetokenizer(partial(self.token_bytes, skip_special_tokens=skip_special_tokens))

    def _decode(self, ids: Sequence[int]) -> str:
        return self.decode([token_id for token_id in ids if token_id not in self._hidden_ids])

    @cached_property
    def _any_text(self) -> tuple[str, list[int]]:
        """A text that a token may follow, and its ids."""
        ids = self.encode("a", add_special_tokens=False)
        return self.decode(ids), ids

    def _single_byte(self, token_id: int) -> bytes | None:
        """What a token such as ``<0xE4>`` stands for: a byte of a character that has no token of its own."""
        name = str(self._tokenizer.convert_ids_to_tokens(token_id))
        return bytes.fromhex(name[3:5]) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", name) else None

    @cached_property
    def _byte_table(self) -> dict[int, bytes] | None:
        """Token id to bytes where the vocabulary is byte-level, else None."""
        if type(getattr(self._backend, "decoder", None)).__name__ != "ByteLevel":
            return None
        alphabet = _byte_alphabet()
        added = {i: str(token) for i, token in self._tokenizer.added_tokens_decoder.items()}
        table: dict[int, bytes] = {}
        for token, token_id in self._tokenizer.get_vocab().items():
            if token_id in added:
                table[token_id] = added[token_id].encode()
            else:
                table[token_id] = b"".join(alphabet.get(char, char.encode()) for char in token)
        return table


def no_infill() -> UnsupportedFieldError:
    """The error for a suffix where the vocabulary has no tokens for it."""
    return UnsupportedFieldError(
        "This model has no fill-in-the-middle tokens, so it can't honour suffix. Remove it, or load a model trained "
        "for it, such as a code model.",
        param="suffix",
    )


def check_template(template: str | Mapping[str, str] | None, name: str) -> None:
    """Raise unless a chat template can be rendered at all.

    Args:
        template: of a tokenizer: one, several by name, or none.
        name: the model's, for messages.

    Raises:
        ModelLoadError: it has a mistake in its syntax; the message says where.
    """
    for source in template.values() if isinstance(template, Mapping) else [template] if template else []:
        try:
            _parse(source)
        except jinja2.TemplateSyntaxError as exc:
            raise ModelLoadError(
                f"The chat template of {name} is damaged at line {exc.lineno}: {exc.message} Mend or remove it: "
                "chat_template.jinja, or chat_template in tokenizer_config.json."
            ) from exc


def template_variables(template: str | Mapping[str, str] | None) -> frozenset[str]:
    """Names that a chat template reads, those that every template gets included; of several, what any of them reads."""
    sources = template.values() if isinstance(template, Mapping) else [template] if template else []
    names: set[str] = set()
    for source in sources:
        try:
            names |= jinja2.meta.find_undeclared_variables(_parse(source))
        except jinja2.TemplateSyntaxError:
            names.add("messages")  # rendering it will say what is wrong
    return frozenset(names)


def _parse(template: str) -> jinja2.nodes.Template:
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)  # a tag of transformers' own
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)  # noqa: S701 - nothing is rendered


def _boundaries(added: Iterable[Any]) -> frozenset[str]:
    """Special tokens that are found before all else, take no space beside them along, and are in no other token."""
    texts = [str(token) for token in added]
    return frozenset(
        str(token)
        for token in added
        if token.special
        and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        and sum(str(token) in text for text in texts) == 1
    )


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
