"""GGUF models that see: the same greedy answers as by transformers on the same weights, alone and in a batch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.checkpoints.spec import POCKET_VISION_DIR
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError, InvalidRequestError, ModelError, ModelLoadError, UnsupportedModelError
from llmapi_kit.images.attach import image_url
from llmapi_kit.runners import image_process
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Finished
from tests.checkpoints.seeing_gguf import SIDE, make_pair, make_qwen2_vl, rewrite
from tools.llava_to_gguf import llava_to_gguf

from .conftest import collect

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from pocket_drawings.examination import cases

pytestmark = pytest.mark.slow

NUM_NEW = 12
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)) for i in range(3)
]
EXACT = {"kv_cache_dtype": "f32", "flash_attn": False, "max_slots": 4, "context_length": 512}


def message(*parts):
    """A message of texts and numbers of pictures."""
    return {"role": "user", "content": [part_of(part) for part in parts]}


def part_of(part):
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": image_url(PICTURES[part])}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module", params=[False, True], ids=["here", "apart"])
def model(request, files):
    model = kit.load(files[1], isolate=request.param, step_tokens=24, **EXACT)
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(files):
    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(files[0]).eval()
    processor = transformers.AutoProcessor.from_pretrained(files[0], backend="pil")

    @torch.inference_mode()
    def answer(content):
        pictures = [PICTURES[part] for part in content if not isinstance(part, str)]
        text = "".join(part if isinstance(part, str) else "<image>" for part in content)
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[prompt], images=pictures or None, add_special_tokens=False, return_tensors="pt")
        made = loaded.generate(**inputs, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False)
        num_prompt = inputs["input_ids"].shape[1]
        return processor.tokenizer.decode(made[0, num_prompt:], skip_special_tokens=True), num_prompt

    return answer


def ask(model, *contents):
    """(text, tokens of the prompt), and how many were cached, of each, all asked at once."""
    sampling = SamplingParams(temperature=0, max_tokens=NUM_NEW, ignore_eos=True)

    async def gather():
        requests = [GenerationRequest(messages=[message(*content)], sampling=sampling) for content in contents]
        return await asyncio.gather(*(collect(model.engine.generate(request)) for request in requests))

    ends = [(text, next(e for e in events if isinstance(e, Finished))) for text, events in asyncio.run(gather())]
    return [(text, end.num_prompt_tokens) for text, end in ends], [end.num_cached_tokens for _, end in ends]


def test_pictures_are_answered_as_by_transformers_alone_and_beside_others(model, reference):
    assert "vision" in model.info.capabilities
    contents = [[0, "what is it?"], ["a question without a picture"], ["first ", 1, " then ", 2, 0, "?"], [2, "one"]]
    expected = [reference(content) for content in contents]
    assert len({text for text, _ in expected}) == len(contents)
    assert ask(model, *contents)[0] == expected
    assert [ask(model, content)[0][0] for content in contents] == expected


def test_a_prefix_with_a_picture_is_known_by_its_pixels(model, reference):
    long = "what is in this picture, which has a prompt of some length behind it?"
    ask(model, [1, long])
    (found,), (num_cached,) = ask(model, [1, long + " and more"])
    assert num_cached > (SIDE // 8) ** 2
    assert found == reference([1, long + " and more"])
    (found,), (num_cached,) = ask(model, [2, long])
    assert num_cached < 16
    assert found == reference([2, long])


def test_a_process_that_dies_or_hangs_on_a_picture_costs_that_request_its_answer_and_no_other(model, monkeypatch):
    process = model.engine._prompts._prompt_pictures._encoder._process
    os.kill(process.pid, signal.SIGABRT)
    other = Image.new("RGB", (SIDE, SIDE), (1, 2, 3))
    with pytest.raises(InvalidRequestError, match="32 x 32 pixels, and the model failed on it"):
        model.ask("what?", images=[other], max_tokens=2)
    assert isinstance(model.ask("what?", images=[other], max_tokens=2), str)
    os.kill(process.pid, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(image_process, "MAX_LOOK_S", 0.5)
        with pytest.raises(InvalidRequestError, match="the model failed on it"):
            model.ask("what?", images=[Image.new("RGB", (SIDE, SIDE), (3, 2, 1))], max_tokens=2)
    for size in ((2, 2), (2, 400), (300, 7)):
        model.ask("what?", images=[Image.new("RGB", size)], max_tokens=2)


def test_a_mark_is_not_to_be_guessed_and_pictures_are_told_apart_by_load(model, files):
    mark = model.engine._prompts._prompt_pictures._encoder.image_token
    assert mark not in model.ask("<__media__> <image>", max_tokens=2)
    assert len(mark) > 20


def test_without_its_file_a_model_takes_text_only(files, tmp_path):
    alone = shutil.copy(files[1], tmp_path / "alone.gguf")
    for path, options in ((files[1], {"mmproj": False}), (alone, {})):
        model = kit.load(path, **options, max_slots=1)
        assert "vision" not in model.info.capabilities
        with pytest.raises(InvalidRequestError, match="takes text only"):
            model.ask("what?", images=[PICTURES[0]])
        model.close()
    named = kit.load(alone, mmproj=files[2], max_slots=1)
    assert "vision" in named.info.capabilities
    named.close()


def test_a_file_of_another_model_is_refused_before_it_is_loaded_and_not_taken_by_itself(files, tmp_path):
    other = {"mm__2__weight": np.zeros((96, 96), np.float32), "mm__2__bias": np.zeros(96, np.float32)}
    first = {"mm__0__weight": np.zeros((96, 32), np.float32), "mm__0__bias": np.zeros(96, np.float32)}
    wrong = rewrite(files[2], tmp_path / "mmproj-wrong.gguf", **other, **first, clip__vision__projection_dim=96)
    with pytest.raises(ModelLoadError, match=r"mmproj-wrong\.gguf is the image part of another model: .* 64 wide"):
        kit.load(files[1], mmproj=wrong)
    model = kit.load(shutil.copy(files[1], tmp_path / "m.gguf"), max_slots=1)
    assert "vision" not in model.info.capabilities
    model.close()
    with pytest.raises(UnsupportedModelError, match="not an mmproj file"):
        kit.load(files[1], mmproj=files[1])
    with pytest.raises(UnsupportedModelError, match="load the model and pass mmproj="):
        kit.load(files[2])
    with pytest.raises(ConfigError, match="mmproj=True"):
        kit.load(files[1], mmproj=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mm__2__bias": np.full(64, np.nan, np.float32)}, "not finite"),
        ({"v__patch_embd__weight": None}, r"it has v\.patch_embd\.bias, but no v\.patch_embd\.weight"),
        ({"clip__vision__attention__head_count": 0}, "head_count is 0"),
        ({"clip__vision__attention__head_count": 5}, "contradicts itself"),
        ({"clip__vision__image_mean": [0.5]}, "three numbers"),
        ({"clip__projector_type": "telescope"}, "telescope"),
        ({"clip__vision__embedding_length": 27}, "embedding_length is 27, and v.patch_embd.weight has the shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_contradicts_itself_is_an_error_and_ends_nothing(changed, words, files, tmp_path):
    path = rewrite(files[2], tmp_path / "broken.gguf", **changed)
    with pytest.raises((ModelLoadError, UnsupportedModelError), match=words):
        kit.load(files[1], mmproj=path, max_slots=1)


def test_a_tensor_whose_name_is_damaged_is_not_left_out_in_silence(files, tmp_path):
    damaged = files[2].read_bytes().replace(b"v.position_embd.weight", b"v.position_em\x18d.weight")
    (tmp_path / "damaged.gguf").write_bytes(damaged)
    with pytest.raises(ModelLoadError, match=r"it has a tensor 'v\.position_em\\x18d\.weight'"):
        kit.load(files[1], mmproj=tmp_path / "damaged.gguf")


def test_files_with_bytes_changed_load_or_are_refused(files, tmp_path):
    rng = random.Random(5)
    whole = files[2].read_bytes()
    for _ in range(8):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(24, 1500)] = rng.randrange(256)
        path = tmp_path / "changed.gguf"
        path.write_bytes(data)
        with contextlib.suppress(ModelError):
            kit.load(files[1], mmproj=path, max_slots=1).close()


def test_positions_of_several_dimensions_are_those_of_torch(tmp_path):
    folder, path, _ = make_qwen2_vl(tmp_path)
    models = [kit.load(path, step_tokens=20, **EXACT), kit.load(folder, max_slots=4, context_length=512)]
    shapes = [(48, 64), (64, 48), (48, 48)]  # libmtmd makes smaller ones larger
    rngs = [np.random.default_rng(i) for i in range(len(shapes))]
    pictures = [
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)) for rng, size in zip(rngs, shapes, strict=True)
    ]
    for some in ([pictures[0]], pictures[:2], [pictures[1], pictures[0], pictures[1]], [pictures[2]] * 2):
        first, second = (each.ask("what is it?", images=some, temperature=0, max_tokens=3) for each in models)
        assert first == second
    for each in models:
        each.close()


def test_the_model_for_drawings_answers_as_in_torch(tmp_path):
    """The same weights as GGUF files; pictures of the tower's own size, as each library shrinks others its way."""
    file, _ = llava_to_gguf(POCKET_VISION_DIR, tmp_path / "drawings.gguf")
    theirs, ours = kit.load("pocket-vision"), kit.load(file, isolate=False, **EXACT)
    try:
        for case in cases(2):
            images = [case.drawing.image.resize((48, 48))] if case.drawing else []
            answers = [each.ask(case.question, images=images, temperature=0, max_tokens=32) for each in (theirs, ours)]
            assert answers[0] == answers[1], case.question
    finally:
        theirs.close()
        ours.close()
