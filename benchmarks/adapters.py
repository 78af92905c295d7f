"""Measures what LoRA adapters cost: requests spread over several adapters in one batch, against as many with none.

One engine in this process, without HTTP, both ways in turns within each repeat; random adapters on every projection.
Once with the step in C, once with the one in torch, which is what runs where there is no compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, numbers, write_results
from benchmarks.models import NAMES, BenchModel, make_model
from benchmarks.steadiness import Steadiness
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.adapters import adapters_of
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.runners.adapter_places import PRODUCTS
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Failed, Finished

PROMPT_WORDS = 64
MAX_TOKENS = 64
Rates = dict[tuple[str, int, str], list[float]]  # step, streams, "none" or "adapters" to the repeats' tokens/s


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    steadiness = Steadiness()
    rates: Rates = defaultdict(list)
    model = make_model(args.model, args.work)
    folders = [
        write_adapter(model, args.work / "adapters" / f"{model.name}-{i}", args.rank, i) for i in range(args.num)
    ]
    for step in args.steps:
        measure(model, folders, step, args, steadiness, rates)
    machine = describe_machine()
    lines = ["# LoRA adapters", "", f"Made by `{command_line('adapters', argv)}`.", "", machine_line(machine), ""]
    lines += [
        steadiness.sentence(),
        "",
        f"{model.label}; {args.num} adapters of rank {args.rank} on every projection; tokens/s, medians over "
        f"{args.repeats} repeats.",
        "",
        *table(rates),
    ]
    data = {"machine": machine, "steadiness": steadiness.sentence(), "samples": _listed(rates)}
    write_results(args.results, "adapters", "\n".join(lines), data)
    return 0


def measure(
    model: BenchModel,
    folders: Sequence[Path],
    step: str,
    args: argparse.Namespace,
    steadiness: Steadiness,
    rates: Rates,
) -> None:
    """Tokens/s of one way to compute steps, without adapters and with all of them, in turns."""
    settings = load_settings(native=step == "C", max_slots=max(args.streams), prefix_cache="off")
    lora = {f"adapter{i}": str(folder) for i, folder in enumerate(folders)}
    engine = make_engine(parse_spec(str(model.folder)), settings, lora=lora, device="cpu")
    words = json.loads(model.words.read_text())
    try:
        for streams in args.streams:
            asyncio.run(run(_engines(engine, streams, has_adapters=True), words, 4))
            for repeat in range(args.repeats):
                for who in ("none", "adapters"):
                    steadiness.probe()
                    engines = _engines(engine, streams, has_adapters=who == "adapters")
                    rate = asyncio.run(run(engines, words, 8 if args.quick else MAX_TOKENS))
                    rates[step, streams, who].append(rate)
                    print(f"{step}, {streams} streams, {who} ({repeat + 1}): {rate:,.0f} tokens/s", flush=True)
    finally:
        engine.close()


async def run(engines: Sequence[Engine], words: Sequence[str], max_tokens: int) -> float:
    """Tokens/s of one request to each engine, all at once."""
    started = time.perf_counter()
    await asyncio.gather(*(_answer(engine, words, max_tokens, i) for i, engine in enumerate(engines)))
    return len(engines) * max_tokens / (time.perf_counter() - started)


def table(rates: Rates) -> list[str]:
    """A row for each step and number of streams."""
    lines = ["| step | streams | no adapter | adapters | of none |", "|---|---|---|---|---|"]
    for step, streams in dict.fromkeys((step, streams) for step, streams, _ in rates):
        none, adapters = (median(rates[step, streams, who]) for who in ("none", "adapters"))
        share = ratio(adapters, none)
        lines.append(
            f"| {step} | {streams} | {shown(none)} | {shown(adapters)} | {0 if share is None else share:.0%} |"
        )
    return lines


def write_adapter(model: BenchModel, folder: Path, rank: int, seed: int) -> Path:
    """A random adapter on every projection, as PEFT would save it; small, so that answers stay numbers."""
    config = json.loads((model.folder / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    sizes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    sizes |= {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for part in (part for group in PRODUCTS for part in group):
            outputs, inputs = sizes[part.rpartition(".")[2].removesuffix("_proj")]
            name = f"base_model.model.model.layers.{layer}.{part}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.01
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def _engines(engine: Engine, streams: int, *, has_adapters: bool) -> list[Engine]:
    """Who answers each stream."""
    adapters = adapters_of(engine)
    fronts = list(adapters.engines().values()) if has_adapters and adapters is not None else [engine]
    return [fronts[i % len(fronts)] for i in range(streams)]


async def _answer(engine: Engine, words: Sequence[str], max_tokens: int, seed: int) -> None:
    text = "".join(words[(seed * 7919 + i * 31) % len(words)] for i in range(PROMPT_WORDS))
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    async for event in engine.generate(GenerationRequest(prompt=text, sampling=sampling)):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished) and event.num_completion_tokens != max_tokens:
            raise RuntimeError(f"an answer has {event.num_completion_tokens} tokens in place of {max_tokens}")


def _listed(rates: Rates) -> list[dict[str, object]]:
    return [
        {"step": step, "streams": streams, "who": who, "tokens_per_s": values}
        for (step, streams, who), values in rates.items()
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=NAMES, default="qwen", help="default: qwen")
    parser.add_argument("--streams", type=numbers, default=[4, 8], help="requests at once; default: 4,8")
    parser.add_argument("--num", type=int, default=4, help="adapters; default: 4")
    parser.add_argument("--rank", type=int, default=16, help="of each; default: 16")
    parser.add_argument("--steps", type=lambda text: text.split(","), default=["C", "torch"], help="default: C,torch")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
