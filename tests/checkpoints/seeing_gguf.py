"""Tiny random models that see as folders of transformers, and the same as GGUF files with their mmproj files."""

from __future__ import annotations

import json

import gguf
import numpy as np
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.gguf_file import LAYER_NAMES, NAMES, _add_tokenizer
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.checkpoints.vision_processor import load_processor
from tests.checkpoints.seeing_folders import make_seeing
from tools.llava_to_gguf import llava_to_gguf

SIDE, PATCH = 32, 8
QWEN2_NAMES = {"norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_pair(folder):
    """Write the model to a folder, and its files beside it; returns (folder, model, mmproj)."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    tower = {"hidden_size": 32, "intermediate_size": 64, "image_size": SIDE, "patch_size": PATCH}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **text, **ends, **SIZES),
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **tower, **SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
    )
    side = {"height": SIDE, "width": SIDE}
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size=side, do_center_crop=False, crop_size=side),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():  # random ones are so small that a picture would change nothing
        for name, weight in model.model.named_parameters():
            if "projector" in name or "vision_tower" in name:
                weight.mul_(4)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return (folder / "model", *llava_to_gguf(folder / "model", folder / "small.gguf"))


def make_qwen2_vl(folder):
    """The same for a model whose positions have three dimensions."""
    make_seeing(folder / "model", "qwen2_vl")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder / "model").requires_grad_(False)
    paths = folder / "model", folder / "small.gguf", folder / "mmproj-small.gguf"
    text = gguf.GGUFWriter(paths[1], "qwen2vl")
    _add_text_shape(text, model.config.text_config)
    tokenizer = json.loads((folder / "model" / "tokenizer.json").read_text())
    _add_tokenizer(text, tokenizer, model.config.text_config.vocab_size, TEMPLATE)
    tower = gguf.GGUFWriter(paths[2], "clip")
    _add_tower_shape(tower, model.config, load_processor(str(folder / "model"), "small").image_processor)
    for name, tensor in model.state_dict().items():
        if name.startswith("model.visual."):
            for stored, part in _of_tower(name.removeprefix("model.visual."), tensor.numpy()):
                tower.add_tensor(stored, np.ascontiguousarray(part))
        else:
            text.add_tensor(_of_text(name.replace("model.language_model.", "model.")), tensor.numpy())
    for writer in (text, tower):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _add_text_shape(writer, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_sections([*config.rope_parameters["mrope_section"], 0])


def _add_tower_shape(writer, config, image_processor):
    tower = config.vision_config
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen2vl_merger")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(560)
    writer.add_vision_patch_size(tower.patch_size)
    writer.add_vision_embedding_length(tower.embed_dim)
    writer.add_vision_feed_forward_length(int(tower.embed_dim * tower.mlp_ratio))
    writer.add_vision_block_count(tower.depth)
    writer.add_vision_head_count(tower.num_heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_spatial_merge_size(tower.spatial_merge_size)
    writer.add_vision_image_mean(list(map(float, image_processor.image_mean)))
    writer.add_vision_image_std(list(map(float, image_processor.image_std)))


def _of_text(name):
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{suffix}"


def _of_tower(name, array):
    stem, suffix = name.rsplit(".", 1)
    if stem == "patch_embed.proj":
        return [("v.patch_embd.weight", array[:, :, 0]), ("v.patch_embd.weight.1", array[:, :, 1])]
    if stem.startswith("merger."):
        part = stem.removeprefix("merger.").replace("ln_q", "v.post_ln").replace("mlp.", "mm.")
        return [(f"{part}.{suffix}", array)]
    _, layer, part = stem.split(".", 2)
    if part == "attn.qkv":
        return [(f"v.blk.{layer}.attn_{q}.{suffix}", each) for q, each in zip("qkv", np.split(array, 3), strict=True)]
    return [(f"v.blk.{layer}.{QWEN2_NAMES[part]}.{suffix}", array)]


def rewrite(source, target, **changed):
    """Copy an mmproj file with other values or tensors; None leaves one out. Dots in names are written ``__``."""
    changed = {name.replace("__", "."): value for name, value in changed.items()}
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "clip")
    for field in reader.fields.values():
        value = changed.get(field.name, field.contents())
        if field.name.startswith("GGUF.") or field.name == "general.architecture" or value is None:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, value)
        else:
            writer.add_key_value(field.name, value, field.types[0])
    for tensor in reader.tensors:
        data = changed.get(tensor.name, tensor.data)
        if data is not None:
            writer.add_tensor(tensor.name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
