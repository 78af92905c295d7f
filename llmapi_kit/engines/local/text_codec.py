"""What a local engine needs of a model's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmapi_kit.engines.base import Message
from llmapi_kit.sampling.detokenize import Detokenizer


class TextCodec(Protocol):
    """Text to token ids and back; `llmapi_kit.sampling.tokenizer.ModelTokenizer` is the real one. Thread-safe.

    Attributes:
        eos_ids: tokens that end an answer.
        added_tokens: those beside the trained vocabulary, text to id.
        template_variables: names that the chat template reads.
        boundaries: special tokens at which a text may be cut and tokenized in parts; may be empty.
    """

    eos_ids: frozenset[int]
    boundaries: frozenset[str]

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """See the class."""
        ...

    @property
    def template_variables(self) -> frozenset[str]:
        """See the class."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def render_chat(self, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
        """The text of a conversation, with options for its template.

        Raises:
            InvalidRequestError: the model has no chat template, or it refuses these messages.
        """
        ...

    def encode_infill(self, prefix: str, suffix: str) -> list[int]:
        """Token ids of a prompt for what stands between two texts.

        Raises:
            UnsupportedFieldError: the model was not trained for it.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        ...

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
        """The bytes a token adds to a text, or begins one with; empty for special tokens that are skipped."""
        ...

    def detokenizer(self, *, skip_special_tokens: bool = True, context_ids: Sequence[int] = ()) -> Detokenizer:
        """A fresh one for one answer, which goes on after `context_ids`."""
        ...
