"""Which runner a loaded model gets.

The step in C alone, for weights without a model; else the one in torch over slots; else the one that computes a
sequence after the other. Knows nothing of tokenizers or engines. Part of loading: blocking.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from llmapi_kit.checkpoints.architecture import constant_length
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.model_decoder import config_of, is_for_any_length, weights_of_model
from llmapi_kit.checkpoints.weights import LoadedModel
from llmapi_kit.config import Settings
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import Runner
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.runners.native.compiler import NativeUnavailableError
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.formats import Formats
from llmapi_kit.runners.native.runner import NativeRunner
from llmapi_kit.runners.picture_check import check_picture

logger = logging.getLogger(__name__)

# Weights that are widened from bfloat16 without being asked for
MAX_WIDENED_BYTES = 256 * 2**20


def make_runner(loaded: LoadedModel, plan: SlotPlan, settings: Settings, images: ImageMemory | None = None) -> Runner:
    """A runner that has taken the weights over.

    Args:
        loaded: the weights.
        plan: slots and their length.
        settings: threads, and which ways of computing are wanted.
        images: what stands for pictures, for a model that sees.

    Raises:
        ModelError: the model can't be run this way, or its weights are not finite numbers.
    """
    if (weights := _native_weights(loaded, plan, settings)) is not None:
        return NativeRunner(
            weights,
            num_slots=plan.num_slots,
            max_length=plan.max_length,
            dtype=getattr(torch, loaded.dtype),
            kv_dtype=getattr(torch, loaded.kv_dtype or "", None),
            num_threads=settings.num_threads,
            num_pages=plan.num_pages,
        )
    import_heavy(MODEL_CLASSES)
    from llmapi_kit.runners.lean_decoder import LeanDecoder
    from llmapi_kit.runners.torch_runner import TorchRunner

    constant = constant_length(loaded.model.config.get_text_config())
    if constant and plan.max_length > constant and images is None:
        return _make_sequence_runner(loaded, plan, settings, is_length_dependent=True)
    is_known = LeanDecoder.can_run(loaded.model) or NativeDecoder.can_run(loaded.model)
    gives_up_its_weights = is_known and not loaded.is_divided
    try:
        runner = TorchRunner(
            loaded.model,
            num_slots=plan.num_slots,
            max_length=min(plan.max_length, constant or plan.max_length),
            dtype=torch.float32 if loaded.dtype == "float32" else None,
            num_threads=settings.num_threads,
            lean=not loaded.is_divided,
            native=settings.native,
            is_compiled=settings.compile,
            images=images,
            num_pages=plan.num_pages,
        )
    except UnsupportedModelError as exc:
        if images is not None or gives_up_its_weights:
            raise
        logger.info("Sequences are computed one after the other: %s", exc)
        return _make_sequence_runner(loaded, plan, settings)
    if loaded.vision is not None and loaded.vision.trial is not None and images is not None:
        check_picture(runner, images, loaded.vision.trial, loaded.vision.vector_token_id, architecture_of(loaded))
    return runner


def with_arithmetic(loaded: LoadedModel, settings: Settings) -> LoadedModel:
    """The same weights, with the type that is computed in.

    Weights in bfloat16 are computed with in float32 by default where a step in C widens them as it reads them. Torch
    needs them widened in memory, twice as large, so it computes in bfloat16 unless they are few.

    Args:
        loaded: as it comes from `load_model`.
        settings: which ways of computing are wanted.
    """
    model = loaded.model
    if isinstance(model, DecoderWeights) or loaded.dtype != "float32" or model.dtype != torch.bfloat16:
        return loaded
    import_heavy(MODEL_CLASSES)
    may_be_native = settings.native and not settings.compile and loaded.vision is None and not loaded.is_divided
    has_step = NativeDecoder.is_available(torch.bfloat16, torch.float32)
    if may_be_native and has_step and NativeDecoder.can_run(model, torch.float32):
        return loaded
    is_small = sum(parameter.nbytes for parameter in model.parameters()) <= MAX_WIDENED_BYTES
    return loaded if is_small else replace(loaded, dtype="bfloat16")


def _make_sequence_runner(
    loaded: LoadedModel, plan: SlotPlan, settings: Settings, *, is_length_dependent: bool = False
) -> Runner:
    from llmapi_kit.runners.sequence_runner import SequenceRunner

    return SequenceRunner(
        loaded.model,
        num_slots=plan.num_full_slots,
        max_length=plan.max_length,
        dtype=torch.float32 if loaded.dtype == "float32" else None,
        num_threads=settings.num_threads,
        is_length_dependent=is_length_dependent,
    )


def architecture_of(loaded: LoadedModel) -> str:
    """The name of the model's class in transformers."""
    model = loaded.model
    return model.config.architecture if isinstance(model, DecoderWeights) else type(model).__name__


def _native_weights(loaded: LoadedModel, plan: SlotPlan, settings: Settings) -> DecoderWeights | None:
    """The weights for the step in C alone; those of a model of transformers only where no other runner does as well.

    Raises:
        UnsupportedModelError: it has to be that step, and can't be.
    """
    model = loaded.model
    if isinstance(model, DecoderWeights):
        return model
    constant = constant_length(model.config.get_text_config())
    is_outgrown = 0 < constant < plan.max_length
    if loaded.integers is None and loaded.kv_dtype is None:
        return weights_of_model(model) if is_outgrown and _knows_any_length(loaded, settings) else None
    if obstacle := _obstacle(loaded):
        raise UnsupportedModelError(
            f"{type(model).__name__}: quantize and kv_cache_dtype on a CPU are computed by a compiled step, and "
            f"{obstacle}. Leave them out, or load a GGUF file of the model."
        )
    if is_outgrown and not is_for_any_length(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} computes otherwise beyond {constant} tokens, which the compiled step, and with it "
            f"quantize and kv_cache_dtype on a CPU, does not know. Pass context_length={constant}, or leave them out."
        )
    weights = weights_of_model(model)
    if loaded.integers is not None:
        weights.round_to(loaded.integers)
    return weights


def _knows_any_length(loaded: LoadedModel, settings: Settings) -> bool:
    """Whether the step in C may compute a model, and does so beyond the length at which it begins to differ."""
    if not settings.native or settings.compile or loaded.is_divided or _obstacle(loaded):
        return False
    rounds_experts = loaded.dtype != "float32" and config_of(loaded.model).variant.experts is not None
    return is_for_any_length(loaded.model) and not rounds_experts


def _obstacle(loaded: LoadedModel) -> str:
    """Why a model can't be computed by the step in C, as a clause; empty where it can."""
    if loaded.vision is not None:
        return "the model sees pictures, which it does not know"
    model = loaded.model
    if obstacle := NativeDecoder.obstacle(model, model.dtype):
        return obstacle
    dtype, kv_dtype = getattr(torch, loaded.dtype), getattr(torch, loaded.kv_dtype or "", None)
    try:
        NativeDecoder.compile(Formats(loaded.integers or model.dtype, dtype, kv_dtype))
    except NativeUnavailableError as exc:
        return f"that can't be had here: {exc}"
    return ""
