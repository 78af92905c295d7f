"""Compiles grammars that may never end, or crash, so that the server doesn't have to find out.

A program, run by `grammar_trial` as a process of its own; it imports nothing of the package. llguidance recurses as
deep as a grammar is nested, and a stack that is too small ends the process; and a few dozen characters can keep it
busy for hours. Here either ends this process alone.

Reads JSON lines. The first is the set-up: ``specials`` (id and text of each), ``vocab_size``, ``eos_ids``,
``limits``, ``max_cpu_s``, ``max_idle_s``. Every other is a grammar, answered by a line: null, or what is wrong with
it. The vocabulary it tries them on has the model's special tokens, at their ids, and one token for each byte: a
compile takes as long with it as with all of a model's tokens, and the vocabulary itself is there at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

# A quarter of what the server compiles with, so that what passes here fits there
STACK_BYTES = 16 << 20
NUM_WALKS = 3
MAX_WALK_TOKENS = 64
CLOSING = sum(1 << byte for byte in b'"]},')


class ByteVocabulary:
    """What `llguidance.LLTokenizer` asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocab_size: int, specials: Sequence[tuple[int, str]], eos_ids: Sequence[int]) -> None:
        self.first_byte_id = -(-vocab_size // 8) * 8
        self.tokens = [b""] * self.first_byte_id + [bytes([value]) for value in range(256)]
        for token_id, text in specials:
            self.tokens[token_id] = text.encode()
        self.special_token_ids = [token_id for token_id, _ in specials]
        self.eos_ids = eos_ids
        self.eos_token_id = eos_ids[0]

    def __call__(self, text: str) -> list[int]:
        """Never called: no grammar here forces tokens."""
        return []


def fault_in(grammar: str, tokenizer: LLTokenizer, vocabulary: ByteVocabulary, limits: LLParserLimits) -> str | None:
    """What is wrong with a grammar; None if it compiles and a few answers could be begun."""
    from llguidance import LLMatcher

    start = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    draw = random.Random(0)  # noqa: S311
    for _ in range(NUM_WALKS):
        matcher = start.deep_copy()
        for num_taken in range(MAX_WALK_TOKENS):
            mask = matcher.compute_bitmask()
            if not matcher.is_error():
                if not matcher.is_accepting() and any(mask[i // 8] >> i % 8 & 1 for i in vocabulary.eos_ids):
                    return f"it names a token that ends the answer ({sorted(vocabulary.eos_ids)}); leave it out"
                matcher.consume_token(_some_token(mask, vocabulary.first_byte_id, draw))
            if matcher.is_error():
                error = matcher.get_error()
                if not error.startswith("NoExtension"):
                    return error
                if num_taken == 0:
                    return "no text matches it"
            if matcher.is_stopped():  # also at a dead end, which an answer may well not run into
                break
    return None


def _some_token(mask: bytes, first_byte_id: int, draw: random.Random) -> int:
    """A byte that is allowed, often one that ends something; else a special token."""
    at = first_byte_id // 8
    allowed = int.from_bytes(mask[at : at + 32], "little")
    if allowed & CLOSING and draw.random() < 0.5:
        allowed &= CLOSING
    if allowed:
        return first_byte_id + draw.choice([value for value in range(256) if allowed >> value & 1])
    return next((i * 8 + (bits & -bits).bit_length() - 1 for i, bits in enumerate(mask) if bits), 0)


def _limit_process() -> None:
    """No core files, and no more memory than compiling needs, where the system can say so."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    except (ImportError, ValueError, OSError):
        pass


def _end_after(*, idle_s: float = 0, cpu_s: float = 0) -> None:
    """Have a signal end the process when either has passed; 0 is never. On Windows only the parent can end it."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, idle_s)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)


def main() -> None:
    """Answer grammars until standard input ends."""
    _limit_process()
    from llguidance import LLParserLimits, LLTokenizer

    setup = json.loads(sys.stdin.readline())
    vocabulary = ByteVocabulary(setup["vocab_size"], setup["specials"], setup["eos_ids"])
    tokenizer = LLTokenizer(vocabulary, eos_token=setup["eos_ids"], slices=[])  # type: ignore[arg-type]  # a duck
    limits = LLParserLimits(**setup["limits"])
    threading.stack_size(STACK_BYTES)
    answer: str | None = None  # to the set-up

    def judge(grammar: str) -> None:
        nonlocal answer
        answer = fault_in(grammar, tokenizer, vocabulary, limits)

    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        _end_after(idle_s=setup["max_idle_s"])
        line = sys.stdin.readline()
        if not line:
            return
        _end_after(cpu_s=setup["max_cpu_s"])
        answer = "it can't be compiled"
        thread = threading.Thread(target=judge, args=(json.loads(line),))
        thread.start()
        thread.join()
        _end_after()


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]  # its modules shadow nothing
    main()
