"""Loading models that see: their eye, their decoder, and those that can't be taken apart."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.checkpoints.vision import Eye, load_processor, take_apart
from llmapi_kit.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from llmapi_kit.images.decode import of_pixels
from tests.checkpoints.seeing_folders import EYE, TEXT, make_seeing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_seeing(tmp_path_factory.mktemp("seeing") / "llava", "llava")


@pytest.fixture(scope="module")
def eye(folder):
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return Eye(model, load_processor(str(folder), "llava"))


@pytest.mark.parametrize("size", [(2, 2), (3, 400), (500, 7), (33, 31)])
def test_a_picture_of_any_shape_has_a_vector_for_each_of_its_tokens(eye, size):
    seen = eye.look(of_pixels(Image.new("RGB", size, (9, 99, 200))), "p")
    assert seen.ids.count(eye.image_token_id) == len(seen.features)
    assert torch.isfinite(seen.features).all()


def test_what_the_processor_can_not_take_is_refused_by_its_place(eye, monkeypatch):
    def refuse(**inputs):
        raise ValueError("absolute aspect ratio must be smaller than 200")

    monkeypatch.setattr(eye, "_processor", refuse)
    with pytest.raises(InvalidRequestError, match="aspect ratio") as caught:
        eye.look(of_pixels(Image.new("RGB", (4, 4))), "messages.0.content.1")
    assert caught.value.param == "messages.0.content.1"


def test_weights_in_bfloat16_are_computed_with_in_float32_on_a_cpu(tmp_path):
    make_seeing(tmp_path / "bf16", "llava", torch.bfloat16)
    model = kit.load(tmp_path / "bf16", max_slots=2)
    assert model.info.dtype == "float32"
    assert model.ask("what?", images=[Image.new("RGB", (20, 20))], max_tokens=3, ignore_eos=True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            transformers.Qwen2VLConfig(
                text_config={**TEXT, "vocab_size": 99},
                vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 64},
            ),
            "positions in three dimensions",
        ),
        (
            transformers.PaliGemmaConfig(
                text_config={**TEXT, "model_type": "gemma", "vocab_size": 99, "head_dim": 16},
                vision_config={**EYE, "model_type": "siglip_vision_model"},
            ),
            "both ways",
        ),
    ],
    ids=["qwen2_vl", "paligemma"],
)
def test_a_decoder_that_is_no_causal_one_by_itself_is_refused_with_the_reason(config, words):
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with pytest.raises(UnsupportedModelError, match=words):
        take_apart(model, "it")


def test_a_folder_without_an_image_processor_says_so(folder, tmp_path):
    for file in folder.iterdir():
        if "processor" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelLoadError, match="image processor"):
        kit.load(tmp_path)


def test_a_missing_tensor_of_the_vision_tower_is_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "vision" in name and "q_proj.weight" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"q_proj\.weight"):
        kit.load(tmp_path)


def test_a_model_for_sound_too_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "audio_config": {"a": 1}}))
    with pytest.raises(UnsupportedModelError, match="sound"):
        kit.load(tmp_path)
