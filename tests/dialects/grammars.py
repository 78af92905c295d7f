"""Tokenizers with and without markers of their own, and random texts that a grammar allows, token by token."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
from transformers import AutoTokenizer

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.dialects.deepseek import CALLS_END

# What ends the things that would otherwise go on for long when tokens are drawn at random
ENDS = (CALLS_END, "</think>", "</parameter>\n", "\n</parameter>\n", '"', '"}', "}", "]", "\n")
MAX_TOKENS = 3000


@dataclass(frozen=True, eq=False)
class Vocabulary:
    tokenizer: Any
    matching: Any

    @property
    def added_tokens(self):
        return self.tokenizer.get_added_vocab()

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)


@cache
def vocabulary(markers=(), *, is_special=True):
    """The pocket model's, with these texts as added tokens besides its own."""
    tokenizer = AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.add_tokens(list(markers), special_tokens=is_special)
    return Vocabulary(tokenizer, llguidance.hf.from_tokenizer(tokenizer))


@cache
def encoded(vocab, text):
    """What `Vocabulary.encode` returns, for texts that are wanted again and again."""
    return vocab.encode(text)


@lru_cache(maxsize=1)  # who draws many texts draws them one after the other
def compiled(vocab, source):
    """A matcher to copy."""
    made = llguidance.LLMatcher(vocab.matching, llguidance.LLMatcher.grammar_from_lark(source), log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def matcher(vocab, constraint):
    """One that has matched nothing yet."""
    return compiled(vocab, constraint.source).deep_copy()


def allows(vocab, constraint, text):
    """Whether a text may be the whole answer."""
    checked = matcher(vocab, constraint)
    ids = vocab.encode(text)
    return checked.try_consume_tokens(ids) == len(ids) and checked.is_accepting()


def draw(vocab, constraint, seed, starts=()):
    """A random text that the grammar allows: mostly any token, sometimes one that brings things to an end.

    Where any text is allowed, one of the starts comes early.
    """
    rng = random.Random(seed)
    drawing = matcher(vocab, constraint)
    ids = []
    while not drawing.is_stopped() and len(ids) < MAX_TOKENS:
        if drawing.is_accepting() and rng.random() < (0.1 if len(ids) < 100 else 1):
            break
        mask = np.frombuffer(drawing.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: vocab.matching.vocab_size])
        chosen = [int(rng.choice(allowed))]
        if len(allowed) > 1 and (len(ids) > 100 or rng.random() < 0.3):
            wanted = rng.sample(ENDS, len(ENDS)) if len(ids) > 100 or not starts else starts
            ends = [encoded(vocab, text) for text in wanted]
            chosen = next((end for end in ends if drawing.validate_tokens(end) == len(end)), chosen)
        if chosen[0] not in vocab.matching.eos_tokens:
            assert drawing.consume_tokens(chosen), drawing.get_error()
            ids += chosen
    text = vocab.tokenizer.decode(ids)
    assert drawing.is_accepting(), text
    return text
