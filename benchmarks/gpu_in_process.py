"""Decoding measured without files and servers, in about a minute: a model made on the card, greedy, all streams alike.

The engine with its batching loop, beside transformers' own forward pass in a bare loop, on the same weights. The loop
runs first, as the engine's runner takes the weights over. `benchmarks.gpu --short` calls it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.bare_loop import make_tokens
from benchmarks.models import random_model
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.local.engine import LocalEngine
from llmapi_kit.runners.torch_runner import TorchRunner
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import EngineInfo, Failed, Finished

PROMPT_TOKENS = 26
MAX_LENGTH = 512
HEADROOM = 1.4  # weights to all memory that a model takes here: keys and values of both, logits, workspaces


class _IdCodec:
    """Shows token ids as text; the part of a tokenizer that prompts made of ids need."""

    eos_ids: frozenset[int] = frozenset()
    boundaries: frozenset[str] = frozenset()

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
        return f"{token_id} ".encode()

    def detokenizer(self, *, skip_special_tokens: bool = True, context_ids: Sequence[int] = ()) -> ByteDetokenizer:
        return ByteDetokenizer(self.token_bytes)


def fits(num_parameters: float, device: torch.device) -> bool:
    """Whether a model in bfloat16 fits into what is free on a CUDA device; on a CPU, it is not asked."""
    return device.type != "cuda" or HEADROOM * 2 * num_parameters <= torch.cuda.mem_get_info(device)[0]


def measure(name: str, device: torch.device, all_streams: Sequence[int], num_tokens: int) -> dict[str, Any]:
    """Measure a model of `benchmarks.models.SHAPES` with random weights.

    Returns:
        ``weights_bytes``, ``attention`` and ``form`` of the runner, and ``rates``: a list of ``streams``, and
        ``engine`` and ``bare_loop`` in tokens/s.
    """
    started = time.perf_counter()
    model = random_model(name, device)
    weights_bytes = sum(parameter.nbytes for parameter in model.parameters())
    print(f"Made {name} in {time.perf_counter() - started:.0f} s", flush=True)
    bare = {streams: _bare_rate(model, streams, num_tokens, device) for streams in all_streams}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the loop's keys and values
    runner = TorchRunner(model, num_slots=max(all_streams), max_length=MAX_LENGTH)
    attention = None if runner._bucketed is None else runner._bucketed.attention
    form = runner.kind
    info = EngineInfo(id=name, context_length=MAX_LENGTH, created=1)
    engine = LocalEngine(info, runner, _IdCodec(), settings=Settings())
    try:
        rates = [
            {
                "streams": streams,
                "engine": asyncio.run(_engine_rate(engine, model.config.vocab_size, streams, num_tokens)),
                "bare_loop": bare[streams],
            }
            for streams in all_streams
        ]
    finally:
        engine.close()
    return {"weights_bytes": weights_bytes, "form": form, "attention": attention, "rates": rates}


@torch.inference_mode()
def _bare_rate(model: Any, streams: int, num_tokens: int, device: torch.device) -> float:
    ids = torch.randint(model.config.vocab_size, (streams, PROMPT_TOKENS), device=device)
    make_tokens(model, ids, 4)  # a first run chooses algorithms
    _wait_for(device)
    started = time.perf_counter()
    make_tokens(model, ids, num_tokens)
    _wait_for(device)
    return streams * num_tokens / (time.perf_counter() - started)


async def _engine_rate(engine: LocalEngine, vocab: int, streams: int, num_tokens: int) -> float:
    rng = random.Random(streams)

    async def answer(num_tokens: int) -> int:
        prompt = [rng.randrange(vocab) for _ in range(PROMPT_TOKENS)]
        sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        async for event in engine.generate(GenerationRequest(prompt=prompt, sampling=sampling)):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event.num_completion_tokens
        raise RuntimeError("an answer did not end")

    await asyncio.gather(*(answer(16) for _ in range(streams)))  # records the graphs
    started = time.perf_counter()
    made = await asyncio.gather(*(answer(num_tokens) for _ in range(streams)))
    return sum(made) / (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
