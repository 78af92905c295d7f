"""Follows one answer through its grammar: which tokens may come next, and whether it is complete.

Knows nothing of logits or batches. `GrammarCompiler` makes a `Grammar`, which is shared, and from it a `Matcher` for
each answer, which belongs to the engine's thread, but for the time between `MaskWorker.start` and `MaskJob.wait`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmapi_kit.errors import GenerationError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Words = npt.NDArray[np.int32]

# A lexer that has grown to its limit is left for a new one, if that is cheap and the answer has got on since.
MAX_RENEWAL_S = 0.1
MIN_TOKENS_BEFORE_RENEWAL = 64

DEAD_END = "The answer can't go on: its grammar allows none of the model's tokens here."


class Grammar:
    """A grammar compiled for one vocabulary. Thread-safe.

    The matchers made from it share its lexer, whose states are computed when they are needed: later answers find the
    work of earlier ones done.

    Args:
        tokenizer: the vocabulary.
        text: what `grammar_source.grammar_text` made.
        limits: arguments of `llguidance.LLParserLimits`.
        vocab_size: width of the model's logits.

    Attributes:
        num_words: length of a mask in words of 32 bits.
        num_tokens: ids that a mask speaks of; those past it are never allowed.
        end_mask: (num_words,) with the bits of all tokens that end an answer set.
        is_worn: its lexer has grown to the limit, so it is of no use for new answers.
    """

    def __init__(self, tokenizer: LLTokenizer, text: str, limits: Mapping[str, Any], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._limits = limits
        self.num_words = (tokenizer.vocab_size + 31) // 32
        self.num_tokens = min(vocab_size, tokenizer.vocab_size)
        self.end_mask: Words = np.zeros(self.num_words, dtype=np.int32)
        for token_id in tokenizer.eos_tokens:
            self.end_mask[token_id // 32] |= np.uint32(1 << token_id % 32).astype(np.int32)
        self.is_worn = False
        started = time.monotonic()
        self._start = self.compile()
        self._is_cheap = time.monotonic() - started < MAX_RENEWAL_S

    def compile(self) -> LLMatcher:
        """At its start, with a lexer of its own."""
        from llguidance import LLMatcher, LLParserLimits

        return LLMatcher(self._tokenizer, self._text, log_level=0, limits=LLParserLimits(**self._limits))

    def fault(self) -> str | None:
        """What llguidance says is wrong, or None; computes the first mask."""
        first = self._start.deep_copy()
        first.compute_bitmask()
        return first.get_error() if first.is_error() else None

    def matcher(self) -> Matcher:
        """One for a new answer."""
        return Matcher(self, self._start.deep_copy(), [])

    def renewed(self, token_ids: list[int]) -> LLMatcher | None:
        """With a lexer of its own, after these tokens; None if that takes too long or fails."""
        if not self._is_cheap:
            return None
        inner = self.compile()
        return inner if inner.consume_tokens(token_ids) else None


class Matcher:
    """Where one answer stands in its grammar.

    Attributes:
        grammar: shared with other answers.
    """

    def __init__(self, grammar: Grammar, inner: LLMatcher, token_ids: list[int], num_renewed: int = 0) -> None:
        self.grammar = grammar
        self._inner = inner
        self._token_ids = token_ids
        self._num_renewed = num_renewed  # tokens there were when its lexer was last new

    @property
    def is_finished(self) -> bool:
        """Whether nothing more may follow: the answer ends, with reason "stop"."""
        return self._inner.is_stopped() and not self._inner.is_error()

    @property
    def may_end(self) -> bool:
        """Whether the tokens so far are a complete answer."""
        return self._inner.is_accepting()

    @property
    def inner(self) -> LLMatcher:
        """What `llguidance.LLExecutor` computes with."""
        return self._inner

    def clone(self) -> Matcher:
        """Another one that stands here and goes on by itself."""
        return Matcher(self.grammar, self._inner.deep_copy(), self._token_ids.copy(), self._num_renewed)

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer.

        Raises:
            GenerationError: the grammar does not allow it, or has become too complex; so will each later call.
        """
        self._token_ids.append(token_id)
        if not self._inner.consume_token(token_id) and not self._renew():
            raise self._error()

    def fill(self, mask: Words) -> GenerationError | None:
        """Write the tokens that may come next to `mask` (num_words,), a bit each; returns what went wrong."""
        self._inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        return self.check(mask)

    def check(self, mask: Words) -> GenerationError | None:
        """Make right the mask that was computed for `inner`; returns what went wrong, if that can't be done."""
        if self._inner.is_error():
            if not self._renew():
                return self._error()
            return self.fill(mask)
        if not self._inner.is_accepting():
            mask &= ~self.grammar.end_mask  # a grammar may name such a token, or its text may match
        return None if mask.any() else GenerationError(DEAD_END)

    def _renew(self) -> bool:
        """Go on with a new lexer, if the old one's size is all that is wrong."""
        error = self._inner.get_error()
        if "too many states" not in error and "too many expressions" not in error:
            return False
        self.grammar.is_worn = True
        if len(self._token_ids) - self._num_renewed < MIN_TOKENS_BEFORE_RENEWAL:
            return False
        inner = self.grammar.renewed(self._token_ids)
        if inner is None:
            return False
        self._inner, self._num_renewed = inner, len(self._token_ids)
        return True

    def _error(self) -> GenerationError:
        reason = self._inner.get_error().split("\n", 1)[0][:200]
        if reason.startswith("NoExtension"):
            return GenerationError(DEAD_END)
        return GenerationError(f"The answer can't go on in its grammar: {reason}")
