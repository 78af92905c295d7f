"""Measures guessed tokens (the setting ``draft``), by engines with them and without in this process, without HTTP.

Guesses from the prompt: a prompt that its answer repeats, greedily, and one that nothing repeats, sampled at
temperature 1. Guesses of a draft model: a model whose first layers are its draft (see `benchmarks.draft_pair`),
greedily and sampled; beside it a model that is its own draft, where every guess comes true and drafting costs as much
as it spares, so that it has to be given up. Engines take turns within each repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.draft_pair import make_pair
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
OFF, LOOKUP, SMALLER, ITSELF = "off", "prompt-lookup", "a sixth of its layers", "itself"


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, and of which engines.

    Attributes:
        text: its name.
        prompt: what is asked.
        params: how it is answered.
        engines: by what drafts; the first one has nothing that does.
    """

    text: str
    prompt: str
    params: SamplingParams
    engines: Mapping[str, Engine]


@dataclass(slots=True)
class Measured:
    """Of one case, number of streams and way to draft: tokens/s of each repeat, and what was guessed in all of them."""

    tokens_per_s: list[float] = field(default_factory=list)
    num_guessed: int = 0
    num_right: int = 0

    @property
    def share(self) -> float | None:
        """Of guesses that came true, in percent."""
        return 100 * self.num_right / self.num_guessed if self.num_guessed else None


Results = dict[tuple[str, int, str], Measured]  # by text, streams and draft


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    steadiness = Steadiness()
    model = make_model(args.model, args.work)
    quiet, small = (str(folder) for folder in make_pair(model, args.work))
    words = json.loads(model.words.read_text())
    num_tokens = 8 if args.quick else MAX_TOKENS
    greedy = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    free = SamplingParams(temperature=1, seed=1, max_tokens=num_tokens, ignore_eos=True)
    prompt = "".join(words[i * 31 % len(words)] for i in range(PROMPT_WORDS))
    opened: list[Engine] = []

    def engines(folder: str, drafts: Mapping[str, str]) -> dict[str, Engine]:
        found = {}
        for way, draft in drafts.items():
            settings = load_settings(draft=draft, max_slots=max(args.streams), prefix_cache="off")
            found[way] = make_engine(parse_spec(folder), settings, device="cpu")
            opened.append(found[way])
        return found

    results: Results = defaultdict(Measured)
    try:
        looking = engines(str(model.folder), {OFF: "off", LOOKUP: "prompt-lookup"})
        said = asyncio.run(_answer(looking[OFF], prompt, greedy))
        drafting = engines(quiet, {OFF: "off", SMALLER: small, ITSELF: quiet})
        for case in (
            Case("repetitive", prompt + said, greedy, looking),
            Case("free", prompt, free, looking),
            Case("greedy", prompt, greedy, drafting),
            Case("sampled", prompt, free, drafting),
        ):
            for streams in args.streams:
                _measure(case, streams, args.repeats, steadiness, results)
                print(f"{case.text}, {streams} streams: done", flush=True)
    finally:
        for engine in opened:
            engine.close()
    machine = describe_machine()
    lines = ["# Guessed tokens", "", f"Made by `{command_line('draft', argv)}`.", "", machine_line(machine), ""]
    lines += [steadiness.sentence(), "", f"{model.label}; tokens/s, medians over {args.repeats} repeats.", ""]
    data = {"machine": machine, "steadiness": steadiness.sentence(), "samples": _listed(results)}
    write_results(args.results, "draft", "\n".join([*lines, *table(results)]), data)
    return 0


def table(results: Results) -> list[str]:
    """A row for each text, number of streams and way to draft."""
    lines = ["| text | streams | draft | off | with it | times | came true, % |", "|---|---|---|---|---|---|---|"]
    for (text, streams, draft), measured in results.items():
        if draft == OFF:
            continue
        off, guessing = median(results[text, streams, OFF].tokens_per_s), median(measured.tokens_per_s)
        figures = (off, guessing, ratio(guessing, off), measured.share)
        lines.append(f"| {text} | {streams} | {draft} | {' | '.join(map(shown, figures))} |")
    return lines


def _measure(case: Case, streams: int, repeats: int, steadiness: Steadiness, results: Results) -> None:
    for _ in range(repeats):
        for draft, engine in case.engines.items():
            measured, before = results[case.text, streams, draft], engine.stats()
            steadiness.probe()
            measured.tokens_per_s.append(asyncio.run(_rate(engine, case.prompt, case.params, streams)))
            after = engine.stats()
            measured.num_guessed += after.num_guessed_tokens - before.num_guessed_tokens
            measured.num_right += after.num_right_guesses - before.num_right_guesses


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


def _listed(results: Results) -> list[dict[str, object]]:
    return [
        {
            "text": text,
            "streams": streams,
            "draft": draft,
            "tokens_per_s": measured.tokens_per_s,
            "num_guessed": measured.num_guessed,
            "num_right": measured.num_right,
        }
        for (text, streams, draft), measured in results.items()
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=NAMES, default="qwen", help="default: qwen")
    parser.add_argument("--streams", type=numbers, default=[1, 4], help="requests at once; default: 1,4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
