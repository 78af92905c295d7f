"""The load generator: N streaming chat requests at once, in rounds, and what they got.

All requests of a round start together; the next round starts when the last of them has ended. A warm-up round comes
first and is not counted. Prompts are made of words, a token each where the model says so, no two alike but for the
shared beginning where one is asked for; the same seed makes the same prompts. Runs in a process of its own, the same
for every server; standard library only, so it starts at once. Prints the result as JSON.

The key is read from ``LLMAPI_KIT_API_KEY`` where the server wants one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.event_stream_client import Answer, ask
from benchmarks.figures import percentile

WARM_UP_TOKENS = 16
WORDS = ("apple ", "bridge ", "cloud ", "dragon ", "engine ", "forest ", "garden ", "harbour ", "island ", "jacket ")


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask.

    Attributes:
        url: of the chat completions endpoint.
        model: as the server knows it.
        streams: requests at once.
        max_tokens: tokens each shall make.
        prompt_words: length of each user message.
        shared_words: length of a system message that all have in common; 0 for none.
        min_rounds: at least so many rounds.
        min_s: go on for at least so long.
        seed: of the prompts.
        words: to make them of, one after the other.
        fields: more fields of the request's body.
    """

    url: str
    model: str
    streams: int = 1
    max_tokens: int = 64
    prompt_words: int = 16
    shared_words: int = 0
    min_rounds: int = 1
    min_s: float = 0.0
    seed: int = 0
    words: Sequence[str] = WORDS
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class LoadResult:
    """What came back. Times are in seconds; the percentiles are over all requests, or all gaps, of all rounds.

    Attributes:
        num_requests: that were counted.
        num_tokens: they made, all together.
        num_pieces: events with text they came in; fewer than tokens where a server merges.
        wall_s: from the start of the first round to the end of the last, without the time between.
        tokens_per_s: over `wall_s`.
        num_prompt_tokens: of one prompt, as the server counted; None where it does not say.
        errors: why requests failed, or made another number of tokens than asked for.
    """

    num_requests: int
    num_tokens: int
    num_pieces: int
    wall_s: float
    tokens_per_s: float
    num_prompt_tokens: int | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    gap_p50_s: float | None
    gap_p99_s: float | None
    errors: list[str]


def bodies(load: Load) -> Iterator[bytes]:
    """Request bodies without end, each with a prompt of its own."""
    source = random.Random(load.seed)
    shared = random.Random("shared")  # the same in every run, as a system prompt is
    system = "".join(shared.choice(load.words) for _ in range(load.shared_words))
    start = [{"role": "system", "content": system}] if system else []
    while True:
        text = "".join(source.choice(load.words) for _ in range(load.prompt_words))
        yield json.dumps(
            {
                "model": load.model,
                "messages": [*start, {"role": "user", "content": text}],
                "max_tokens": load.max_tokens,
                "temperature": 0,
                "stream": True,
                **load.fields,
            }
        ).encode()


async def run(load: Load, key: str | None) -> LoadResult:
    """Put the load on the server."""
    prompts = bodies(load)
    warm_up = bodies(
        Load(**{**_fields(load), "seed": load.seed + 1_000_003, "max_tokens": min(WARM_UP_TOKENS, load.max_tokens)})
    )
    await _round(load, warm_up, key)
    answers: list[Answer] = []
    wall_s, num_rounds = 0.0, 0
    while num_rounds < load.min_rounds or wall_s < load.min_s:
        round_answers, round_s = await _round(load, prompts, key)
        answers.extend(round_answers)
        wall_s += round_s
        num_rounds += 1
        if any(answer.error for answer in round_answers):
            break
    return summarise(answers, wall_s, load.max_tokens)


async def _round(load: Load, prompts: Iterator[bytes], key: str | None) -> tuple[list[Answer], float]:
    payloads = [next(prompts) for _ in range(load.streams)]
    started = time.perf_counter()
    recordings = await asyncio.gather(*(ask(load.url, payload, key) for payload in payloads), return_exceptions=True)
    wall_s = time.perf_counter() - started
    answers = [
        Answer(error=f"{type(each).__name__}: {each}") if isinstance(each, BaseException) else each.parse()
        for each in recordings
    ]
    return answers, wall_s


def summarise(answers: Sequence[Answer], wall_s: float, max_tokens: int) -> LoadResult:
    """Figures of all answers together."""
    errors = [answer.error for answer in answers if answer.error]
    errors += [
        f"An answer has {answer.num_tokens} tokens in place of {max_tokens}."
        for answer in answers
        if not answer.error and answer.num_tokens != max_tokens
    ]
    num_tokens = sum(answer.num_tokens for answer in answers)
    ttfts = [answer.ttft_s for answer in answers if answer.ttft_s is not None]
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return LoadResult(
        num_requests=len(answers),
        num_tokens=num_tokens,
        num_pieces=sum(answer.num_pieces for answer in answers),
        wall_s=wall_s,
        tokens_per_s=num_tokens / wall_s,
        num_prompt_tokens=next((each.num_prompt_tokens for each in answers if each.num_prompt_tokens), None),
        ttft_p50_s=percentile(ttfts, 50),
        ttft_p99_s=percentile(ttfts, 99),
        gap_p50_s=percentile(gaps, 50),
        gap_p99_s=percentile(gaps, 99),
        errors=sorted(set(errors))[:5],
    )


def _fields(load: Load) -> dict[str, Any]:
    return {name: getattr(load, name) for name in Load.__slots__}


def main() -> None:
    """Run one load from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the chat completions endpoint")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--streams", type=int, default=1, help="requests at once")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=16)
    parser.add_argument("--shared-words", type=int, default=0, help="length of a system prompt that all share")
    parser.add_argument("--min-rounds", type=int, default=1)
    parser.add_argument("--min-s", type=float, default=0.0, help="go on for at least so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=Path, help="JSON list of words to make prompts of")
    parser.add_argument("--fields", type=json.loads, default={}, help="JSON object with more fields of the body")
    args = parser.parse_args()
    options = vars(args)
    options["words"] = json.loads(args.words.read_text()) if args.words else WORDS
    result = asyncio.run(run(Load(**options), os.environ.get("LLMAPI_KIT_API_KEY")))
    print(json.dumps(asdict(result)))
    if result.errors:
        sys.exit(1)


if __name__ == "__main__":
    main()
