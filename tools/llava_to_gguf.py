"""Write a LLaVA model of transformers as two GGUF files: the model, and its image part, the mmproj file.

Knows a SigLIP vision tower, LLaVA's projector of two layers, and decoders that `benchmarks.gguf_file` knows, with a
byte-level BPE tokenizer. ``python -m tools.llava_to_gguf FOLDER OUT`` writes OUT and, beside it, mmproj-OUT.

CLIP's towers are not written: they have a class token, which llama.cpp puts behind the patches and not in front of
them, so that it gives every patch the position of its neighbour and leaves the first one out (seen with b11549).

Source: names and keys of llama.cpp's tools/mtmd, and of the package gguf.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from benchmarks.gguf_file import write_gguf
from llmapi_kit.checkpoints.vision_decoder import extract_decoder

PROJECTOR = {"linear_1": "mm.0", "linear_2": "mm.2"}
TOWER = "vision_tower."


def llava_to_gguf(folder: Path, path: Path) -> tuple[Path, Path]:
    """Write both files of a model.

    Args:
        folder: of transformers' `LlavaForConditionalGeneration`, with its processor.
        path: of the model's file; its image part is written beside it, with ``mmproj-`` in front of the name.

    Returns:
        Where the two files are.

    Raises:
        ValueError: the model has parts that are not known here.
    """
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(folder).requires_grad_(False)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    template = processor.chat_template or processor.tokenizer.chat_template
    write_gguf(extract_decoder(model, folder.name), tokenizer, template, path)
    mmproj = path.with_name(f"mmproj-{path.name}")
    write_mmproj(model, processor.image_processor, mmproj)
    return path, mmproj


def write_mmproj(model: Any, image_processor: Any, path: Path) -> None:
    """Write the vision tower and the projector of a LLaVA model.

    Args:
        model: of transformers.
        image_processor: whose mean and deviation of colours are taken.
        path: of the new file.

    Raises:
        ValueError: it takes features in a way that is not known here.
    """
    config = model.config
    if config.vision_config.model_type != "siglip_vision_model" or config.vision_feature_select_strategy != "full":
        raise ValueError("Only a SigLIP tower all of whose features are taken can be written; see this module.")
    if isinstance(config.vision_feature_layer, list):
        raise ValueError("Only models that take the features of one layer can be written.")
    num_layers = config.vision_feature_layer % (config.vision_config.num_hidden_layers + 1)
    writer = gguf.GGUFWriter(path, "clip")
    _add_shape(writer, config, num_layers)
    writer.add_vision_image_mean(list(map(float, image_processor.image_mean)))
    writer.add_vision_image_std(list(map(float, image_processor.image_std)))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, num_layers)
    is_half = model.dtype.itemsize == 2
    for name, tensor in model.model.state_dict().items():
        if (stored := _stored_name(name, names, num_layers)) is not None:
            form = np.float16 if is_half and tensor.ndim >= 2 else np.float32
            writer.add_tensor(stored, np.ascontiguousarray(tensor.to(torch.float32).numpy(), dtype=form))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: Any, num_layers: int) -> None:
    tower = config.vision_config
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(tower.image_size)
    writer.add_vision_patch_size(tower.patch_size)
    writer.add_vision_embedding_length(tower.hidden_size)
    writer.add_vision_feed_forward_length(tower.intermediate_size)
    writer.add_vision_block_count(num_layers)
    writer.add_array("clip.vision.feature_layer", [num_layers])
    writer.add_vision_head_count(tower.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(tower.layer_norm_eps)
    writer.add_vision_use_gelu(True)


def _stored_name(name: str, names: Any, num_layers: int) -> str | None:
    """What a tensor is called in the file; None for those behind the features that are taken."""
    stem, suffix = name.rsplit(".", 1)
    if name.startswith("multi_modal_projector."):
        return f"{PROJECTOR[stem.rpartition('.')[2]]}.{suffix}"
    inner = name.removeprefix(TOWER).removeprefix("vision_model.")
    if not name.startswith(TOWER) or inner.startswith(("post_layernorm.", "head.")):
        return None
    if inner.startswith("encoder.layers.") and int(inner.split(".")[2]) >= num_layers:
        return None
    stored: str | None = names.get_name(f"{TOWER}vision_model.{inner}", try_suffixes=(".weight", ".bias"))
    if stored is None:
        raise ValueError(f"The tensor {name} is not known here.")
    return stored


if __name__ == "__main__":
    for written in llava_to_gguf(Path(sys.argv[1]), Path(sys.argv[2])):
        print(written)
