"""Which runner a loaded model gets: the step in C alone for weights without a model, else the one in torch.

Knows nothing of tokenizers or engines. Part of loading: blocking.
"""

from __future__ import annotations

import torch

from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.weights import LoadedModel
from llmapi_kit.config import Settings
from llmapi_kit.runners.base import Runner
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.runners.native.runner import NativeRunner
from llmapi_kit.runners.picture_check import check_picture


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
    if isinstance(loaded.model, DecoderWeights):
        return NativeRunner(
            loaded.model,
            num_slots=plan.num_slots,
            max_length=plan.max_length,
            dtype=getattr(torch, loaded.dtype),
            num_threads=settings.num_threads,
        )
    import_heavy(MODEL_CLASSES)
    from llmapi_kit.runners.torch_runner import TorchRunner

    runner = TorchRunner(
        loaded.model,
        num_slots=plan.num_slots,
        max_length=plan.max_length,
        dtype=torch.float32 if loaded.dtype == "float32" else None,
        num_threads=settings.num_threads,
        native=settings.native,
        is_compiled=settings.compile,
        images=images,
    )
    if loaded.eye is not None and loaded.eye.trial is not None and images is not None:
        check_picture(runner, images, loaded.eye.trial, loaded.eye.vector_token_id, architecture_of(loaded))
    return runner


def architecture_of(loaded: LoadedModel) -> str:
    """The name of the model's class in transformers."""
    model = loaded.model
    return model.config.architecture if isinstance(model, DecoderWeights) else type(model).__name__
