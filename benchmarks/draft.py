"""Measures guessed tokens (the setting ``draft``): a prompt that its answer repeats, and one that nothing repeats.

One engine without guesses and one with them in this process, without HTTP, in turns within each repeat. The repetitive
prompt holds what the model goes on to say, taken from its own answer; the free one is sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, numbers, write_results
from benchmarks.models import NAMES, make_model
from benchmarks.steadiness import Steadiness
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Failed

PROMPT_WORDS = 64
MAX_TOKENS = 64
DRAFTS = ("off", "prompt-lookup")
Rates = dict[tuple[str, int, str], list[float]]  # text, streams, draft to the repeats' tokens/s


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    steadiness = Steadiness()
    model = make_model(args.model, args.work)
    words = json.loads(model.words.read_text())
    num_tokens = 8 if args.quick else MAX_TOKENS
    engines: dict[str, Engine] = {}
    rates: Rates = defaultdict(list)
    try:
        for draft in DRAFTS:
            settings = load_settings(draft=draft, max_slots=max(args.streams), prefix_cache="off")
            engines[draft] = make_engine(parse_spec(str(model.folder)), settings, device="cpu")
        prompt = "".join(words[i * 31 % len(words)] for i in range(PROMPT_WORDS))
        said = asyncio.run(_answer(engines["off"], prompt, SamplingParams(temperature=0, max_tokens=num_tokens)))
        greedy = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        free = SamplingParams(temperature=1, seed=1, max_tokens=num_tokens, ignore_eos=True)
        for text, asked, params in (("repetitive", prompt + said, greedy), ("free", prompt, free)):
            for streams in args.streams:
                for _ in range(args.repeats):
                    for draft, engine in engines.items():
                        steadiness.probe()
                        rates[text, streams, draft].append(asyncio.run(_rate(engine, asked, params, streams)))
                print(f"{text}, {streams} streams: done", flush=True)
    finally:
        for engine in engines.values():
            engine.close()
    machine = describe_machine()
    lines = ["# Guessed tokens", "", f"Made by `{command_line('draft', argv)}`.", "", machine_line(machine), ""]
    lines += [steadiness.sentence(), "", f"{model.label}; tokens/s, medians over {args.repeats} repeats.", ""]
    data = {"machine": machine, "steadiness": steadiness.sentence(), "samples": _listed(rates)}
    write_results(args.results, "draft", "\n".join([*lines, *table(rates)]), data)
    return 0


def table(rates: Rates) -> list[str]:
    """A row for each text and number of streams."""
    lines = ["| text | streams | off | prompt-lookup | times |", "|---|---|---|---|---|"]
    for text, streams in dict.fromkeys((text, streams) for text, streams, _ in rates):
        off, guessing = (median(rates[text, streams, draft]) for draft in DRAFTS)
        lines.append(f"| {text} | {streams} | {shown(off)} | {shown(guessing)} | {shown(ratio(guessing, off))} |")
    return lines


async def _rate(engine: Engine, prompt: str, params: SamplingParams, streams: int) -> float:
    """Tokens/s of some requests at once."""
    started = time.perf_counter()
    await asyncio.gather(*(_answer(engine, prompt, params) for _ in range(streams)))
    return streams * (params.max_tokens or 0) / (time.perf_counter() - started)


async def _answer(engine: Engine, prompt: str, params: SamplingParams) -> str:
    text = ""
    async for event in engine.generate(GenerationRequest(prompt=prompt, sampling=params)):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Delta):
            text += event.text
    return text


def _listed(rates: Rates) -> list[dict[str, object]]:
    return [
        {"text": text, "streams": streams, "draft": draft, "tokens_per_s": values}
        for (text, streams, draft), values in rates.items()
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=NAMES, default="qwen", help="default: qwen")
    parser.add_argument("--streams", type=numbers, default=[1, 4], help="requests at once; default: 1,4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
