"""Measures what fewer bits cost: the perplexity of a text with a model's weights, keys and values in several formats.

Each format is loaded as `kit.load` loads it, and reads the same tokens through the engine's own step. The text is, for
the pocket model, what the assistant says in conversations of its corpus, made with another seed than its training's;
for other models the documentation here, or a file of yours. Prints a table.

    .venv/bin/python tools/perplexity.py pocket
    .venv/bin/python tools/perplexity.py ./folder --text book.txt
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pocket_corpus import conversations

from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.loading.runner_choice import make_runner
from llmapi_kit.runners.base import Runner, StepItem
from llmapi_kit.runners.native.decoder import NativeDecoder

DOCS = Path(__file__).resolve().parent.parent / "docs"
SEED = 20_260_101
FORMATS: dict[str, dict[str, str]] = {
    "as stored": {},
    "kv_cache_dtype='bfloat16'": {"kv_cache_dtype": "bfloat16"},
    "kv_cache_dtype='int8'": {"kv_cache_dtype": "int8"},
    "quantize='int8'": {"quantize": "int8"},
    "quantize='int4'": {"quantize": "int4"},
    "quantize='int4', kv_cache_dtype='int8'": {"quantize": "int4", "kv_cache_dtype": "int8"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = _parse(argv)
    print("| Format | perplexity | against as stored | same first choice |\n|---|---:|---:|---:|")
    stored: list[torch.Tensor] = []
    for label, options in FORMATS.items():
        loaded = load_model(parse_spec(args.model), device="cpu", has_native=NativeDecoder.is_available, **options)
        windows = list(texts(args, loaded.tokenizer))
        runner = make_runner(loaded, SlotPlan(1, args.length, 0), Settings())
        losses, choices = zip(*(read(runner, ids, first) for ids, first in windows), strict=True)
        runner.close()
        stored = stored or list(choices)
        perplexity = math.exp(torch.cat(losses).mean().item())
        same = torch.cat(stored).eq(torch.cat(choices)).double().mean().item()
        if not options:
            reference = perplexity
        print(f"| {label} | {perplexity:.4f} | {perplexity / reference - 1:+.2%} | {same:.2%} |", flush=True)
    print(f"\n{sum(map(len, losses)):,} tokens of {len(windows)} texts.")
    return 0


def texts(args: argparse.Namespace, tokenizer: Any) -> Iterator[tuple[list[int], int]]:
    """Token ids, and from which of them on they are counted."""
    if args.model == "pocket" and args.text is None:
        for conversation in itertools.islice(conversations(SEED), args.num_texts):
            ids = tokenizer.apply_chat_template(
                conversation.messages, tools=conversation.tools or None, return_dict=False
            )
            before = tokenizer.apply_chat_template(
                conversation.messages[:-1],
                tools=conversation.tools or None,
                add_generation_prompt=True,
                return_dict=False,
            )
            if len(before) < len(ids) <= args.length:
                yield ids, len(before)
        return
    files = [args.text] if args.text else sorted(DOCS.glob("*.md"))
    ids = [token for file in files for token in tokenizer.encode(file.read_text(), add_special_tokens=False)]
    for begin in range(0, min(len(ids), args.num_texts * args.length), args.length):
        if len(ids) - begin > 1:
            yield ids[begin : begin + args.length], 1


@torch.inference_mode()
def read(runner: Runner, ids: list[int], first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the tokens from `first` on: what each costs, and what the model would have said."""
    logits = runner.step([StepItem(0, 0, ids[:-1], True, wants_every=True)])[first - 1 :].float()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first:]), reduction="none")
    return losses.clone(), logits.argmax(-1).clone()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder or a hub name; default: pocket")
    parser.add_argument("--text", type=Path, help="a file to read in place of what is shipped")
    parser.add_argument("--length", type=int, default=512, help="most tokens that are read at once; default: 512")
    parser.add_argument("--num-texts", type=int, default=400, help="how many texts; default: 400")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
