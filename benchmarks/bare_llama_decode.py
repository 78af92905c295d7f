"""How fast llama.cpp's own `llama_decode` makes tokens, without any server: prompts in one call, then greedy.

What `benchmarks.overhead` compares a GGUF file over HTTP with. All sequences have the same length and a stream of KV
memory each, as the engine's have. As `benchmarks.bare_loop`, it counts the tokens that follow the prompts, runs on one
thread and on all, in turns, and the better counts. Prints the tokens/s as JSON, and the CPU time of a token.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmapi_kit.runners.libllama import Batch
from llmapi_kit.runners.llama_context import BATCH_TOKENS, ContextOptions, LlamaContext
from llmapi_kit.runners.llama_model import LlamaModel

Ints = npt.NDArray[np.int32]


class BareLoop:
    """Sequences that go on by a token in each call.

    Args:
        path: of the GGUF file.
        batch: sequences.
        max_length: tokens of a sequence.
    """

    def __init__(self, path: Path, batch: int, max_length: int) -> None:
        self._model = LlamaModel(path)
        self._context = LlamaContext(
            self._model,
            num_slots=batch,
            max_length=max_length,
            num_outputs=max(batch, 64),
            num_threads=1,
            options=ContextOptions(),
        )
        self._batch = batch

    def run(self, num_tokens: int, prompt_tokens: int, num_threads: int) -> None:
        """Make so many tokens after prompts, greedily, in empty sequences."""
        library, handle = self._model.library, self._context.handle
        library.llama_set_n_threads(handle, num_threads, num_threads)
        library.llama_memory_clear(self._context.memory, True)
        tokens = self._decode(np.ones((self._batch, prompt_tokens), np.int32), 0)
        for position in range(prompt_tokens, prompt_tokens + num_tokens - 1):
            tokens = self._decode(tokens[:, None], position)

    def _decode(self, tokens: Ints, start: int) -> Ints:
        """The tokens that follow (batch, length) tokens from a position on; in as many calls as these need."""
        length, vocab = tokens.shape[1], self._model.vocab_size
        at_once = max(1, BATCH_TOKENS // length)
        return np.concatenate(
            [self._call(tokens[i : i + at_once], i, start, vocab) for i in range(0, len(tokens), at_once)]
        )

    def _call(self, tokens: Ints, first: int, start: int, vocab: int) -> Ints:
        """The same for neighbouring sequences, the first of which has a number."""
        library, handle, (num, length) = self._model.library, self._context.handle, tokens.shape
        arrays = {
            "tokens": np.ascontiguousarray(tokens).reshape(-1),
            "positions": np.tile(np.arange(start, start + length, dtype=np.int32), num),
            "counts": np.ones(num * length, np.int32),
            "sequences": np.repeat(np.arange(first, first + num, dtype=np.int32), length),
            "outputs": np.tile(np.arange(length) == length - 1, num).astype(np.int8),
        }
        at = {name: array.ctypes.data for name, array in arrays.items()}
        each = at["sequences"] + 4 * np.arange(num * length, dtype=np.uint64)
        batch = Batch(num * length, at["tokens"], None, at["positions"], at["counts"], each.ctypes.data, at["outputs"])
        if library.llama_decode(handle, batch):
            raise RuntimeError("llama.cpp could not compute the step.")
        logits = (ctypes.c_float * (num * vocab)).from_address(library.llama_get_logits(handle))
        following: Ints = np.ctypeslib.as_array(logits).reshape(num, vocab).argmax(-1).astype(np.int32)
        return following


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the GGUF file")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=26)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--min-s", type=float, default=3.0)
    args = parser.parse_args()
    loop = BareLoop(args.file, args.batch, args.prompt_tokens + args.max_tokens)
    counts = sorted({1, os.cpu_count() or 1})
    num_made, wall_s, cpu_s = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0.0), dict.fromkeys(counts, 0.0)
    loop.run(min(16, args.max_tokens), args.prompt_tokens, 1)
    while not num_made[1] or min(wall_s.values()) < args.min_s:
        for num_threads in counts:
            cpu, started = time.process_time(), time.perf_counter()
            loop.run(args.max_tokens, args.prompt_tokens, num_threads)
            wall_s[num_threads] += time.perf_counter() - started
            cpu_s[num_threads] += time.process_time() - cpu
            num_made[num_threads] += args.batch * args.max_tokens
    rates = {num_threads: num_made[num_threads] / wall_s[num_threads] for num_threads in counts}
    best = max(counts, key=lambda num_threads: rates[num_threads])
    told = {"tokens_per_s": rates[best], "by_threads": rates, "cpu_s_per_token": cpu_s[best] / num_made[best]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
