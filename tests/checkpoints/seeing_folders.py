"""Tiny random models for pictures and text, as folders of transformers."""

from __future__ import annotations

import importlib

import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.checkpoints.vision_processor import pictures_only

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
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"


def template(mark):
    return BOTH.replace("<image>", mark)


def tokenizer(*more, **named):
    """The pocket model's, with more special tokens; those with a name are its attributes."""
    made = transformers.AutoTokenizer.from_pretrained(POCKET_DIR, extra_special_tokens=named)
    made.add_special_tokens({"additional_special_tokens": list(more)}, replace_extra_special_tokens=False)
    return made


def images(family, name, **options):
    """An image processor on Pillow and numpy."""
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, f"{name}ImageProcessorPil")(**options)


def text_config(kind, words, **more):
    return getattr(transformers, f"{kind}Config")(**{**TEXT, "vocab_size": len(words), **more})


def llava(text=BOTH):
    """One picture, one grid of vectors; a Llama behind."""
    words = tokenizer("<image>")
    config = transformers.LlavaConfig(
        text_config=text_config("Llama", words),
        vision_config=transformers.CLIPVisionConfig(projection_dim=32, **EYE),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        images("clip", "CLIP", size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=text,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def pixtral():
    """Rows of vectors with a token after each; a Llava by its class."""
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = transformers.LlavaConfig(
        text_config=text_config("Mistral", words, sliding_window=None, head_dim=16),
        vision_config=transformers.PixtralVisionConfig(**{**EYE, "image_size": 64}),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    shrinking = images("pixtral", "Pixtral", patch_size={"height": 8, "width": 8}, size={"longest_edge": 48})
    processor = pictures_only(transformers.PixtralProcessor)(
        shrinking, words, patch_size=8, chat_template=template("[IMG]")
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def mistral3():
    """As Pixtral, four patches merged into a vector."""
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = transformers.Mistral3Config(
        text_config=text_config("Mistral", words, sliding_window=None, head_dim=16),
        vision_config=transformers.PixtralVisionConfig(**{**EYE, "image_size": 64}),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    shrinking = images("pixtral", "Pixtral", patch_size={"height": 8, "width": 8}, size={"longest_edge": 64})
    processor = pictures_only(transformers.PixtralProcessor)(
        shrinking, words, patch_size=8, spatial_merge_size=2, chat_template=template("[IMG]")
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor


def llava_next():
    """A picture in tiles, as many vectors as its shape needs; a Mistral behind."""
    words = tokenizer("<image>")
    config = transformers.LlavaNextConfig(
        text_config=text_config("Mistral", words, sliding_window=None),
        vision_config=transformers.CLIPVisionConfig(projection_dim=32, **EYE),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILES,
        image_seq_length=16,
    )
    cutting = images(
        "llava_next",
        "LlavaNext",
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=TILES,
    )
    processor = transformers.LlavaNextProcessor(
        cutting,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=BOTH,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_onevision():
    """Tiles, and a processor for video, too; a Qwen2 behind."""
    words = tokenizer("<image>", "<video>")
    config = transformers.LlavaOnevisionConfig(
        text_config=text_config("Qwen2", words),
        vision_config=transformers.SiglipVisionConfig(**EYE),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=TILES,
        vision_aspect_ratio="anyres_max_4",
    )
    cutting = images(
        "llava_onevision", "LlavaOnevision", size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=TILES
    )
    processor = pictures_only(transformers.LlavaOnevisionProcessor)(
        cutting, words, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=BOTH
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def idefics(kind):
    """A picture in rows and columns with tokens between them; its template takes parts only."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text_config("Llama", words),
        vision_config=dict(EYE),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    cutting = images(kind.lower(), kind, size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    made = pictures_only(getattr(transformers, f"{kind}Processor"))
    processor = made(cutting, words, image_seq_len=4, chat_template=PARTS_ONLY)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def idefics3():
    return idefics("Idefics3")


def smolvlm():
    return idefics("SmolVLM")


def qwen_vl(kind, eye, **text):
    """Positions in three dimensions."""
    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = words.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3], **text.pop("rope", {})}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope, **text},
        vision_config={"patch_size": PATCH, "depth": 2, "num_heads": 2, **eye},
        **dict(zip(names, ids, strict=True)),
    )
    shrinking = images("qwen2_vl", "Qwen2VL", patch_size=PATCH, size={"shortest_edge": 256, "longest_edge": 64 * 64})
    made = getattr(transformers, f"{kind}Processor", transformers.Qwen3VLProcessor)
    processor = pictures_only(made)(shrinking, words, chat_template=template(QWEN_MARK))
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def qwen2_vl():
    return qwen_vl("Qwen2VL", {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2})


def qwen2_5_vl():
    eye = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "window_size": 32}
    return qwen_vl("Qwen2_5_VL", {**eye, "fullatt_block_indexes": [1]})


def qwen3_vl():
    """What it sees is added to the states of its first layers as well."""
    eye = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
    return qwen_vl("Qwen3VL", {**eye, "deepstack_visual_indexes": [0, 1]}, head_dim=16)


def gemma3():
    """The vectors of a picture attend to each other both ways, also where layers see a window only."""
    words = tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    config = transformers.Gemma3Config(
        text_config=text_config(
            "Gemma3Text",
            words,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config={**EYE, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=16,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    shrinking = images("gemma3", "Gemma3", size={"height": SIDE, "width": SIDE})
    processor = transformers.Gemma3Processor(
        shrinking, words, image_seq_length=16, chat_template=template("<start_of_image>")
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def internvl():
    """Tiles by the picture's shape."""
    words = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = transformers.InternVLConfig(
        text_config=text_config("Qwen2", words),
        vision_config={**EYE, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )
    cutting = images("got_ocr2", "GotOcr2", size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=4)
    processor = pictures_only(transformers.InternVLProcessor)(
        cutting, words, image_seq_length=4, chat_template=template("<IMG_CONTEXT>")
    )
    return transformers.InternVLForConditionalGeneration(config), processor


FAMILIES = {
    made.__name__: made
    for made in (
        *(llava, llava_next, llava_onevision, pixtral, mistral3, idefics3, smolvlm),
        *(qwen2_vl, qwen2_5_vl, qwen3_vl, gemma3, internvl),
    )
}


def make_seeing(folder, family, dtype=torch.float32):
    """Write a random model of a family."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    with torch.no_grad():  # as they come, random weights attend to everything alike, and no mistake would be seen
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.1)
            elif weight.ndim > 1 and "embed_tokens" not in name:
                weight.mul_(6)
    model = model.to(dtype)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
