"""Does a model fit: the memory its weights and its KV cache take, against what this machine has free.

Reads configurations and file sizes; loads no weights, downloads nothing, and imports no torch but to ask a GPU.
`plan_slots` decides how many requests run at once; a `MemoryNeed` says what a load will take, so that others can be
unloaded for it, and no more than need be. An estimate: what really fits is found out when it is loaded.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from llmapi_kit.checkpoints.architecture import context_limit, read_config
from llmapi_kit.checkpoints.cache_size import BYTES, PAGE_SIZE, kv_bytes_per_token, step_bytes
from llmapi_kit.checkpoints.decoder_config import DecoderConfig, read_decoder_config
from llmapi_kit.checkpoints.model_files import weight_files
from llmapi_kit.config import Settings
from llmapi_kit.errors import ModelTooLargeError

MIN_LENGTH = 256
STEP_TOKENS = 512  # that a step may compute, unless the setting says otherwise
NO_OVERCOMMIT = "2"  # Linux then counts memory when it is asked for
DEFAULT_MAX_LENGTH = 8192
# Options with which weights are smaller, and what they are then; the largest first
SMALLER_ON_GPU = (('dtype="bfloat16"', "bfloat16"), ('quantize="8bit"', "int8"), ('quantize="4bit"', "int4"))
SMALLER_ON_CPU = (('dtype="bfloat16"', "bfloat16"), ('quantize="int8"', "int8"), ('quantize="int4"', "int4"))
CPU_KV_SHARE, CPU_KV_LIMIT = 0.25, 4 * 2**30
GPU_KV_SHARE = 0.8
WEIGHT_BYTES = {**BYTES, "int4": 0.65}  # 4 bits with scales, and some matrices in 8
# Bytes of weights that come packed for one in a file, where it is not one: a byte each with scales of 4, or 16 bits
GROWTH = {"mxfp4": 36 / 17, "fp8": 2.0}
UNPACKED = {"mxfp4": 64 / 17}  # where torch computes with 16 bits on a CPU


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How KV memory is divided.

    Attributes:
        num_slots: requests at once.
        max_length: tokens each may have.
        kv_bytes: what they may take together.
        num_pages: pages of `PAGE_SIZE` tokens that they may hold together, where not all may be full; else None.
        advice: where requests may have fewer tokens than was asked for: why, and what would do; else empty.
    """

    num_slots: int
    max_length: int
    kv_bytes: int
    num_pages: int | None = None
    advice: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens that all slots may hold together."""
        full = self.num_slots * self.max_length
        return full if self.num_pages is None else min(full, self.num_pages * PAGE_SIZE)

    @property
    def num_full_slots(self) -> int:
        """Slots that may be full at once."""
        return max(1, self.num_tokens // self.max_length)


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model needs and what is there, in bytes.

    Attributes:
        weights_bytes: in memory, with what is loaded beside.
        kv_bytes_per_token: keys and values of one token.
        context_length: the model's own limit.
        free_bytes: memory free on `device`.
        device: ``cpu`` or ``cuda:0``.
        fits: whether weights and one request fit.
        advice: a sentence for a person.
        step_bytes: intermediate values of a step.
    """

    weights_bytes: int
    kv_bytes_per_token: int
    context_length: int
    free_bytes: int
    device: str
    fits: bool
    advice: str
    step_bytes: int = 0

    def fits_on(self, num_devices: int) -> bool:
        """Whether it fits where it is divided over so many devices like this one."""
        return self.fits or self.weights_bytes + self.kv_bytes_per_token * MIN_LENGTH <= num_devices * self.free_bytes


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What loading a model takes. All zero where nothing is known, or where the model is elsewhere.

    Attributes:
        device: ``cpu`` or ``cuda:0``; empty for a model that is not on this machine.
        least_bytes: with less it does not load.
        wanted_bytes: enough to answer one request of full length.
        most_bytes: what it may come to take.
    """

    device: str = ""
    least_bytes: int = 0
    wanted_bytes: int = 0
    most_bytes: int = 0


def plan_slots(
    bytes_per_token: int,
    context_length: int,
    free_bytes: int,
    on_gpu: bool,
    settings: Settings,
    *,
    is_paged: bool = False,
    int8_bytes: int = 0,
) -> SlotPlan:
    """Divide the memory for keys and values into slots.

    As many slots as asked for, each as long as asked for, if they fit; else fewer slots; else shorter ones.

    Args:
        bytes_per_token: in all layers.
        context_length: the model's own limit.
        free_bytes: beside the weights.
        on_gpu: whether it is a GPU's memory.
        settings: how many slots of which length are asked for, and the memory for them.
        is_paged: whether slots take memory as they grow. Then they are as many as asked for, and share it.
        int8_bytes: what a token would take in int8, where that can be had and is not what `bytes_per_token` says.

    Raises:
        ModelTooLargeError: not even one short slot fits.
    """
    share, limit = (GPU_KV_SHARE, free_bytes) if on_gpu else (CPU_KV_SHARE, CPU_KV_LIMIT)
    budget = settings.kv_memory or min(int(free_bytes * share), limit)
    max_length = settings.context_length or min(context_length or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
    if context_length:
        max_length = min(max_length, context_length)
    num_spare = int(on_gpu)  # a slot more is allocated there, which rows that decode nothing write to
    if not bytes_per_token:  # a state of fixed size, which is little
        return SlotPlan(settings.max_slots, max_length, 0)
    fitting = budget // (bytes_per_token * max_length) - num_spare
    advice = ""
    if fitting < 1:
        wanted, max_length = max_length, budget // (bytes_per_token * (1 + num_spare))
        if is_paged:
            max_length -= max_length % PAGE_SIZE
        fewer_bits = f' Pass kv_cache_dtype="int8", which holds {budget // int8_bytes:,} tokens.' if int8_bytes else ""
        if max_length < MIN_LENGTH:
            raise ModelTooLargeError(
                f"The KV cache needs {bytes_per_token * MIN_LENGTH / 2**20:.0f} MiB for the shortest request, and "
                f"{budget / 2**20:.0f} MiB may be used.{fewer_bits} Free memory, set LLMAPI_KIT_KV_MEMORY, or take a "
                "smaller model."
            )
        if settings.context_length:
            needed = wanted * bytes_per_token * (1 + num_spare)
            advice = (
                f"Requests may have {max_length:,} tokens, not {wanted:,}: keys and values of so many take "
                f"{needed / 2**20:,.0f} MiB, and {budget / 2**20:,.0f} MiB may be used.{fewer_bits} "
                f"kv_memory={needed} allows it where there is as much."
            )
    if is_paged and fitting < settings.max_slots:
        num_pages = budget // (bytes_per_token * PAGE_SIZE)
        max_length = min(max_length, num_pages * PAGE_SIZE)
        return SlotPlan(settings.max_slots, max_length, num_pages * PAGE_SIZE * bytes_per_token, num_pages, advice)
    num_slots = max(1, min(fitting, settings.max_slots))
    kv_bytes = (num_slots + num_spare) * max_length * bytes_per_token
    return SlotPlan(num_slots, max_length, kv_bytes, advice=advice)


def has_lazy_memory() -> bool:
    """Whether this system provides memory as it is written to, and takes it back, however much is asked for."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return False
    import resource  # where there is the one, there is the other

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    policy = Path("/proc/sys/vm/overcommit_memory")
    return not policy.exists() or policy.read_text(encoding="ascii").strip() != NO_OVERCOMMIT


def free_memory(device: str) -> int:
    """Bytes free on ``cpu`` or on a CUDA device."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_folder(
    path: Path,
    device: str,
    *,
    dtype: str | None = None,
    num_rows: int = 0,
    added_bytes: int = 0,
    weights_bytes: int | None = None,
    keeps_bfloat16: bool = False,
    trusts_code: bool = False,
    unpacks: bool = False,
) -> Fit:
    """What the model in a folder needs, against what `device` has free.

    Args:
        path: a folder with config.json and weights.
        device: ``cpu`` or a CUDA device.
        dtype: that the weights become, or ``int8`` or ``int4``; None for what they are on disk.
        num_rows: that its embedding is to have at least.
        added_bytes: of what is loaded beside, such as an adapter.
        weights_bytes: of the files of weights, where those are still to be downloaded.
        keeps_bfloat16: weights in bfloat16 stay so; only keys and values are of `dtype`.
        trusts_code: see `llmapi_kit.checkpoints.architecture.read_config`.
        unpacks: weights that come in MXFP4 are made into floats.

    Raises:
        ModelLoadError: its config.json is damaged, or weights are not there.
        UnsupportedModelError: it is of a kind that can't be served.
    """
    known = None if trusts_code else read_decoder_config(path)
    config = known or read_config(path, path.name, trusts_code=trusts_code).get_text_config()
    stored = str(config.dtype or "float32").removeprefix("torch.")
    weights = weights_bytes or sum(file.stat().st_size for file in weight_files(path))
    packing = getattr(config, "quantization", None) or {}
    method = str(packing.get("quant_method"))
    growth = UNPACKED.get(method) if unpacks else None
    is_packed = bool(packing) and growth is None  # and stays so
    kept = stored if dtype is None or is_packed or (keeps_bfloat16 and stored == "bfloat16") else dtype
    weights = int(weights * WEIGHT_BYTES.get(kept, 4) / BYTES.get(stored, 4))
    weights = int(weights * (growth or GROWTH.get(method, 1)))
    num_added = max(0, num_rows - config.vocab_size)
    num_matrices = 1 if getattr(config, "tie_word_embeddings", False) else 2
    weights += int(num_added * num_matrices * getattr(config, "hidden_size", 0) * WEIGHT_BYTES.get(kept, 4))
    per_token = kv_bytes_per_token(config, stored if dtype in (None, "int8", "int4") else dtype)
    working = step_bytes(config, STEP_TOKENS)
    fit = check_sizes(weights + added_bytes, per_token, context_limit(config), device, working)
    if fit.fits or is_packed:
        return fit
    if device.startswith("cuda"):
        smaller: Sequence[tuple[str, str]] = SMALLER_ON_GPU
    else:  # integers are computed with in C, which is for models whose configuration is read by a list
        smaller = SMALLER_ON_CPU if isinstance(config, DecoderConfig) else SMALLER_ON_CPU[:1]
    return replace(fit, advice=f"{fit.advice} {_proposal(fit, weights, kept, smaller)}")


def _proposal(fit: Fit, weights_bytes: int, kept: str, smaller: Sequence[tuple[str, str]]) -> str:
    """What would fit in place of what does not.

    Args:
        fit: of what does not.
        weights_bytes: of the model itself.
        kept: the type that its weights would have in memory.
        smaller: options with which weights are smaller, and what they are then; the largest first.
    """
    others = fit.weights_bytes - weights_bytes
    for option, dtype in smaller:
        share = WEIGHT_BYTES[dtype] / WEIGHT_BYTES.get(kept, 4)
        size = int(weights_bytes * share) + others
        if share < 1 and size + fit.kv_bytes_per_token * MIN_LENGTH + fit.step_bytes <= fit.free_bytes:
            return f"With {option} the weights would take {size / 2**20:,.0f} MiB, and fit."
    return "Nor does it fit in fewer bits here: choose a smaller model, or a GGUF file of it in 4 bits."


def check_sizes(weights: int, per_token: int, context: int, device: str, working: int = 0) -> Fit:
    """Sizes that are known, against what `device` has free.

    Args:
        weights: bytes.
        per_token: bytes of keys and values.
        context: the model's own limit; 0 where it has none.
        device: ``cpu`` or a CUDA device.
        working: bytes of intermediate values.
    """
    free = free_memory(device)
    needed = weights + per_token * MIN_LENGTH + working
    fits = needed <= free
    advice = (
        f"Weights take {weights / 2**20:,.0f} MiB, each token of context {per_token / 1024:,.1f} KiB; "
        f"{free / 2**30:,.1f} GiB are free on {device}."
    )
    if not fits:
        advice += " That is not enough: free memory, or take less."
    return Fit(weights, per_token, context, free, device, fits, advice, working)


def folder_need(
    path: Path, device: str, dtype: str | None, settings: Settings, *, trusts_code: bool = False
) -> MemoryNeed:
    """What the model in a folder takes.

    Args:
        path: a folder with config.json and weights.
        device: ``cpu`` or a CUDA device.
        dtype: as asked for; None for the device's own choice.
        settings: KV memory and context.
        trusts_code: see `llmapi_kit.checkpoints.architecture.read_config`.

    Raises:
        ModelLoadError: its config.json is damaged.
    """
    if dtype is not None or device.startswith("cuda"):
        return fit_need(check_folder(path, device, dtype=dtype, trusts_code=trusts_code), settings)
    fit = check_folder(path, device, dtype="float32", keeps_bfloat16=True, trusts_code=trusts_code)
    return fit_need(fit, settings)


def fit_need(fit: Fit, settings: Settings) -> MemoryNeed:
    """What a model takes whose weights and keys and values are known as they will be in memory.

    Args:
        fit: sizes, and what is free.
        settings: KV memory and context.
    """
    on_gpu = fit.device.startswith("cuda")
    weights, per_token = fit.weights_bytes + fit.step_bytes, fit.kv_bytes_per_token
    length = min(settings.context_length or DEFAULT_MAX_LENGTH, fit.context_length or DEFAULT_MAX_LENGTH)
    share = GPU_KV_SHARE if on_gpu else CPU_KV_SHARE
    room = max(0, fit.free_bytes - weights) * share
    most_kv = settings.kv_memory or int(room if on_gpu else min(room, CPU_KV_LIMIT))
    wanted_kv = settings.kv_memory or int(per_token * length / share)
    least_kv = per_token * MIN_LENGTH
    return MemoryNeed(
        fit.device, weights + least_kv, weights + max(wanted_kv, least_kv), weights + max(most_kv, least_kv)
    )
