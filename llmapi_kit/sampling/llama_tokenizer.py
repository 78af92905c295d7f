"""A GGUF file's tokenizer as the engine needs it: token ids, pieces and text are llama.cpp's own.

Knows nothing of requests or slots. Implements `llmapi_kit.engines.local.text_codec.TextCodec`. Called from worker
threads and from the engine thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.runners import libllama
from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary
from llmapi_kit.sampling.chat_template import ChatTemplate
from llmapi_kit.sampling.detokenize import ByteDetokenizer, Detokenizer
from llmapi_kit.sampling.tokenizer import no_infill, template_variables

INFILL_ROLES = ("fim_pre", "fim_suf", "fim_mid")


class LlamaTokenizer:
    """Wraps a vocabulary.

    Args:
        vocabulary: of the file.
        template: the file's chat template; several by name, or none.
        markers: texts of special tokens that are shown all the same, as they mark parts of an answer.

    Attributes:
        eos_ids: tokens that end an answer.
        added_tokens: those beside the trained vocabulary, special or not: text to id.
        boundaries: special tokens at which a text may be cut and tokenized in parts.
        vocab_size: tokens that there are.
    """

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        template: str | Mapping[str, str] | None,
        *,
        markers: Collection[str] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self.vocab_size = vocabulary.size
        ids = range(self.vocab_size)
        attributes = [vocabulary.attributes(token_id) for token_id in ids]
        special = {i for i in ids if attributes[i] & libllama.CONTROL}
        added = [i for i in ids if attributes[i] & (libllama.CONTROL | libllama.USER_DEFINED)]
        self.added_tokens = {vocabulary.text(token_id): token_id for token_id in added}
        self.eos_ids = frozenset(i for i in ids if vocabulary.is_end(i))
        self.boundaries = _boundaries(self.added_tokens, special, attributes)
        self._hidden_ids = frozenset(special | self.eos_ids) - {self.added_tokens.get(marker) for marker in markers}
        self._pieces: dict[int, bytes] = {}
        roles = {f"{role}_token": vocabulary.role(role) for role in ("bos", "eos", "pad")}
        names = {name: vocabulary.text(token_id) for name, token_id in roles.items() if token_id >= 0}
        self._template = ChatTemplate(template, names)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, special tokens in it found."""
        return self._vocabulary.tokenize(text, add_special_tokens=add_special_tokens)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        """The text of a conversation under the file's chat template; see `ChatTemplate.render`."""
        return self._template.render(messages, options)

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template reads, those that every template gets included."""
        return template_variables(self._template.source)

    def encode_infill(self, prefix: str, suffix: str) -> list[int]:
        """Token ids of a prompt for what stands between two texts.

        Raises:
            UnsupportedFieldError: the vocabulary has no tokens for it.
        """
        marks = [self._vocabulary.role(role) for role in INFILL_ROLES]
        if min(marks) < 0:
            raise no_infill()
        texts = [self.encode(text, add_special_tokens=False) for text in (prefix, suffix)]
        return [marks[0], *texts[0], marks[1], *texts[1], marks[2]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._vocabulary.detokenize(token_ids).decode(errors="replace")

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
        """The bytes a token stands for; empty for special tokens that are skipped and ids without a token.

        Args:
            token_id: in the vocabulary or not.
            skip_special_tokens: whether special tokens are not shown.
            begins_text: whether nothing stands before it, where many vocabularies write a word without its space.
        """
        if skip_special_tokens and token_id in self._hidden_ids:
            return b""
        if begins_text and 0 <= token_id < self.vocab_size:
            return self._vocabulary.detokenize([token_id])
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._vocabulary.piece(token_id)
        return piece

    def detokenizer(self, *, skip_special_tokens: bool = True, context_ids: Sequence[int] = ()) -> Detokenizer:
        """A fresh one for one answer, which keeps the space before its first word, as llama.cpp's own answers do."""
        return ByteDetokenizer(partial(self.token_bytes, skip_special_tokens=skip_special_tokens))

    def grammar_vocabulary(self, eos_ids: Sequence[int]) -> Any:
        """The vocabulary as llguidance wants it, an `LLTokenizer`.

        Raises:
            UnsupportedFieldError: no token ends an answer.
        """
        from llguidance import LLTokenizer

        if not eos_ids:
            raise UnsupportedFieldError(
                "Structured output needs to know which token ends an answer; this model has none."
            )
        return LLTokenizer(_GrammarVocabulary(self, eos_ids), eos_token=list(eos_ids))  # type: ignore[arg-type]


class _GrammarVocabulary:
    """What `llguidance.LLTokenizer` asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: LlamaTokenizer, eos_ids: Sequence[int]) -> None:
        ids = range(tokenizer.vocab_size)
        self.tokens = [tokenizer.token_bytes(token_id, skip_special_tokens=False) for token_id in ids]
        self.special_token_ids = sorted({*tokenizer.added_tokens.values(), *eos_ids})
        self.eos_token_id = eos_ids[0]
        self._encode = partial(tokenizer.encode, add_special_tokens=False)

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode(errors="replace"))


def _boundaries(added: Mapping[str, int], special: Collection[int], attributes: Sequence[int]) -> frozenset[str]:
    """Special tokens that are found before all else, take no space beside them along, and are in no other token."""
    return frozenset(
        text
        for text, token_id in added.items()
        if text
        and token_id in special
        and not attributes[token_id] & libllama.STRIPS
        and sum(text in other for other in added) == 1
    )
