"""Further tiny random models for pictures and text, beside those of the tests."""

from __future__ import annotations

import transformers

from llmapi_kit.checkpoints.vision_processor import pictures_only
from tests.checkpoints import seeing_folders as seeing
from tests.checkpoints.seeing_folders import BOTH, EYE, PATCH, SIDE, images, qwen_vl, template, text_config, tokenizer

SIGLIP = {**EYE, "model_type": "siglip_vision_model"}
SQUARE = {"height": SIDE, "width": SIDE}


def aya_vision():
    places = [f"TILE_{i}" for i in range(1, 13)]
    marks = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"]
    words = tokenizer("<image>", *marks, *places)
    config = transformers.AyaVisionConfig(
        text_config=text_config("Cohere2", words, layer_types=["full_attention"] * 2),
        vision_config=SIGLIP,
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    cutting = images("got_ocr2", "GotOcr2", size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.AyaVisionProcessor(
        cutting, words, patch_size=PATCH, img_size=SIDE, downsample_factor=2, chat_template=BOTH
    )
    return transformers.AyaVisionForConditionalGeneration(config), processor


def vipllava():
    words = tokenizer("<image>")
    config = transformers.VipLlavaConfig(
        text_config=text_config("Llama", words),
        vision_config=transformers.CLIPVisionConfig(projection_dim=32, **EYE),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-1, -2],
        vision_feature_layer=[-1, -2],
    )
    processor = transformers.LlavaProcessor(
        images("clip", "CLIP", size={"shortest_edge": SIDE}, crop_size=SQUARE),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=BOTH,
    )
    return transformers.VipLlavaForConditionalGeneration(config), processor


def idefics2():
    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    config = transformers.Idefics2Config(
        text_config=text_config("Mistral", words, sliding_window=None),
        vision_config=dict(EYE),
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 6,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    shrinking = images(
        "idefics2", "Idefics2", size={"shortest_edge": 16, "longest_edge": SIDE}, do_image_splitting=False
    )
    processor = transformers.Idefics2Processor(shrinking, words, image_seq_len=6, chat_template=BOTH)
    return transformers.Idefics2ForConditionalGeneration(config), processor


def aria():
    words = tokenizer(image_token="<|img|>")
    config = transformers.AriaConfig(
        text_config=text_config(
            "AriaText", words, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1, model_type="aria_text"
        ),
        vision_config={**EYE, "model_type": "idefics3_vision", "image_size": 490, "patch_size": 70},
        projector_patch_to_query_dict={49: 8, 196: 16},
        image_token_index=words.image_token_id,
    )
    shrinking = images("aria", "Aria", max_image_size=490, min_image_size=336)
    processor = transformers.AriaProcessor(
        shrinking, words, size_conversion={490: 8, 980: 16}, chat_template=template("<|img|>")
    )
    return transformers.AriaForConditionalGeneration(config), processor


def glm4v(kind="Glm4v", **text):
    marks = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>")
    more = ("<|begin_of_video|>", "<|end_of_video|>")
    words = tokenizer(*marks, *more)
    names = ("image_token_id", "video_token_id", "image_start_token_id", "image_end_token_id")
    ends = ("video_start_token_id", "video_end_token_id")
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **seeing.TEXT,
            "vocab_size": len(words),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.5,
            },
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "out_hidden_size": 64,
            "intermediate_size": 64,
        },
        **dict(zip((*names, *ends), words.convert_tokens_to_ids([*marks, *more]), strict=True)),
    )
    shrinking = images("glm4v", "Glm4v", patch_size=PATCH, size={"shortest_edge": 256, "longest_edge": 64 * 64 * 2})
    processor = pictures_only(transformers.Glm4vProcessor)(
        shrinking, words, chat_template=template("<|begin_of_image|><|image|><|end_of_image|>")
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def qwen3_vl_moe():
    eye = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return qwen_vl("Qwen3VLMoe", {**eye, "deepstack_visual_indexes": [0, 1]}, head_dim=16, **experts)


def qwen3_5():
    eye = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
    linear = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    return qwen_vl("Qwen3_5", eye, head_dim=16, **linear)


def paligemma():
    words = tokenizer(image_token="<image>")
    config = transformers.PaliGemmaConfig(
        text_config={**seeing.TEXT, "model_type": "gemma", "vocab_size": len(words) + 1200, "head_dim": 16},
        vision_config={**SIGLIP, "projection_dim": 64},
        projection_dim=64,
        hidden_size=64,
        image_token_index=words.image_token_id,
    )
    shrinking = images("siglip", "Siglip", size=SQUARE)
    shrinking.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(shrinking, words, chat_template=BOTH)
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def ovis2():
    words = tokenizer("<image>", "<IMG_ATOM>", *[f"<indicator_{i}>" for i in range(5)])
    ids = words.convert_tokens_to_ids([f"<indicator_{i}>" for i in range(5)])
    config = transformers.Ovis2Config(
        text_config=text_config("Qwen2", words),
        vision_config={**EYE, "vocab_size": 64, "hidden_stride": 2},
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=ids,
        vocab_size=len(words),
        hidden_size=64,
    )
    shrinking = images("ovis2", "Ovis2", size=SQUARE)
    processor = transformers.Ovis2Processor(shrinking, words, image_seq_length=4, chat_template=BOTH)
    return transformers.Ovis2ForConditionalGeneration(config), processor


def lighton_ocr():
    words = tokenizer(image_token="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>")
    config = transformers.LightOnOcrConfig(
        text_config={**seeing.TEXT, "model_type": "qwen3", "vocab_size": len(words), "head_dim": 16},
        vision_config={**EYE, "model_type": "pixtral", "image_size": 64},
        image_token_id=words.image_token_id,
        spatial_merge_size=2,
    )
    shrinking = images("pixtral", "Pixtral", patch_size={"height": 8, "width": 8}, size={"longest_edge": 64})
    processor = pictures_only(transformers.LightOnOcrProcessor)(
        shrinking, words, patch_size=8, spatial_merge_size=2, chat_template=template("<|image_pad|>")
    )
    return transformers.LightOnOcrForConditionalGeneration(config), processor


def paddleocr_vl():
    words = tokenizer("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>")
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    config = transformers.PaddleOCRVLConfig(
        text_config={**seeing.TEXT, "vocab_size": len(words), "head_dim": 16, "rope_parameters": rope},
        vision_config=dict(EYE),
        image_token_id=words.image_token_id,
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    shrinking = images(
        "paddleocr_vl", "PaddleOCRVL", patch_size=PATCH, size={"shortest_edge": 256, "longest_edge": 64 * 64}
    )
    processor = transformers.PaddleOCRVLProcessor(shrinking, words, chat_template=template(seeing.QWEN_MARK))
    return transformers.PaddleOCRVLForConditionalGeneration(config), processor


def video_llama_3():
    words = tokenizer("<|image_pad|>", "<|video_pad|>")
    config = transformers.VideoLlama3Config(
        text_config={**seeing.TEXT, "model_type": "qwen2", "vocab_size": len(words)},
        vision_config={**EYE, "model_type": "video_llama_3_vision"},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    )
    shrinking = images(
        "video_llama_3", "VideoLlama3", patch_size=PATCH, size={"shortest_edge": 256, "longest_edge": 64 * 64}
    )
    processor = pictures_only(transformers.VideoLlama3Processor)(
        shrinking, words, chat_template=template("<|image_pad|>")
    )
    return transformers.VideoLlama3ForConditionalGeneration(config), processor


def deepseek_vl():
    words = tokenizer(image_token="<image_placeholder>")
    config = transformers.DeepseekVLConfig(
        text_config={**seeing.TEXT, "model_type": "llama", "vocab_size": len(words)},
        vision_config=SIGLIP,
        image_token_id=words.image_token_id,
    )
    shrinking = images("deepseek_vl", "DeepseekVL", size=SQUARE, min_size=8)
    processor = transformers.DeepseekVLProcessor(
        shrinking, words, num_image_tokens=16, chat_template=template("<image_placeholder>")
    )
    return transformers.DeepseekVLForConditionalGeneration(config), processor


def gemma4():
    words = tokenizer(
        "<|video|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        image_token="<|image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    config = transformers.Gemma4Config(
        text_config=text_config(
            "Gemma4Text",
            words,
            head_dim=16,
            global_head_dim=16,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"],
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=0,
            use_bidirectional_attention="vision",
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 8,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        audio_config=None,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        image_token_id=words.image_token_id,
    )
    shrinking = images("gemma4", "Gemma4", patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)
    made = pictures_only(transformers.Gemma4Processor)
    processor = made(
        transformers.Gemma4AudioFeatureExtractor(),
        shrinking,
        words,
        image_seq_length=70,
        chat_template=template("<|image|>"),
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor


MORE = {
    made.__name__: made
    for made in (
        *(aya_vision, vipllava, idefics2, aria, glm4v, qwen3_vl_moe, qwen3_5, paligemma, ovis2, lighton_ocr),
        *(paddleocr_vl, video_llama_3, deepseek_vl, gemma4),
    )
}
