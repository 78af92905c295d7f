"""What a model would take of this machine, at each number format, from its shape alone; nothing is downloaded.

The estimate itself is that of `llmapi_kit.checkpoints.fit`, by which models are loaded; this module asks it for models
whose files are not here, and adds what the libraries take. Imports torch only to ask a GPU.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token
from llmapi_kit.checkpoints.decoder_config import ARCHITECTURES
from llmapi_kit.checkpoints.fit import (
    DEFAULT_MAX_LENGTH,
    WEIGHT_BYTES,
    Fit,
    SlotPlan,
    check_sizes,
    plan_slots,
)
from llmapi_kit.config import Settings
from llmapi_kit.errors import ModelTooLargeError

Verdict = Literal["fits", "tight", "too large", "not here"]
# Number formats of weights, by what they are for; the first of those in fewer bits is the largest
WHOLE = ("bfloat16", "float32")
ON_CPU, ON_GPU = ("int8", "int4"), ("8bit",)
LENGTH_DEPENDENT = {"phi3"}  # beyond their first 4,096 tokens these compute in torch only, unless told to stop there
NOT_YET = "On a GPU quantize='4bit' takes less, and is not listed."
# Python's libraries and the buffers of a step. On a CPU torch and transformers take 320 MiB, as measured; on a GPU it
# is an allowance for the CUDA context and its kernels
OVERHEAD_BYTES = {"cpu": 350 * 2**20, "cuda": 700 * 2**20}


@dataclass(frozen=True, slots=True)
class Needs:
    """What one model takes in one number format.

    Attributes:
        precision: ``float32``, ``bfloat16``, ``int8``, ``int4`` or ``8bit``.
        options: for `kit.load`; empty where it is what the device gets anyway.
        fit: weights, keys and values of a token, and what is free.
        length: tokens of one request of the usual length.
        overhead_bytes: of libraries and buffers.
        plan: how many requests of which length there would be room for; None where there is none.
        obstacle: why it can't be had here, whatever the memory; empty if nothing stands in the way.
    """

    precision: str
    options: dict[str, Any]
    fit: Fit
    length: int
    overhead_bytes: int
    plan: SlotPlan | None = None
    obstacle: str = ""

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one request."""
        return self.fit.kv_bytes_per_token * self.length

    @property
    def total_bytes(self) -> int:
        """Weights, one request and overhead."""
        return self.fit.weights_bytes + self.kv_bytes + self.overhead_bytes

    @property
    def verdict(self) -> Verdict:
        """Whether it can be loaded; tight is with room for shorter requests only."""
        if self.obstacle:
            return "not here"
        if self.plan is None:
            return "too large"
        return "fits" if self.plan.max_length >= self.length else "tight"


def needs_of(
    num_parameters: int, shape: Any, precision: str, device: str, settings: Settings, stored: str = "bfloat16"
) -> Needs:
    """What a model takes with its weights in one number format.

    Args:
        num_parameters: each counted once.
        shape: a configuration, or `llmapi_kit.checkpoints.known_models.ModelShape`.
        precision: one of `precisions_of` the device.
        device: ``cpu`` or a CUDA device.
        settings: slots, context and KV memory.
        stored: the format of its files.
    """
    on_gpu = device.startswith("cuda")
    options = load_options(precision, device, stored)
    weights = WEIGHT_BYTES["int8" if precision == "8bit" else precision]
    per_token = kv_bytes_per_token(shape, _kv_format(precision, on_gpu, is_default=not options))
    fit = check_sizes(int(num_parameters * weights), per_token, shape.max_position_embeddings, device)
    overhead = OVERHEAD_BYTES["cuda" if on_gpu else "cpu"]
    room = fit.free_bytes - fit.weights_bytes - overhead
    try:
        plan = plan_slots(per_token, fit.context_length, room, on_gpu, settings) if room > 0 else None
    except ModelTooLargeError:
        plan = None
    length = min(settings.context_length or DEFAULT_MAX_LENGTH, fit.context_length or DEFAULT_MAX_LENGTH)
    return Needs(precision, options, fit, length, overhead, plan, _obstacle(precision, on_gpu, shape))


def precisions_of(device: str) -> tuple[str, ...]:
    """The number formats that weights can have on a device."""
    return (*WHOLE, *(ON_GPU if device.startswith("cuda") else ON_CPU))


def default_precision(device: str, stored: str = "bfloat16") -> str:
    """The format that weights get where nothing is said: their own, but for float16 on a CPU.

    A GPU has float16, too, which takes as much as bfloat16 and counts as that here.
    """
    if device.startswith("cuda"):
        return "float32" if stored == "float32" else "bfloat16"
    return "bfloat16" if stored == "bfloat16" else "float32"


def load_options(precision: str, device: str, stored: str = "bfloat16") -> dict[str, Any]:
    """Arguments of `kit.load` for a number format; none for what a device gets where nothing is said."""
    if precision not in WHOLE:
        return {"quantize": precision}
    return {} if precision == default_precision(device, stored) else {"dtype": precision}


def _kv_format(precision: str, on_gpu: bool, *, is_default: bool) -> str:
    """Of keys and values.

    A CPU that was told nothing computes in float32, beside integers, too; on a GPU the rest is in 16 bits beside 8.
    """
    if precision == "8bit":
        return "bfloat16"
    return "float32" if precision in ON_CPU or (is_default and not on_gpu) else precision


def _obstacle(precision: str, on_gpu: bool, shape: Any) -> str:
    if precision in ON_CPU:
        is_known = getattr(shape, "model_type", None) in ARCHITECTURES.keys() - LENGTH_DEPENDENT
        return "needs a CPU" if on_gpu else "" if is_known else "not of this family"
    if precision != "8bit":
        return ""
    if not on_gpu:
        return "needs a GPU"
    if not _has_bitsandbytes():
        return 'needs pip install "llmapi-kit[quant]"'
    return ""


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None
