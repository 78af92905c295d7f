"""Tries ``tensor_parallel=2`` with every family of transformers that has a plan for it, and prints what became of it.

As `tools.model_table` does for one process: a tiny random model of each is loaded by two processes, each its part, and
what they compute together is compared with `generate` of the whole model. Run it as ``make parallel-table``.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.tensor_parallel import Shard
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.loading.runner_choice import make_runner
from tools import model_families, model_table

NUM_RANKS = 2
MAX_FAMILY_S = 300
EXPECTED = "expected.pt"


def prepare(name: str, folder: Path) -> str:
    """Save a model of a family, and what it answers; returns why not, where it has no place in this table."""
    if kind := model_families.kind_of(name):
        return kind
    config = model_families.make_config(name)
    if not getattr(config.get_text_config(), "base_model_tp_plan", None):
        return "no plan"
    model = model_families.make_model(config)
    model.save_pretrained(folder)
    for file in model_table.TOKENIZER:
        shutil.copy(POCKET_DIR / file, folder)
    torch.save(model_table.expected_of(model), folder / EXPECTED)
    return ""


def try_shard(folder: Path, shard: Shard) -> str:
    """Load a part and compute with the other rank; what became of it."""
    try:
        loaded = load_model(parse_spec(folder), device="cpu", shard=shard)
        runner: Any = make_runner(loaded, SlotPlan(4, model_families.LONGEST, 0), Settings(num_threads=1))
    except LlmApiKitError as exc:
        return f"refused: {exc}".replace(str(folder), "it")
    runner.start()
    expected = torch.load(folder / EXPECTED)
    unequal = [check for check in model_table.CHECKS if not model_table.is_equal(runner, expected, check)]
    return f"other answers: {', '.join(unequal)}" if unequal else "equal"


def try_family(name: str) -> str:
    """What became of a family: by processes of its own, as one that fails leaves the other one waiting."""
    with tempfile.TemporaryDirectory() as folder:
        if reason := prepare(name, Path(folder)):
            return reason
        command = [sys.executable, "-m", "tools.parallel_table", "--folder", folder, "--rank"]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(NUM_RANKS)
        ]
        try:
            return ranks[0].communicate(timeout=MAX_FAMILY_S)[0].strip() or "FAILED, see above"
        except subprocess.TimeoutExpired:
            return "FAILED: it hangs"
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Try families and print, or be a rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; all unless given")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    model_table.quiet()
    if asked.folder is not None:
        shard = Shard(asked.rank, NUM_RANKS, str(asked.folder))
        shard.join("cpu")
        print(try_shard(asked.folder, shard), flush=True)
        os._exit(0)  # the other rank may be gone, which leaving would wait for
    for name in asked.names or model_families.names():
        try:
            outcome = try_family(name)
        except Exception as exc:
            outcome = f"NOT TRIED, {type(exc).__name__}: {str(exc)[:200]}"
        print(f"{name:24} {outcome}", flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main()
