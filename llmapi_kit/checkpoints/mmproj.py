"""The mmproj file of a GGUF model that sees: found beside the model, and looked at before llama.cpp reads it.

It has the vision tower and the projector, which makes vectors for the model's decoder. Free of torch.

Source: https://github.com/ggml-org/llama.cpp/tree/master/tools/mtmd for names.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.checkpoints.gguf_file import MAX_LAYERS, GgufFile
from llmapi_kit.checkpoints.gguf_header import GgufHeader, read_header
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, UnsupportedModelError

logger = logging.getLogger(__name__)

ARCHITECTURE = "clip"
MARK = "mmproj"
# Of several beside a model, the first of these that is there
USUAL = ("f16", "bf16", "q8_0", "f32")
MAX_SIDE = 1 << 15
COLOURS = 3
TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]+")
LONE_BIAS = "exp_probs_b.bias"  # of a choice between experts, added to what no weight of this name makes
PATCHES = "v.patch_embd.weight"


def open_mmproj(path: Path, model: GgufFile) -> GgufHeader:
    """Read the head of an mmproj file and check it.

    Args:
        path: of the file.
        model: that it is for.

    Raises:
        ModelLoadError: it is damaged, or of another model.
        UnsupportedModelError: it is not an image part of a model.
        MissingDependencyError: the package gguf is not installed.
    """
    header = read_header(path)
    architecture = header.one("general.architecture")
    if architecture != ARCHITECTURE:
        raise UnsupportedModelError(
            f"{path.name} is not an mmproj file (the image part of a model): its architecture is {architecture!r}."
        )
    if header.one("clip.has_vision_encoder") is not True:
        raise UnsupportedModelError(f"{path.name} has no vision encoder, so it can't look at pictures.")
    _check_sizes(header)
    _check_colours(header)
    _check_tensors(header)
    if not _fits(header, model.hidden_size):
        raise ModelLoadError(
            f"{path.name} is the image part of another model: nothing in it is {model.hidden_size:,} wide, as "
            f"{model.path.name} is. Pass the mmproj file that came with the model."
        )
    return header


def find_mmproj(model: GgufFile) -> Path | None:
    """The mmproj file beside a model; None where there is none that fits it."""
    folder = model.path.parent
    for name in usual_first(path.name for path in folder.glob("*.gguf") if path.is_file()):
        try:
            open_mmproj(folder / name, model)
        except LlmApiKitError as exc:
            logger.info("Not used for pictures: %s", exc)
        else:
            return folder / name
    return None


def is_mmproj(name: str) -> bool:
    """Whether a file is one, by its name."""
    return MARK in name.lower() and name.lower().endswith(".gguf")


def usual_first(names: Iterable[str]) -> list[str]:
    """The mmproj files among names, those in the usual number formats first."""

    def place(name: str) -> int:
        words = name.lower().removesuffix(".gguf").replace(".", "-").split("-")
        return next((number for number, kind in enumerate(USUAL) if kind in words), len(USUAL))

    return sorted((name for name in names if is_mmproj(name)), key=lambda name: (place(name), name))


def mmproj_bytes(header: GgufHeader) -> int:
    """Of all tensors, and of what a look at a picture takes: attention over all patches, and what is beside it."""
    weights = sum(tensor.size_bytes for tensor in header.tensors.values())
    side, patch, width = (
        int(header.one(f"clip.vision.{key}")) for key in ("image_size", "patch_size", "embedding_length")
    )
    return weights + 64 * math.ceil(side / patch) ** 2 * width


def _check_sizes(header: GgufHeader) -> None:
    for key in ("image_size", "patch_size", "embedding_length", "attention.head_count", "block_count"):
        value: Any = header.one(f"clip.vision.{key}")
        least, most = int(key != "block_count"), MAX_LAYERS if key == "block_count" else MAX_SIDE
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ModelLoadError(
                f"{header.path.name}: clip.vision.{key} is {str(value)[:80]}; it must be a whole number from {least} "
                f"to {most:,}."
            )


def _check_colours(header: GgufHeader) -> None:
    """The library reads three numbers, however many there are."""
    for key in ("image_mean", "image_std"):
        value = header.metadata.get(f"clip.vision.{key}")
        is_known = isinstance(value, np.ndarray) and value.dtype == np.float32 and value.size == COLOURS
        if value is None or not is_known or not np.isfinite(value).all() or (key == "image_std" and not value.all()):
            raise ModelLoadError(f"{header.path.name}: clip.vision.{key} must be three numbers, one for each colour.")


def _check_tensors(header: GgufHeader) -> None:
    """The library ends the process where one that it needs is not there, or is of another size."""
    for name in header.tensors:
        weight = f"{name.removesuffix('.bias')}.weight"
        if not TENSOR_NAME.fullmatch(name):
            raise ModelLoadError(f"{header.path.name} is damaged: it has a tensor {name[:80]!r}. Download it again.")
        if name.endswith(".bias") and not name.endswith(LONE_BIAS) and weight not in header.tensors:
            raise ModelLoadError(f"{header.path.name} is damaged: it has {name}, but no {weight}. Download it again.")
    width, patches = header.one("clip.vision.embedding_length"), header.tensors.get(PATCHES)
    if patches is not None and width not in patches.shape:
        raise ModelLoadError(
            f"{header.path.name}: clip.vision.embedding_length is {width:,}, and {PATCHES} has the shape "
            f"{tuple(patches.shape)}, which must have it. Download it again."
        )


def _fits(header: GgufHeader, width: int) -> bool:
    """Whether a projector may make vectors of a width. Which tensor is its last one, the library knows."""
    if header.one("clip.vision.projection_dim") == width:
        return True
    return any(width in tensor.shape for name, tensor in header.tensors.items() if not name.startswith("v."))
