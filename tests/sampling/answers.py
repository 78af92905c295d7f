"""Random answers that a grammar allows, token by token, as an engine would make them."""

from __future__ import annotations

import random
from functools import cache

import numpy as np

from llmapi_kit.sampling.tokenizer import ModelTokenizer

ENDING = set(b'"]}')


codec_of = cache(ModelTokenizer)


@cache
def ending_tokens(tokenizer):
    """Which tokens bring JSON to an end; a preference for them keeps answers short."""
    raw = map(codec_of(tokenizer).token_bytes, range(len(tokenizer)))
    return np.array([bool(text) and set(text) <= ENDING for text in raw])


def allowed_tokens(matcher):
    """(ids,) bool."""
    mask = np.zeros(matcher.grammar.num_words, dtype=np.int32)
    error = matcher.fill(mask)
    if error is not None:
        raise error
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[: matcher.grammar.num_tokens].view(bool)


def allowed_ids(matcher):
    return np.flatnonzero(allowed_tokens(matcher))


def draw(matcher, tokenizer, eos_ids, seed, max_tokens=400):
    """The text of a random answer; None if it is not complete after `max_tokens`."""
    rng = random.Random(seed)
    detokenizer = codec_of(tokenizer).detokenizer()
    text = ""
    for num_made in range(max_tokens):
        if matcher.is_finished:
            return text + detokenizer.flush()
        allowed = allowed_tokens(matcher)
        can_end = [bool(allowed[i]) for i in eos_ids]
        assert set(can_end) == {matcher.may_end}, "all tokens that end an answer are allowed, or none"
        allowed[list(eos_ids)] = False
        if matcher.may_end and (num_made > 30 or rng.random() < 0.2 or not allowed.any()):
            matcher.accept(rng.choice(eos_ids))
            assert matcher.is_finished
            return text + detokenizer.flush()
        choices = np.flatnonzero(allowed)
        if rng.random() < (0.3 if num_made < 40 else 0.95):
            ending = np.flatnonzero(allowed & ending_tokens(tokenizer))
            choices = ending if len(ending) else choices
        token_id = int(choices[rng.randrange(len(choices))])
        matcher.accept(token_id)
        text += detokenizer.feed(token_id)
    return None
