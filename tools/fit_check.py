"""Compares what the kit says a model will take with what it then takes, for 20 shapes.

Each is a random model in a folder, loaded by `kit.load` in a process of its own, which answers one prompt. Compared is
the memory that the process has to itself, less what it had with a small model of the same family. Takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token, step_bytes
from llmapi_kit.checkpoints.fit import check_folder
from llmapi_kit.checkpoints.spec import POCKET_DIR
from tools import model_families
from tools.model_table import TOKENIZER

CONTEXT = 512
WITHIN = 0.1
WIDE = {"vocab_size": 3072, "max_position_embeddings": 1024}
DENSE = {**WIDE, "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_key_value_heads": 4}
OLDER = {"n_embd": 768, "n_layer": 12, "n_head": 12, "hidden_size": 768, "num_hidden_layers": 12}
# Family, sizes, type of the weights on the disk, and the one that is asked for
SHAPES: tuple[tuple[str, dict[str, Any], str, str | None], ...] = (
    *((name, {**DENSE, "num_hidden_layers": 16, "head_dim": 64}, "bfloat16", None) for name in ("llama", "qwen3")),
    *((name, {**DENSE, "num_hidden_layers": 16}, "bfloat16", "float32") for name in ("llama", "qwen2", "mistral")),
    *((name, {**DENSE, "num_hidden_layers": 16}, "float32", None) for name in ("llama", "qwen2", "mistral")),
    *((name, {**DENSE, "num_hidden_layers": 24}, "bfloat16", "bfloat16") for name in ("llama", "olmo2", "granite")),
    *((name, {**DENSE, "num_hidden_layers": 24, "head_dim": 64}, "bfloat16", None) for name in ("gemma", "gemma2")),
    *((name, {**WIDE, **OLDER}, "float32", None) for name in ("gpt2", "bloom", "gptj")),
    ("gpt_neox", {**DENSE, "num_hidden_layers": 16}, "bfloat16", "float32"),
    ("mamba", {"vocab_size": 3072, "hidden_size": 768, "num_hidden_layers": 16, "state_size": 16}, "float32", None),
    ("mixtral", {**DENSE, "num_hidden_layers": 4, "num_local_experts": 4}, "float32", None),
    ("phi3", {**DENSE, "num_hidden_layers": 16, "sliding_window": None}, "float32", "bfloat16"),
)


def main() -> None:
    """Print a line for each shape; exit with 1 where an estimate is off by more than a tenth."""
    with tempfile.TemporaryDirectory() as home:
        worst = 0.0
        for number, (name, sizes, stored, asked) in enumerate(SHAPES):
            folder = _make(Path(home) / str(number), name, sizes, stored)
            small = _make(Path(home) / f"{number} small", name, {**WIDE, "vocab_size": 3072}, stored)
            config = model_families.make_config(name, sizes)
            found = _measure(folder, small, asked)
            dtype = asked or ("float32" if found["dtype"] == "float32" else None)
            fit = check_folder(folder, "cpu", dtype=dtype, keeps_bfloat16=asked is None)
            num_tokens = found["num_tokens"]
            told = fit.weights_bytes + kv_bytes_per_token(config, found["dtype"]) * num_tokens
            told += step_bytes(config, num_tokens)
            taken = found["bytes"]
            worst = max(worst, abs(told / taken - 1))
            print(
                f"{name:10} {stored:9} -> {asked or '-':9} {told >> 20:6} MiB told {taken >> 20:6} MiB taken"
                f" {told / taken - 1:+7.1%}",
                flush=True,
            )
            shutil.rmtree(folder)
    print(f"off by {worst:.1%} at the most")
    sys.exit(int(worst > WITHIN))


def _make(folder: Path, name: str, sizes: dict[str, Any], stored: str) -> Path:
    model = model_families.make_model(model_families.make_config(name, sizes), is_shaken=False)
    model.to(getattr(torch, stored)).save_pretrained(folder)
    for file in TOKENIZER:
        shutil.copy(POCKET_DIR / file, folder)
    return folder


def _measure(folder: Path, small: Path, dtype: str | None) -> dict[str, Any]:
    """What a process takes more once it has loaded a model and answered, after it did so with a small one."""
    command = [sys.executable, "-m", "tools.fit_check", os.fspath(folder), os.fspath(small), dtype or ""]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def load_and_tell(folder: str, small: str, dtype: str) -> None:
    """Load a small model and another one, let both answer, and print what the other one takes."""
    import psutil

    import llmapi_kit as kit

    options: dict[str, Any] = {"dtype": dtype} if dtype else {}
    before = 0
    for each in (small, folder):
        model = kit.load(each, max_slots=1, context_length=CONTEXT, **options)
        model.ask("word " * 200, max_tokens=4, ignore_eos=True)
        taken, before = psutil.Process().memory_full_info().uss - before, psutil.Process().memory_full_info().uss
    told = {"bytes": taken, "dtype": model.info.dtype, "num_tokens": model.stats().num_prompt_tokens + 4}
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load_and_tell(*sys.argv[1:])
    else:
        main()
