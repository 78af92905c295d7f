"""Loading models that see: their encoder, their decoder, and those that can't be taken apart."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
import transformers
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.vision_decoder import extract_decoder
from llmapi_kit.checkpoints.vision_encoder import VisionEncoder
from llmapi_kit.checkpoints.vision_processor import load_processor
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from llmapi_kit.images.decode import of_pixels
from llmapi_kit.loading.runner_choice import make_runner
from llmapi_kit.runners.image_memory import ImageMemory
from tests.checkpoints.seeing_folders import EYE, FAMILIES, TEXT, make_seeing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_seeing(tmp_path_factory.mktemp("seeing") / "llava", "llava")


@pytest.fixture(scope="module")
def encoder(folder):
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return VisionEncoder(model, load_processor(str(folder), "llava"))


@pytest.mark.parametrize("size", [(2, 2), (3, 400), (500, 7), (33, 31)])
def test_a_picture_of_any_shape_has_a_vector_for_each_of_its_tokens(encoder, size):
    seen = encoder.encode(encoder.prepare(of_pixels(Image.new("RGB", size, (9, 99, 200))), "p"))
    assert sum(seen.runs) == len(seen.features)
    assert seen.text.count(encoder.vector_token) == len(seen.runs)
    assert torch.isfinite(seen.features).all()


def test_what_the_processor_can_not_take_is_refused_by_its_place(encoder, monkeypatch):
    def refuse(**inputs):
        raise ValueError("absolute aspect ratio must be smaller than 200")

    monkeypatch.setattr(encoder, "_processor", refuse)
    with pytest.raises(InvalidRequestError, match="aspect ratio") as caught:
        encoder.prepare(of_pixels(Image.new("RGB", (4, 4))), "messages.0.content.1")
    assert caught.value.param == "messages.0.content.1"


@pytest.mark.slow
def test_weights_in_bfloat16_are_computed_with_in_float32_on_a_cpu(tmp_path):
    make_seeing(tmp_path / "bf16", "llava", torch.bfloat16)
    model = kit.load(tmp_path / "bf16", max_slots=2)
    assert model.info.dtype == "float32"
    assert model.ask("what?", images=[Image.new("RGB", (20, 20))], max_tokens=3, ignore_eos=True)


def test_little_detail_is_fewer_tiles_and_fewer_pixels(tmp_path):
    model, processor = FAMILIES["internvl"]()
    encoder = VisionEncoder(model, processor)
    picture = of_pixels(Image.new("RGB", (1200, 300)))
    whole, low = (encoder.prepare(picture, "p", is_low=is_low) for is_low in (False, True))
    assert (sum(whole.runs), sum(low.runs)) == (20, 4)
    assert picture.size == (1200, 300)
    model, processor = FAMILIES["qwen2_vl"]()
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 2000 * 2000}
    encoder = VisionEncoder(model, processor)
    assert encoder.prepare(picture, "p", is_low=True).inputs["image_grid_thw"].tolist() == [[1, 16, 64]]


@pytest.mark.parametrize("family", ["llava_onevision", "pixtral", "smolvlm", "qwen2_vl"])
def test_a_processor_that_asks_for_torchvision_is_made_without(family, tmp_path):
    _, processor = FAMILIES[family]()
    processor.save_pretrained(tmp_path)
    again = load_processor(str(tmp_path), family)
    assert type(again).__name__ == type(processor).__name__
    assert again.to_dict()["image_processor"] == processor.to_dict()["image_processor"]
    assert getattr(again, "image_seq_len", 4) == 4
    assert again.image_token == processor.image_token


def test_a_processor_without_a_way_around_torchvision_says_what_to_install(tmp_path, monkeypatch):
    def fail(*_):
        raise ImportError("FooImageProcessor requires the Torchvision library")

    monkeypatch.setattr("llmapi_kit.checkpoints.vision_processor._processor_class", fail)
    with pytest.raises(ModelLoadError, match="pip install torchvision"):
        load_processor(str(tmp_path), "foo")


@pytest.fixture
def untried(monkeypatch):
    """Every family is one that nobody tried."""
    monkeypatch.setattr("llmapi_kit.checkpoints.vision_encoder.TRIED", frozenset())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "flag"), [("gemma3", "is_bidirectional"), ("qwen3_vl", "is_spatial"), ("idefics3", None)]
)
def test_a_family_that_nobody_tried_is_compared_with_itself_before_it_is_used(family, flag, untried, tmp_path):
    loaded = load_model(parse_spec(make_seeing(tmp_path / family, family)), device="cpu")
    flags = {"is_spatial": loaded.vision.is_spatial, "is_bidirectional": loaded.vision.is_bidirectional}
    plan = SlotPlan(2, 128, 0)
    images = ImageMemory(**flags)
    make_runner(replace(loaded, model=copy.deepcopy(loaded.model)), plan, Settings(num_threads=1), images).close()
    assert not images._pins
    if flag is not None:
        wrong = ImageMemory(**{**flags, flag: False})
        with pytest.raises(UnsupportedModelError, match="other logits"):
            make_runner(loaded, plan, Settings(num_threads=1), wrong)


def test_a_processor_that_writes_pictures_otherwise_beside_other_text_is_refused(untried, monkeypatch):
    model, processor = FAMILIES["llava"]()
    real = type(processor).get_text_with_replacements

    def spaced(self, text, *others):
        texts, offsets = real(self, text, *others)
        return [each.replace("<image>what", "<image> what") for each in texts], offsets

    monkeypatch.setattr(type(processor), "get_text_with_replacements", spaced)
    with pytest.raises(UnsupportedModelError, match="depends on the text beside it"):
        VisionEncoder(model, processor)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            transformers.PaliGemmaConfig(
                text_config={**TEXT, "model_type": "gemma", "vocab_size": 99, "head_dim": 16},
                vision_config={**EYE, "model_type": "siglip_vision_model"},
            ),
            "both ways, text too",
        ),
        (
            transformers.MllamaConfig(
                text_config={**TEXT, "bos_token_id": 1, "vocab_size": 99, "cross_attention_layers": [1]},
                vision_config={
                    **EYE,
                    "num_global_layers": 1,
                    "vision_output_dim": 32,
                    "supported_aspect_ratios": [[1, 1]],
                },
            ),
            "attend to it apart",
        ),
    ],
    ids=["paligemma", "mllama"],
)
def test_a_model_whose_pictures_do_not_stand_among_its_tokens_is_refused_with_the_reason(config, words):
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    with pytest.raises(UnsupportedModelError, match=words):
        VisionEncoder(model, None)


def test_a_recurrent_decoder_is_refused_with_the_reason():
    model, _ = FAMILIES["qwen2_vl"]()
    model.config.get_text_config().layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(UnsupportedModelError, match="recurrent"):
        extract_decoder(model, "it")


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
