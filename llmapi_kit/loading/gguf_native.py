"""Whether the step in C computes a GGUF file's model, what that takes, and the runner.

It takes Llama-like models on a CPU, in number formats that it keeps about as small as the file; see
`checkpoints/gguf_decoder`. All else is llama.cpp's, and so is what is asked for in llama.cpp's terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token, step_bytes
from llmapi_kit.checkpoints.decoder_families import EMBEDDING
from llmapi_kit.checkpoints.fit import STEP_TOKENS, Fit, SlotPlan, check_sizes, has_lazy_memory, plan_slots
from llmapi_kit.checkpoints.gguf_decoder import GgufDecoder, gguf_decoder
from llmapi_kit.checkpoints.gguf_file import GgufFile
from llmapi_kit.checkpoints.mmproj import find_mmproj
from llmapi_kit.config import Settings
from llmapi_kit.loading.gguf_options import GgufOptions
from llmapi_kit.progress import report

if TYPE_CHECKING:
    from llmapi_kit.runners.native.runner import NativeRunner

KV_DTYPES = {"f32": "float32", "bf16": "bfloat16"}
# Options that are about how llama.cpp computes
LLAMA_OPTIONS = (
    *("n_gpu_layers", "flash_attn", "use_mmap", "use_mlock", "isolate"),
    *("rope_scaling", "rope_freq_base", "rope_freq_scale"),
)


def native_decoder(file: GgufFile, settings: Settings, options: GgufOptions) -> GgufDecoder | None:
    """What the step in C is to compute; None where llama.cpp is to.

    Args:
        file: whose heads were read.
        settings: whether it is wanted.
        options: checked.
    """
    if not settings.native or options.device == "cuda":
        return None
    if options.merged_adapter is not None or any(getattr(options, name) is not None for name in LLAMA_OPTIONS):
        return None
    if options.kv_cache_dtype not in (None, *KV_DTYPES):
        return None
    has_pictures = options.mmproj is not False and (options.mmproj is not None or find_mmproj(file) is not None)
    return None if has_pictures else gguf_decoder(file)


def native_fit(decoder: GgufDecoder, options: GgufOptions) -> Fit:
    """What it needs, against what is free."""
    config = decoder.config
    return check_sizes(
        decoder.weights_bytes,
        kv_bytes_per_token(config, _kv_dtype(decoder, options)),
        config.max_position_embeddings,
        "cpu",
        step_bytes(config, STEP_TOKENS),
    )


def native_plan(decoder: GgufDecoder, settings: Settings, options: GgufOptions) -> SlotPlan:
    """How many requests run at once, and how long they may be.

    Raises:
        ModelTooLargeError: not even one fits.
    """
    fit = native_fit(decoder, options)
    left = fit.free_bytes - fit.weights_bytes - fit.step_bytes
    per_token, context = fit.kv_bytes_per_token, fit.context_length
    return plan_slots(per_token, context, left, False, settings, is_paged=has_lazy_memory())


def can_compute(decoder: GgufDecoder, options: GgufOptions) -> bool:
    """Whether the step for its number formats can be had here; compiles it where it is missing."""
    import torch

    from llmapi_kit.checkpoints.gguf_weights import DTYPES, FORMAT
    from llmapi_kit.runners.native.decoder import NativeDecoder

    weights = FORMAT if decoder.has_integers else DTYPES[decoder.tensors[EMBEDDING].tensor.kind]
    return NativeDecoder.is_available(weights, torch.float32, getattr(torch, _kv_dtype(decoder, options)))


def make_native_runner(
    decoder: GgufDecoder, plan: SlotPlan, settings: Settings, options: GgufOptions
) -> tuple[NativeRunner, int]:
    """A runner that has taken the weights over, and the number of parameters.

    Raises:
        ModelError: the weights are not finite numbers, or it computes something else than the reference.
    """
    import torch

    from llmapi_kit.checkpoints.gguf_weights import read_gguf_weights
    from llmapi_kit.runners.native.runner import NativeRunner

    report("reading weights")
    weights = read_gguf_weights(decoder)
    num_parameters = weights.num_parameters()  # the runner takes weights over
    runner = NativeRunner(
        weights,
        num_slots=plan.num_slots,
        max_length=plan.max_length,
        dtype=torch.float32,
        kv_dtype=getattr(torch, _kv_dtype(decoder, options)),
        num_threads=settings.num_threads,
        num_pages=plan.num_pages,
    )
    return runner, num_parameters


def _kv_dtype(decoder: GgufDecoder, options: GgufOptions) -> str:
    """Of keys and values: as wide as the weights are, by default."""
    if options.kv_cache_dtype is not None:
        return KV_DTYPES[options.kv_cache_dtype]
    return "float32" if decoder.tensors[EMBEDDING].tensor.kind == "F32" else "bfloat16"
