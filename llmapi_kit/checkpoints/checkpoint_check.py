"""Do the weights of a checkpoint belong to the model that its configuration describes.

`check_size` compares before anything is loaded, `check_loaded` what transformers found while it loaded: it fills what
is missing with random numbers, and the model answers garbage.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from llmapi_kit.checkpoints.architecture import auto_class
from llmapi_kit.checkpoints.model_files import CONFIG, stored_shapes
from llmapi_kit.errors import ModelLoadError

NUM_NAMED = 3
# A tied weight may be stored once or twice and heads may be left out, so no narrower bound holds for every family
MAX_RATIO = 4
# Old checkpoints have these buffers, which are computed today
COMPUTED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


def check_size(config: Any, folder: Path, name: str, *, trusts_code: bool = False) -> None:
    """Raise where a configuration describes a far larger model than a folder has weights for.

    Its weights would be made up in memory first, and that may be more than there is.

    Args:
        config: of transformers.
        folder: with safetensors weights.
        name: the model's, for messages.
        trusts_code: see `llmapi_kit.checkpoints.architecture.read_config`.

    Raises:
        ModelError: it does, or the weights are damaged.
    """
    shapes = stored_shapes(folder)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if layers > len(shapes):  # before so many are made
        raise ModelLoadError(f"{name}: {CONFIG} has {layers:,} layers, and the weights have {len(shapes):,} tensors.")
    if getattr(config, "quantization_config", None):  # several numbers stand in one
        return
    auto = auto_class(config)
    try:
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=trusts_code)
    except Exception as exc:  # whatever the configuration's values make a model's own code raise
        raise ModelLoadError(f"{name}: no model can be made by its {CONFIG}: {type(exc).__name__}: {exc}") from exc
    declared = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(torch.Size(shape).numel() for shape in shapes.values())
    if declared > MAX_RATIO * stored:
        missing = [key for key, _ in model.named_parameters() if key not in shapes]
        detail = f": {len(missing):,} of its tensors are missing ({_few(missing)})" if missing else ""
        raise ModelLoadError(
            f"{name}: {CONFIG} describes a model of {declared:,} parameters, and the weights have {stored:,}{detail}. "
            "They do not belong together, or files of weights are missing."
        )


def check_loaded(model: Any, info: Mapping[str, Collection[Any]], name: str) -> None:
    """Raise unless every weight of a model came from its checkpoint, and the checkpoint has no others.

    What tying explains, and what the model's class declares as optional, transformers has left out of `info`.

    Args:
        model: as loaded.
        info: what `from_pretrained` tells with ``output_loading_info=True``.
        name: the model's, for messages.

    Raises:
        ModelLoadError: a tensor is missing, of another shape, or has no place.
    """
    problems = []
    if mismatched := sorted(info["mismatched_keys"]):
        shapes = [f"{key} is {tuple(stored)} and should be {tuple(wanted)}" for key, stored, wanted in mismatched]
        problems.append(f"{_count(mismatched, 'has', 'have')} another shape ({_few(shapes)})")
    if missing := sorted(info["missing_keys"]):
        problems.append(f"{_count(missing, 'is', 'are')} missing ({_few(missing)})")
    if unexpected := sorted(key for key in info["unexpected_keys"] if not key.endswith(COMPUTED)):
        problems.append(f"{_count(unexpected, 'has', 'have')} no place in the model ({_few(unexpected)})")
    if problems:
        raise ModelLoadError(
            f"The weights of {name} are not those of a {type(model).__name__} by its {CONFIG}: {'; '.join(problems)}. "
            "Download the model again, or mend its files."
        )


@contextlib.contextmanager
def quiet_report() -> Iterator[None]:
    """Keep transformers' own table of missing weights off the screen: `check_loaded` says what matters of it."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_shown(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)


def _count(keys: Collection[Any], one: str, many: str) -> str:
    return f"1 tensor {one}" if len(keys) == 1 else f"{len(keys):,} tensors {many}"


def _few(texts: Collection[str]) -> str:
    rest = len(texts) - NUM_NAMED
    return ", ".join(list(texts)[:NUM_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
