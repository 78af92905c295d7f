"""Writes docs/model_families.md: what becomes of every family of causal language models in transformers.

Each is a tiny random model, saved to a folder and loaded as a user's would be. What it answers over slots is compared
with its own `generate`: logits along `generate`'s greedy answer, alone, beside prompts of other lengths, after a prefix
hit, and past every length at which the model begins to compute otherwise. Run it as ``make model-table``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.loading.runner_choice import make_runner
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native.decoder import NativeDecoder
from tools import model_families

PAGE = Path(__file__).parent.parent / "docs" / "model_families.md"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NUM_NEW, LONG = 8, 34  # past windows and chunks of 8 and an original length of 16
CHECKS = ("alone", "batched", "prefix", "long")
RUNS = {"native": "in C", "lean": "over slots", "modules": "over slots", "sequences": "in turn", "": ""}
INTRODUCTION = """# Model families

<!-- Written by tools/model_table.py: run `make model-table` after a change of transformers. -->

Every family of causal language models in transformers {version}, tried: a tiny random model of each is saved to a
folder, loaded, and asked for greedy answers alone, beside prompts of other lengths, after a prefix that was cached,
and past the lengths at which the model begins to compute otherwise (window, chunk, original context). *Equal* means
that the logits of every step are those of `generate`. {summary}

How it runs: *in C*, one call a step; *over slots*, all requests in one pass of the model's own code; *in turn*, each
request through the model's own code and cache, which is correct for whatever `generate` is correct for, and no faster
for many requests than for one. What decides is tried at each load.
"""
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
        kind: what it is for, where that is no text model; then it was not tried.
    """

    name: str
    architecture: str
    runner: str = ""
    unequal: tuple[str, ...] = ()
    reason: str = ""
    kind: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether it is served, and answers as `generate` does."""
        return bool(self.runner) and not self.unequal


def try_family(name: str) -> Row:
    """Make a model of a family, load it and compare."""
    if kind := model_families.kind_of(name):
        return Row(name, "", kind=kind)
    config = model_families.make_config(name)
    model = model_families.make_model(config)
    architecture = type(model).__name__
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for file in TOKENIZER:
            shutil.copy(POCKET_DIR / file, folder)
        untouched = copy.deepcopy(model)
        try:
            loaded = load_model(parse_spec(folder), device="cpu", has_native=NativeDecoder.is_available)
            settings = Settings(num_threads=1)
            runner: Any = make_runner(loaded, SlotPlan(4, model_families.LONGEST, 0), settings)
        except LlmApiKitError as exc:
            return Row(name, architecture, reason=str(exc).replace(folder, "it").partition(" Served are")[0])
    runner.start()
    expected = expected_of(untouched)
    unequal = tuple(check for check in CHECKS if not is_equal(runner, expected, check))
    kind = runner.kind
    runner.close()
    return Row(name, architecture, kind, unequal)


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


def expected_of(untouched: Any) -> Expected:
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


def is_equal(runner: Any, expected: Expected, check: str) -> bool:
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
    lengths = {slot: len(asked[name]) for slot, name in slots.items()}
    items = [
        StepItem(slot, done[slot], asked[name][done[slot] : middle[slot]], False, num_prompt_tokens=lengths[slot])
        for slot, name in slots.items()
        if middle[slot] > done[slot]
    ]
    if items:
        runner.step(items)
    rows = runner.step(
        [
            StepItem(slot, middle[slot], asked[name][middle[slot] :], True, num_prompt_tokens=lengths[slot])
            for slot, name in slots.items()
        ]
    )
    for turn in range(NUM_NEW):
        for row, name in zip(rows, slots.values(), strict=True):
            if not _is_close(row, expected[name][1][turn]):
                return False
        if turn < NUM_NEW - 1:
            rows = runner.step(
                [
                    StepItem(
                        slot, lengths[slot] + turn, [expected[name][0][turn]], True, num_prompt_tokens=lengths[slot]
                    )
                    for slot, name in slots.items()
                ]
            )
    return True


def _is_close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = expected.abs().max().item()
    return bool((logits - expected).abs().max().item() <= TOLERANCE * max(scale, 1e-3))


def try_all(names: Sequence[str]) -> list[Row]:
    """Try families, one after the other; what is wrong with one is said in its row."""
    rows = []
    for name in names:
        try:
            row = try_family(name)
        except Exception as exc:
            row = Row(name, "", reason=f"NOT TRIED, {type(exc).__name__}: {str(exc)[:200]}")
        rows.append(row)
        print(f"{row.name:24} {row.runner or 'not served':10} {_outcome(row)}", flush=True)
    return rows


def page(rows: Sequence[Row]) -> str:
    """The page of the documentation."""
    tried = [row for row in rows if not row.kind]
    served = [row for row in tried if row.runner]
    equal = [row for row in served if row.is_equal]
    summary = (
        f"{len(served)} of {len(tried)} are served, {len(equal)} of them equal in everything that was compared. "
        f"{len(rows) - len(tried)} more are listed that are not text models, or are parts of others."
    )
    lines = [INTRODUCTION.format(version=transformers.__version__, summary=summary)]
    lines += ["| Family | Class in transformers | Runs | |", "|---|---|---|---|"]
    lines += [as_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def as_line(row: Row) -> str:
    """A family's line in the page's table."""
    return f"| {row.name} | {row.architecture} | {RUNS[row.runner]} | {_outcome(row)} |"


def _outcome(row: Row) -> str:
    if row.kind:
        return row.kind
    if not row.runner:
        return f"refused: {row.reason}"
    return f"other answers: {', '.join(row.unequal)}" if row.unequal else "equal"


def main(arguments: Sequence[str] | None = None) -> None:
    """Try all families and write the page, or try some and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; all unless given, and then the page is written")
    asked = parser.parse_args(arguments)
    quiet()
    rows = try_all(asked.names or model_families.names())
    if not asked.names:
        PAGE.write_text(page(rows), encoding="utf-8")


def quiet() -> None:
    """No progress bars."""
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # tiny models lose time with more
    main()
