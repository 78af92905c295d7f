"""Measures the step in C beside the same model in torch, family for family: CPU time of decodes and of a prompt.

Models are random and of one size, so that families can be compared. Without a server, with one thread each, and in
processor time, in turns: whatever else runs on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, write_results
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.torch_runner import TorchRunner

SHAPE = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048, "pad_token_id": 0}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 384}
# Configuration and model in transformers, and what a family needs besides
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "Qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 64}),
    "Phi-3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "SmolLM3": ("SmolLM3Config", "SmolLM3ForCausalLM", {"bos_token_id": 1, "eos_token_id": 2}),
    "OLMo 2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "Granite": ("GraniteConfig", "GraniteForCausalLM", {"residual_multiplier": 0.22}),
    "Gemma": ("GemmaConfig", "GemmaForCausalLM", {"head_dim": 64}),
    "Gemma 2": ("Gemma2Config", "Gemma2ForCausalLM", {"head_dim": 64, "sliding_window": 128}),
    "Gemma 3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"head_dim": 64, "sliding_window": 128}),
    "Mixtral": ("MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "Qwen2-MoE": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 768}),
    "Qwen3-MoE": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 64}),
}
STREAMS, PROMPT, WARM_UP = 8, 256, 2


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured: steps of so many streams with so many tokens each."""

    streams: int
    num_tokens: int


LOADS = (Load(1, 1), Load(STREAMS, 1), Load(1, PROMPT))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    lines = ["# Families in C and in torch", "", f"Made by `{command_line('families', argv)}`.", ""]
    lines += [machine_line(describe_machine()), ""]
    if args.quick:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    lines += ["Processor time of a step with one thread: in torch, in C, and how many times as fast that is.", ""]
    lines += [f"| family | parameters | 1 stream | {STREAMS} streams | prompt of {PROMPT} |", "|---|---:|---|---|---|"]
    data = {}
    for name in args.families:
        data[name] = times = measure(name, args.repeats, {**SHAPE, **({"num_hidden_layers": 2} if args.quick else {})})
        lines.append(_row(name, times))
        print(lines[-1], flush=True)
    write_results(args.results, "families", "\n".join(lines), data)
    return 0


def measure(name: str, repeats: int, shape: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds by load, in torch and in C."""
    runners = {"torch": _make(name, shape, native=False), "native": _make(name, shape, native=True)}
    seconds: dict[tuple[str, Load], list[float]] = defaultdict(list)
    for turn in range(WARM_UP + repeats):
        for load in LOADS:
            for kind, runner in runners.items():
                took = _timed(lambda runner=runner, load=load: _step(runner, load))  # type: ignore[misc]
                if turn >= WARM_UP:
                    seconds[kind, load].append(took)
    kinds = {kind: runner.kind for kind, runner in runners.items()}
    for runner in runners.values():
        runner.close()
    times = {kind: [1000 * (median(seconds[kind, load]) or 0) for load in LOADS] for kind in runners}
    return {"kinds": kinds, "parameters": _count(name, shape), **times}


def _row(name: str, data: dict[str, Any]) -> str:
    pairs = zip(data["torch"], data["native"], strict=True)
    cells = [f"{shown(one)} / {shown(other)} ms = {shown(ratio(one, other))}" for one, other in pairs]
    return f"| {name} | {data['parameters'] / 1e6:.0f} M | {' | '.join(cells)} |"


def _model(name: str, shape: dict[str, Any]) -> Any:
    config, model, more = FAMILIES[name]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**shape, **HEADS, **more)).eval()


def _make(name: str, shape: dict[str, Any], *, native: bool) -> TorchRunner:
    runner = TorchRunner(_model(name, shape), num_slots=STREAMS, max_length=512, num_threads=1, native=native)
    if native and runner.kind != "native":
        raise ValueError(f"The step in C does not know {name}.")
    runner.start()
    return runner


def _count(name: str, shape: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _model(name, shape).parameters())


def _step(runner: TorchRunner, load: Load) -> None:
    start = PROMPT if load.num_tokens == 1 else 0
    ids = [11 + i % 1000 for i in range(load.num_tokens)]
    runner.step([StepItem(slot, start, ids, True) for slot in range(load.streams)])


def _timed(call: Callable[[], None]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.set_defaults(repeats=9)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats = 1
    return args


if __name__ == "__main__":
    sys.exit(main())
