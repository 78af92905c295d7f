"""Measures what a Ray cluster costs a request, how it grows with its replicas, and what its router finds in caches.

The engine sleeps a set time for each token, so that eleven replicas share two cores. All replicas are there at once and
are measured in turns: one, two and four of them under the same load; a single request at a time, beside the same engine
in this process; and conversations, with the kit's router and with Ray Serve's own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from benchmarks import timed_engine
from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, write_results
from benchmarks.steadiness import Steadiness
from llmapi_kit.cluster import connection, deployment
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.cluster.replicas import Replicas
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Finished

NUM_SLOTS, STEP_S, BLOCK_S, NUM_BLOCKS = 8, 0.05, 0.01, 4000
STREAMS, MAX_TOKENS = 40, 40  # more streams than four replicas have slots
REPLICAS = (1, 2, 4)
CONVERSATIONS, TURNS, TURN_CHARACTERS = 32, 6, 600
DEFAULT_ROUTER = "Ray Serve's router"
HERE = "this process"
Figures = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    steadiness, figures = Steadiness(), defaultdict(list)
    connection.connect(args.cluster, "benchmark")
    engines = {}
    try:
        engines = _start(args)
        for _ in range(args.repeats):
            asyncio.run(measure(engines, args, figures, steadiness))
    finally:
        for engine in engines.values():
            engine.close()
        connection.disconnect("benchmark")
    data = summary(figures)
    lines = ["# A cluster", "", f"Made by `{command_line('cluster', argv)}`.", ""]
    lines += [machine_line(describe_machine()), "", *table(data), "", steadiness.sentence()]
    write_results(args.results, "cluster", "\n".join(lines), data)
    return 0


async def measure(
    engines: dict[str, Engine], args: argparse.Namespace, figures: Figures, steadiness: Steadiness
) -> None:
    """One round of everything."""
    here = timed_engine.TimedEngine(num_slots=NUM_SLOTS, step_s=STEP_S, block_s=BLOCK_S, num_blocks=NUM_BLOCKS)
    for name in map(str, REPLICAS):
        steadiness.probe()
        figures[f"tokens_per_second {name}"].append(await throughput(engines[name], args.min_s))
        print(f"{name} replicas: {figures[f'tokens_per_second {name}'][-1]:.0f} tokens/s", flush=True)
    for _ in range(2 if args.quick else 20):
        for name, engine in ((HERE, here), ("1", engines["1"]), (DEFAULT_ROUTER, engines[DEFAULT_ROUTER])):
            first_s, step_s = await one_request(engine, "a question")
            figures[f"first_s {name}"].append(first_s)
            figures[f"step_s {name}"].append(step_s)
    for name in ("1", "4", DEFAULT_ROUTER):
        rate = await hit_rate(engines[name], len(figures["hit_rate 1"]), args)
        figures[f"hit_rate {name}"].append(rate)
        print(f"hits, {name}: {rate:.1%}", flush=True)


async def throughput(engine: Engine, min_s: float) -> float:
    """Tokens a second while there are always `STREAMS` requests."""
    counted, is_over = [0], asyncio.Event()

    async def client(number: int) -> None:
        while not is_over.is_set():
            async for event in engine.generate(_request(f"client {number}")):
                counted[0] += event.num_tokens if isinstance(event, Delta) else 0

    clients = [asyncio.create_task(client(number)) for number in range(STREAMS)]
    await asyncio.sleep(MAX_TOKENS * STEP_S)  # until all slots are taken, and not in step
    before, began = counted[0], time.perf_counter()
    await asyncio.sleep(max(min_s, MAX_TOKENS * STEP_S))
    rate = (counted[0] - before) / (time.perf_counter() - began)
    is_over.set()
    await asyncio.gather(*clients)
    return rate


async def one_request(engine: Engine, text: str) -> tuple[float, float]:
    """The time to the first token, and between two, of a request alone."""
    began = time.perf_counter()
    times = [time.perf_counter() async for event in engine.generate(_request(text, 6)) if isinstance(event, Delta)]
    return times[0] - began, (times[-1] - times[0]) / (len(times) - 1)


async def hit_rate(engine: Engine, seed: int, args: argparse.Namespace) -> float:
    """The share of prompt tokens that were cached, of conversations side by side."""
    num_cached = num_tokens = 0

    async def talk(number: int) -> None:
        nonlocal num_cached, num_tokens
        text = ""
        for turn in range(2 if args.quick else TURNS):
            text += f"{seed} {number} {turn} {engine.info.id} ".ljust(TURN_CHARACTERS, "x")
            async for event in engine.generate(_request(text, 4)):
                if isinstance(event, Finished):
                    num_cached += event.num_cached_tokens
                    num_tokens += event.num_prompt_tokens

    await asyncio.gather(*(talk(number) for number in range(CONVERSATIONS)))
    return num_cached / num_tokens


def summary(figures: Figures) -> dict[str, object]:
    """The medians, by the names that the simulation reads."""
    middle = {name: median(values) or 0.0 for name, values in figures.items()}
    return {
        "engine_step_s": middle[f"step_s {HERE}"],
        "time_to_first_token_s": middle["first_s 1"],
        "request_overhead_s": middle["first_s 1"] - middle[f"first_s {HERE}"],
        "router_overhead_s": middle["first_s 1"] - middle[f"first_s {DEFAULT_ROUTER}"],
        "prefix_hit_rate": middle["hit_rate 4"],
        "prefix_hit_rate_without_router": middle[f"hit_rate {DEFAULT_ROUTER}"],
        "prefix_hit_rate_of_one_replica": middle["hit_rate 1"],
        "tokens_per_second": {str(num): middle[f"tokens_per_second {num}"] for num in REPLICAS},
        "num_slots": NUM_SLOTS,
        "prompt_block_s": BLOCK_S,
        "samples": {name: list(values) for name, values in figures.items()},
    }


def table(data: dict[str, object]) -> list[str]:
    """The figures as people read them."""
    rates: dict[str, float] = data["tokens_per_second"]  # type: ignore[assignment]
    one = data["prefix_hit_rate_of_one_replica"]
    lines = [
        f"An engine of {NUM_SLOTS} slots and {STEP_S * 1000:.0f} ms a token; {STREAMS} streams all the time.",
        "",
        "| Replicas | Tokens/s | of one replica's |",
        "|---:|---:|---:|",
    ]
    for num, rate in rates.items():
        lines.append(f"| {num} | {shown(rate)} | {shown(ratio(rate, rates['1']), ' times')} |")
    lines += ["", "| Four replicas | Prompt tokens from a cache | of one replica's |", "|---|---:|---:|"]
    for name, key in (("this router", "prefix_hit_rate"), (DEFAULT_ROUTER, "prefix_hit_rate_without_router")):
        lines.append(f"| {name} | {data[key]:.1%} | {ratio(data[key], one) or 0:.0%} |")  # type: ignore[arg-type]
    milliseconds = {
        name: 1000 * data[name]  # type: ignore[operator]
        for name in ("time_to_first_token_s", "request_overhead_s", "router_overhead_s")
    }
    return [
        *lines,
        "",
        f"A request alone has its first token after {milliseconds['time_to_first_token_s']:.1f} ms, "
        f"{milliseconds['request_overhead_s']:.1f} ms later than in this process; this router takes "
        f"{milliseconds['router_overhead_s']:.1f} ms more than Ray Serve's.",
    ]


def _start(args: argparse.Namespace) -> dict[str, Engine]:
    import ray
    from ray.serve.config import RequestRouterConfig

    ray.cloudpickle.register_pickle_by_value(timed_engine)
    settings = Settings(max_slots=NUM_SLOTS, max_queue=STREAMS)
    make = partial(timed_engine.TimedEngine, num_slots=NUM_SLOTS, step_s=STEP_S, block_s=BLOCK_S, num_blocks=NUM_BLOCKS)
    engines: dict[str, Engine] = {}
    for name in (*map(str, REPLICAS), DEFAULT_ROUTER):
        is_ours = name != DEFAULT_ROUTER
        num = int(name) if is_ours else 4
        app = f"timed-{num}" if is_ours else "timed-default"
        router = deployment.ROUTER if is_ours else str(RequestRouterConfig().request_router_class)
        model = deployment.DeployedModel(make, app, settings, Replicas(num, num, num_cpus=0.1), router=router)
        handle = deployment.start(model, app)
        info = handle.describe.remote().result().value
        find = partial(deployment.readiness, app, app)
        engines[name] = ClusterEngine(handle, info, find_readiness=find, on_close=partial(deployment.stop, app))
    return engines


def _request(text: str, max_tokens: int = MAX_TOKENS) -> GenerationRequest:
    return GenerationRequest(prompt=text, sampling=SamplingParams(max_tokens=max_tokens))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--cluster", default="local", help="default: local, which starts one on this machine")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
