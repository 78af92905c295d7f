"""Tiny random models for pictures and text, as folders of transformers."""

from __future__ import annotations

import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llmapi_kit.checkpoints.spec import POCKET_DIR

SIDE, PATCH = 32, 8
TILES = [[32, 64], [64, 32], [64, 64]]
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EYE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
BOTH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_ONLY = BOTH.replace("{% if m.content is string %}{{ m.content }}{% else %}", "")
PARTS_ONLY = PARTS_ONLY.replace("{% endfor %}{% endif %}", "{% endfor %}")


def _tokenizer(*more):
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *more]})
    return tokenizer


def llava(template=BOTH):
    """One picture, one grid of vectors; a Llama behind."""
    tokenizer = _tokenizer()
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vision_config=transformers.CLIPVisionConfig(projection_dim=32, **EYE),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next():
    """A picture in tiles, as many vectors as its shape needs; a Mistral behind."""
    tokenizer = _tokenizer()
    config = transformers.LlavaNextConfig(
        text_config=transformers.MistralConfig(vocab_size=len(tokenizer), sliding_window=None, **TEXT),
        vision_config=transformers.CLIPVisionConfig(projection_dim=32, **EYE),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILES,
        image_seq_length=16,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=TILES
    )
    processor = transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=BOTH,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def idefics3():
    """A picture in rows and columns with tokens between them, as SmolVLM has it; its template takes parts only."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = _tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places)
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vision_config=dict(EYE),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=PARTS_ONLY)
    return transformers.Idefics3ForConditionalGeneration(config), processor


FAMILIES = {"llava": llava, "llava_next": llava_next, "idefics3": idefics3}


def make_seeing(folder, family, dtype=torch.float32):
    """Write a random model of a family."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    model = model.to(dtype)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
