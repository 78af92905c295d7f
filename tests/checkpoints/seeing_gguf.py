"""A tiny random LLaVA-shaped model as a folder of transformers, and the same as a GGUF file with its mmproj file."""

from __future__ import annotations

import gguf
import numpy as np
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llmapi_kit.checkpoints.spec import POCKET_DIR
from tools.llava_to_gguf import llava_to_gguf

SIDE, PATCH = 32, 8
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
