"""Writes docs/model_families.md: what becomes of every family of causal language models in transformers.

Each is a tiny random model, saved to a folder and loaded as a user's would be. What it answers over slots is compared
with its own `generate`: logits along `generate`'s greedy answer, alone, beside prompts of other lengths, after a prefix
hit, and past every length at which the model begins to compute otherwise. Run it as ``make model-table``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402
import transformers  # noqa: E402

from llmapi_kit.checkpoints.fit import SlotPlan  # noqa: E402
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec  # noqa: E402
from llmapi_kit.checkpoints.weights import load_model  # noqa: E402
from llmapi_kit.config import Settings  # noqa: E402
from llmapi_kit.errors import LlmApiKitError  # noqa: E402
from llmapi_kit.loading.runner_choice import make_runner  # noqa: E402
from llmapi_kit.runners.base import StepItem  # noqa: E402
from llmapi_kit.runners.native.decoder import NativeDecoder  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import model_families  # noqa: E402

PAGE = Path(__file__).parent.parent / "docs" / "model_families.md"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NUM_NEW, LONG = 8, 34  # past windows and chunks of 8 and an original length of 16
CHECKS = ("alone", "batched", "prefix", "long")
TOLERANCE = 2e-3  # of the largest logit


@dataclass(frozen=True)
class Row:
    """What became of a family.

    Attributes:
        name: of the family.
        architecture: the model's class.
        runner: how steps run; empty for a family that is refused.
        unequal: the checks in which the answer is another one.
        reason: why it is refused.
    """

    name: str
    architecture: str
    runner: str = ""
    unequal: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether it is served, and answers as `generate` does."""
        return bool(self.runner) and not self.unequal


def try_family(name: str) -> Row:
    """Make a model of a family, load it and compare."""
    config = model_families.make_config(name)
    if not model_families.is_for_text(config):
        return Row(name, type(config).__name__, reason="for more than text; see Models that see")
    model = model_families.make_model(config)
    architecture = type(model).__name__
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for file in TOKENIZER:
            shutil.copy(POCKET_DIR / file, folder)
        expected = _expected(model)
        try:
            loaded = load_model(parse_spec(folder), device="cpu", has_native=NativeDecoder.is_available)
            settings = Settings(num_threads=1)
            runner: Any = make_runner(loaded, SlotPlan(4, model_families.LONGEST, 0), settings)
        except LlmApiKitError as exc:
            return Row(name, architecture, reason=str(exc).replace(folder, "it"))
    runner.start()
    unequal = tuple(check for check in CHECKS if not _is_equal(runner, expected, check))
    kind = runner.kind
    _print_estimate(runner, config)
    runner.close()
    return Row(name, architecture, kind, unequal)


def _print_estimate(runner, config):
    from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token
    per = kv_bytes_per_token(config.get_text_config(), "float32")
    if runner.kind=="sequences":
        n=sum(s.num_cached for s in runner._sequences)
    else: n=4*model_families.LONGEST
    print(f"    estimate {per*n} measured {runner.kv_bytes} n={n}" + (f"chunk={runner.can_chunk} rewind={runner.can_rewind}" if runner.kind=="sequences" else ""))


def prompts() -> dict[str, list[int]]:
    """Prompts of several lengths; two begin alike."""
    long = [3 + (37 * i + 11) % 3000 for i in range(LONG)]
    return {
        "short": [3 + 53 * i % 3000 for i in range(5)],
        "one": [77],
        "long": long,
        "alike": [*long[:12], *(3 + 71 * i % 3000 for i in range(6))],
    }


Expected = dict[str, tuple[list[int], torch.Tensor]]  # prompt to greedy tokens and the logits (tokens, vocab) of each


def _expected(untouched: Any) -> Expected:
    """What `generate` says, by a model that has computed nothing before."""
    answers = {}
    for name, ids in prompts().items():
        model = copy.deepcopy(untouched)
        asked: Any = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=NUM_NEW,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        given = torch.tensor([ids])
        made = model.generate(given, attention_mask=torch.ones_like(given), generation_config=asked)
        answers[name] = made.sequences[0, len(ids) :].tolist(), torch.cat(made.logits)
    return answers


def _is_equal(runner: Any, expected: Expected, check: str) -> bool:
    """Whether a runner computes the logits of `generate`, step by step along its answer."""
    if check == "alone":
        return _are_equal(runner, expected, {0: "short"})
    if check == "batched":
        return _are_equal(runner, expected, {0: "alike", 1: "short", 3: "one"})
    if check == "long":
        return _are_equal(runner, expected, {2: "long", 1: "one"})
    ids = prompts()
    runner.step([StepItem(0, 0, ids["long"], True)])
    runner.copy_prefix(0, 2, 12)
    copied = _are_equal(runner, expected, {2: "alike"}, {2: 12})
    # A slot that goes on from a part of what it holds
    return copied and _are_equal(runner, expected, {0: "alike"}, {0: 12})


def _are_equal(runner: Any, expected: Expected, slots: dict[int, str], held: dict[int, int] | None = None) -> bool:
    """Prompts in two chunks each, then all answers in steps together."""
    asked = prompts()
    done = {slot: (held or {}).get(slot, 0) for slot in slots}
    middle = {slot: (done[slot] + len(asked[name])) // 2 for slot, name in slots.items()}
    items = [
        StepItem(slot, done[slot], asked[name][done[slot] : middle[slot]], False)
        for slot, name in slots.items()
        if middle[slot] > done[slot]
    ]
    if items:
        runner.step(items)
    rows = runner.step([StepItem(slot, middle[slot], asked[name][middle[slot] :], True) for slot, name in slots.items()])
    for turn in range(NUM_NEW):
        for row, name in zip(rows, slots.values(), strict=True):
            if not _is_close(row, expected[name][1][turn]):
                return False
        if turn < NUM_NEW - 1:
            rows = runner.step(
                [
                    StepItem(slot, len(asked[name]) + turn, [expected[name][0][turn]], True)
                    for slot, name in slots.items()
                ]
            )
    return True


def _is_close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = expected.abs().max().item()
    return bool((logits - expected).abs().max().item() <= TOLERANCE * max(scale, 1e-3))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; all unless given, and then the page is written")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for name in asked.names or model_families.names():
        try:
            row = try_family(name)
        except Exception as exc:
            where = traceback.extract_tb(exc.__traceback__)[-1]
            row = Row(name, "", reason=f"BROKEN {type(exc).__name__}: {exc} ({where.filename}:{where.lineno})")
        rows.append(row)
        print(f"{row.name:24} {row.runner or 'refused':10} {', '.join(row.unequal) or row.reason or 'equal'}", flush=True)


if __name__ == "__main__":
    main()
