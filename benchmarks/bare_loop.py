"""How fast transformers' own forward pass makes tokens, without any server: batched, greedy, with a `DynamicCache`.

What `benchmarks.overhead` compares the engine over HTTP with. All sequences have the same length, so nothing is padded:
the best case of this loop. It runs on one thread and on all, in turns, and the better counts: OpenMP's threads wait by
spinning, so with any other program on the same cores the loop on all of them is several times slower than on one, and
on idle cores up to twice as fast. Prints the tokens/s as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import transformers

from benchmarks.models import single_characters


def make_tokens(model: transformers.PreTrainedModel, ids: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Prompts (batch, prompt) to greedy continuations (batch, num_tokens)."""
    cache = transformers.DynamicCache(config=model.config)
    made = []
    for _ in range(num_tokens):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        made.append(ids)
    return torch.cat(made, dim=1)


def _prompt_ids(folder: Path) -> torch.Tensor:
    """Ids of the characters that the served prompts are made of too."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    return torch.tensor(list(single_characters(tokenizer).values()))


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=26)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--min-s", type=float, default=3.0)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=getattr(torch, args.dtype)).eval()
    torch.manual_seed(0)
    shape = (args.batch, args.prompt_tokens)
    ids = _prompt_ids(args.folder)
    counts = sorted({1, os.cpu_count() or 1})
    num_tokens, wall_s = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0.0)
    with torch.inference_mode():
        make_tokens(model, ids[torch.randint(len(ids), shape)], min(16, args.max_tokens))
        while not num_tokens[counts[-1]] or min(wall_s.values()) < args.min_s:
            for num_threads in counts:
                torch.set_num_threads(num_threads)
                prompts = ids[torch.randint(len(ids), shape)]
                started = time.perf_counter()
                num_tokens[num_threads] += make_tokens(model, prompts, args.max_tokens).numel()
                wall_s[num_threads] += time.perf_counter() - started
    rates = {num_threads: num_tokens[num_threads] / wall_s[num_threads] for num_threads in counts}
    print(json.dumps({"tokens_per_s": max(rates.values()), "by_threads": rates}))


if __name__ == "__main__":
    main()
