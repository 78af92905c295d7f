"""Which runner a loaded model gets: the step in C alone for weights without a model, else the one in torch.

Knows nothing of tokenizers or engines. Part of loading: blocking.
"""

from __future__ import annotations

import torch

from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, weights_of_model
from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.weights import LoadedModel
from llmapi_kit.config import Settings
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import Runner
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.runner import NativeRunner


def make_runner(loaded: LoadedModel, plan: SlotPlan, settings: Settings, images: ImageMemory | None = None) -> Runner:
    """A runner that has taken the weights over.

    Args:
        loaded: the weights.
        plan: slots and their length.
        settings: threads, and which ways of computing are wanted.
        images: what stands for pictures, for a model that sees.

    Raises:
        ModelError: the model can't be run this way, or its weights are no finite numbers.
    """
    if (weights := _native_weights(loaded)) is not None:
        return NativeRunner(
            weights,
            num_slots=plan.num_slots,
            max_length=plan.max_length,
            dtype=getattr(torch, loaded.dtype),
            kv_dtype=getattr(torch, loaded.kv_dtype or "", None),
            num_threads=settings.num_threads,
        )
    import_heavy(MODEL_CLASSES)
    from llmapi_kit.runners.torch_runner import TorchRunner

    return TorchRunner(
        loaded.model,
        num_slots=plan.num_slots,
        max_length=plan.max_length,
        dtype=torch.float32 if loaded.dtype == "float32" else None,
        num_threads=settings.num_threads,
        native=settings.native,
        is_compiled=settings.compile,
        images=images,
    )


def architecture_of(loaded: LoadedModel) -> str:
    """The name of the model's class in transformers."""
    model = loaded.model
    return model.config.architecture if isinstance(model, DecoderWeights) else type(model).__name__


def _native_weights(loaded: LoadedModel) -> DecoderWeights | None:
    """The weights for the step in C; those of a model of transformers only where it has to be that step.

    Raises:
        UnsupportedModelError: it has to be, and can't be had.
    """
    model = loaded.model
    if isinstance(model, DecoderWeights):
        return model
    if loaded.integers is None and loaded.kv_dtype is None:
        return None
    dtype, kv_dtype = getattr(torch, loaded.dtype), getattr(torch, loaded.kv_dtype or "", None)
    is_known = NativeDecoder.can_run(model, model.dtype) and loaded.eye is None
    if not is_known or not NativeDecoder.is_available(loaded.integers or model.dtype, dtype, kv_dtype):
        raise UnsupportedModelError(
            f"{type(model).__name__}: quantize and kv_cache_dtype on a CPU are computed by a compiled step, which "
            "needs a C compiler, dtype float32 or bfloat16, and a model like Llama that sees no pictures. Leave them "
            "out, or load a GGUF file of the model."
        )
    weights = weights_of_model(model)
    if loaded.integers is not None:
        weights.round_to(loaded.integers)
    return weights
