"""Writes docs/vision_families.md: what becomes of every family of models for pictures and text in transformers.

Each for which there is a tiny random model is saved to a folder and loaded as a user's would be. Its greedy answers are
compared with those of its own `generate`: alone, to several pictures, beside texts in one batch, in chunks, and after a
prefix that was cached. Of the others the page says by their classes what stands in the way. Run it as
``make vision-table``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llmapi_kit.checkpoints.architecture import RECURRENT_LAYERS  # noqa: E402
from llmapi_kit.errors import LlmApiKitError  # noqa: E402
from tests.checkpoints import seeing_folders  # noqa: E402  (tests are no installed package)
from tests.checkpoints.more_seeing_folders import MORE  # noqa: E402
from tests.engines.seeing import Seeing, message  # noqa: E402

PAGE = ROOT / "docs" / "vision_families.md"
INTRODUCTION = """# Model families that see

<!-- Written by tools/vision_table.py: run `make vision-table` after a change of transformers. -->

Every family of models for pictures and text in transformers {version}. *Equal* means: a tiny random model of it was
saved to a folder, loaded, and gave the same greedy answers as its own `generate`: to one picture and to several, beside
texts in one batch, in chunks, and after a prefix that was cached; without torchvision. {summary}

Idefics2, PaliGemma and Qwen3.5 were tried and refused; of other families, what is said follows from their classes. One
that was not tried is loaded all the same where nothing stands in its way: a small picture is then sent through
the model and through the steps of the kit when it is loaded, and a model that answers differently is refused.
"""
SOUND = ("audio_config", "audio_encoder_config", "sound_config")


@dataclass(frozen=True)
class Row:
    """What became of a family.

    Attributes:
        name: of the family.
        architecture: the model's class.
        runner: how steps run; empty for a family that is refused or was not tried.
        unequal: the checks in which the answer is another one.
        reason: why it is refused, or was not tried.
    """

    name: str
    architecture: str
    runner: str = ""
    unequal: tuple[str, ...] = ()
    reason: str = ""


TEXT = {"role": "user", "content": "A question without a picture, which takes a while to read."}
LONG = "a text of some length " * 6
CHECKS: dict[str, Callable[[Seeing], object]] = {
    "one picture": lambda seeing: seeing.check([message(0, "what is it?")]),
    "several": lambda seeing: seeing.check([message("first ", 1, " second ", 2, "\nwhich?")], [message(0, 1, "\n\n?")]),
    "batched": lambda seeing: seeing.check([message(0, "what?")], [TEXT], [message(1, 2, "and?")], [message(2, "one")]),
    "chunks": lambda seeing: seeing.check([message(LONG, 0, LONG, 1, "?")], [message(1, LONG, "?")]),
    "prefix": lambda seeing: _check_prefix(seeing),
}


def _check_prefix(seeing: Seeing) -> None:
    first = [message(LONG, 0, LONG)]
    ((answer, num_prompt, _),) = seeing.ask(first)
    later = [*first, {"role": "assistant", "content": answer}, message("and ", 1, "?")]
    (went_on,) = seeing.check(later)
    (copied,) = seeing.check([message(LONG, 0, "another end")])
    if went_on <= num_prompt // 2 or copied <= num_prompt // 4:
        raise AssertionError(f"of {num_prompt} tokens, {went_on} and {copied} were cached")


def try_family(name: str, folder: Path) -> Row:
    """Make a model of a family, load it and compare."""
    makers = {**seeing_folders.FAMILIES, **MORE}
    if name not in makers:
        return stands_in_the_way(name)
    seeing_folders.FAMILIES[name] = makers[name]
    seeing_folders.make_seeing(folder / name, name)
    architecture = transformers.AutoConfig.from_pretrained(folder / name).architectures[0]
    try:
        seeing = Seeing(folder / name)
    except LlmApiKitError as exc:
        return Row(name, architecture, reason=_short(exc, architecture, folder / name))
    unequal = tuple(check for check, ask in CHECKS.items() if not _passes(ask, seeing))
    runner = seeing.engine._loop._runner.kind
    seeing.model.close()
    return Row(name, architecture, runner, unequal)


def _passes(ask: Callable[[Seeing], object], seeing: Seeing) -> bool:
    try:
        ask(seeing)
    except AssertionError as exc:
        print(f"    {str(exc)[:600]}", file=sys.stderr)
        return False
    return True


def _short(exc: Exception, architecture: str, folder: Path) -> str:
    text = str(exc).replace(str(folder), "it")
    for start in (f"{architecture} can't be served: ", f"it can't be served: {architecture} is "):
        text = text.removeprefix(start)
    return f"refused: {text}"


def stands_in_the_way(name: str) -> Row:
    """What is known of a family without a model of it."""
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    config_class = transformers.models.auto.configuration_auto.CONFIG_MAPPING[name]
    model_class: Any = mapping.get(config_class, None)
    try:
        config = config_class()
        text = config.get_text_config()
    except Exception:  # a family whose configuration has no defaults is judged by its class alone
        config = text = None
    architecture = getattr(model_class, "__name__", "")
    return Row(name, architecture, reason=_reason(name, config, text, model_class))


def _reason(name: str, config: Any, text: Any, model_class: Any) -> str:
    if getattr(config, "is_encoder_decoder", False):
        return "refused: an encoder-decoder model"
    if any(getattr(config, part, None) is not None for part in SOUND):
        return "refused where the checkpoint is for sound, too; else not tried"
    if RECURRENT_LAYERS & set(getattr(text, "layer_types", None) or ()):
        return "refused: recurrent layers"
    if not hasattr(config, "vision_config"):
        return "refused: no vision tower of its own beside a decoder"
    if not _has_method(model_class, "get_image_features"):
        return "refused: what it sees does not stand among its tokens"
    processors = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(name) or {}
    if processors and "pil" not in processors:
        return "not tried: its image processor needs torchvision"
    return "not tried"


def _has_method(model_class: Any, name: str) -> bool:
    module = sys.modules.get(getattr(model_class, "__module__", ""))
    return any(hasattr(each, name) for each in vars(module or object).values() if isinstance(each, type))


def names() -> list[str]:
    """Every family for pictures and text."""
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return sorted({*mapping, "pixtral"})


def try_all(asked: Sequence[str]) -> list[Row]:
    """Try families, one after the other; what is wrong with one is said in its row."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in asked:
            try:
                row = try_family(name, Path(home))
            except Exception as exc:
                row = Row(name, "", reason=f"NOT TRIED, {type(exc).__name__}: {str(exc)[:200]}")
            rows.append(row)
            print(f"{row.name:24} {row.runner or 'not served':10} {_outcome(row)}", flush=True)
    return rows


def page(rows: Sequence[Row]) -> str:
    """The page of the documentation."""
    equal = [row for row in rows if row.runner and not row.unequal]
    refused = [row for row in rows if row.reason.startswith("refused")]
    summary = f"{len(equal)} of {len(rows)} are equal, {len(refused)} are refused by name, the others were not tried."
    lines = [INTRODUCTION.format(version=transformers.__version__, summary=summary)]
    lines += ["| Family | Class in transformers | |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.architecture} | {_outcome(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _outcome(row: Row) -> str:
    if not row.runner:
        return row.reason
    return f"other answers: {', '.join(row.unequal)}" if row.unequal else "equal"


def main(arguments: Sequence[str] | None = None) -> None:
    """Try all families and write the page, or try some and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; all unless given, and then the page is written")
    asked = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    rows = try_all(asked.names or names())
    if not asked.names:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    main()
