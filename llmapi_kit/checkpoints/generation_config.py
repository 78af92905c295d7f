"""What a model's makers recommend, from its generation_config.json: sampling, and the tokens that end an answer.

Read from the file, not from transformers' object: there, greedy decoding can't be told from nothing said, and one
value that it can't use is an error. Advice that makes no sense is left out with a logged reason and stops nothing.
Whether a request could have the numbers is looked at later: see `llmapi_kit.sampling.recommended`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from llmapi_kit.checkpoints.load_options import SAMPLING_NAMES
from llmapi_kit.checkpoints.model_files import read_json

logger = logging.getLogger(__name__)

NAME = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Recommended:
    """Advice of a model's makers.

    Attributes:
        sampling: values as they stand in the file.
        eos_ids: tokens that end an answer.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()


def read_recommended(source: str, config: Any) -> Recommended:
    """The advice that comes with a model.

    Args:
        source: a folder, or ``owner/name``.
        config: of the model: its end token holds where the file names none, and its vocabulary bounds them.

    Raises:
        ModelLoadError: the file is there and damaged.
    """
    try:
        path = cached_file(source, NAME, _raise_exceptions_for_missing_entries=False)
    except OSError:  # the hub can't be reached, and the file is not in its cache
        path = None
    values = read_json(Path(path)) if path else {}
    own = config.get_text_config()
    eos_ids = _token_ids(values.get("eos_token_id"), own.vocab_size, NAME)
    eos_ids = eos_ids or _token_ids(getattr(own, "eos_token_id", None), own.vocab_size, "config.json")
    if values.get("do_sample") is False:
        return Recommended({"temperature": 0.0}, eos_ids)
    return Recommended({key: values[key] for key in SAMPLING_NAMES if values.get(key) is not None}, eos_ids)


def _token_ids(value: Any, num_tokens: int, where: str) -> tuple[int, ...]:
    """The tokens among what a file names."""
    found = []
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        if type(each) is int and 0 <= each < num_tokens:
            found.append(each)
        else:
            logger.warning(
                "eos_token_id %r of %s is left out: it must be a whole number from 0 to %d.",
                each,
                where,
                num_tokens - 1,
            )
    return tuple(found)
