"""How fast llama.cpp's own `llama_decode` makes tokens, without any server: a token of each sequence in a call, greedy.

What `benchmarks.overhead` compares a GGUF file over HTTP with. All sequences have the same length and a stream of KV
memory each, as the engine's have. Prints the tokens/s as JSON, and the CPU time of a token.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from pathlib import Path

import numpy as np

from llmapi_kit.runners.libllama import Batch
from llmapi_kit.runners.llama_context import ContextOptions, LlamaContext
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.thread_count import best_num_threads


class BareLoop:
    """Sequences that go on by a token in each call.

    Args:
        path: of the GGUF file.
        batch: sequences.
        max_length: tokens of a sequence.
        num_threads: CPU threads of a call.
    """

    def __init__(self, path: Path, batch: int, max_length: int, num_threads: int) -> None:
        self._model = LlamaModel(path)
        self._context = LlamaContext(
            self._model,
            num_slots=batch,
            max_length=max_length,
            num_outputs=max(batch, 64),
            num_threads=num_threads,
            options=ContextOptions(),
        )
        self._batch = batch
        self._tokens, self._positions = np.ones(batch, np.int32), np.zeros(batch, np.int32)
        self._counts, self._numbers = np.ones(batch, np.int32), np.arange(batch, dtype=np.int32)
        self._numbers_at = self._numbers.ctypes.data + 4 * np.arange(batch, dtype=np.uint64)
        self._outputs = np.ones(batch, np.int8)
        arrays = (self._positions, self._counts, self._numbers_at, self._outputs)
        addresses = (each.ctypes.data for each in arrays)
        self._call = Batch(batch, self._tokens.ctypes.data, None, *addresses)

    def run(self, num_tokens: int, prompt_tokens: int) -> None:
        """Compute a prompt token by token, then go on greedily, from empty sequences."""
        library, handle, vocab = self._model.library, self._context.handle, self._model.vocab_size
        library.llama_memory_clear(self._context.memory, True)
        for position in range(prompt_tokens + num_tokens):
            self._positions[:] = position
            if library.llama_decode(handle, self._call):
                raise RuntimeError("llama.cpp could not compute the step.")
            address = library.llama_get_logits(handle)
            logits = np.ctypeslib.as_array((ctypes.c_float * (self._batch * vocab)).from_address(address))
            self._tokens[:] = logits.reshape(self._batch, vocab).argmax(-1)


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the GGUF file")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=26)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="default: what the kit takes")
    parser.add_argument("--min-s", type=float, default=3.0)
    args = parser.parse_args()
    num_threads = args.threads or best_num_threads(args.file.stat().st_size)
    loop = BareLoop(args.file, args.batch, args.prompt_tokens + args.max_tokens, num_threads)
    loop.run(min(16, args.max_tokens), args.prompt_tokens)
    num_made, wall_s, cpu_s = 0, 0.0, 0.0
    while not num_made or wall_s < args.min_s:
        cpu, started = time.process_time(), time.perf_counter()
        loop.run(args.max_tokens, args.prompt_tokens)
        wall_s, cpu_s = wall_s + time.perf_counter() - started, cpu_s + time.process_time() - cpu
        num_made += args.batch * (args.prompt_tokens + args.max_tokens)
    print(json.dumps({"tokens_per_s": num_made / wall_s, "cpu_s_per_token": cpu_s / num_made}))


if __name__ == "__main__":
    main()
