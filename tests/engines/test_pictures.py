"""Models that see, through the engine: the same greedy answers as by transformers, alone and in a batch."""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Finished
from tests.checkpoints.seeing_folders import FAMILIES, make_seeing

from .conftest import collect, wait_until

NUM_NEW = 10
SIZES = [(60, 40), (33, 64), (48, 48)]
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8))
    for i, (width, height) in enumerate(SIZES)
]


def url_of(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def message(*parts, role="user"):
    """A message of texts and numbers of pictures."""
    return {
        "role": role,
        "content": [text_part(part) if isinstance(part, str) else picture_part(part) for part in parts],
    }


def text_part(text):
    return {"type": "text", "text": text}


def picture_part(number):
    return {"type": "image_url", "image_url": {"url": url_of(PICTURES[number])}}


class Seeing:
    """A model of the kit beside the same one of transformers."""

    def __init__(self, folder):
        self.model = kit.load(folder, max_slots=4, context_length=512, step_tokens=48)
        self.engine = self.model.engine
        self.reference = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")

    def request(self, messages, **sampling):
        params = SamplingParams(temperature=0, max_tokens=NUM_NEW, ignore_eos=True, **sampling)
        return GenerationRequest(messages=messages, sampling=params)

    def ask(self, *conversations, **sampling):
        """(text, tokens of the prompt, of which cached) of each, all asked at once."""

        async def gather():
            answers = [collect(self.engine.generate(self.request(each, **sampling))) for each in conversations]
            return await asyncio.gather(*answers)

        ends = [(text, next(e for e in events if isinstance(e, Finished))) for text, events in asyncio.run(gather())]
        return [(text, end.num_prompt_tokens, end.num_cached_tokens) for text, end in ends]

    @torch.inference_mode()
    def expected(self, messages):
        """(text, tokens of the prompt) by transformers."""
        plain, pictures = [], []
        for each in messages:
            content = each["content"] if isinstance(each["content"], list) else [text_part(each["content"])]
            pictures += [self._picture(part) for part in content if part["type"] == "image_url"]
            marked = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
            plain.append({**each, "content": marked})
        text = self.processor.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(text=[text], images=pictures or None, add_special_tokens=False, return_tensors="pt")
        made = self.reference.generate(**inputs, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False)
        num_prompt = inputs["input_ids"].shape[1]
        return self.processor.tokenizer.decode(made[0, num_prompt:], skip_special_tokens=True), num_prompt

    def _picture(self, part):
        data = part["image_url"]["url"].partition(",")[2]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def check(self, *conversations):
        """They are answered together as each is by transformers."""
        seen = self.ask(*conversations)
        assert [each[:2] for each in seen] == [self.expected(each) for each in conversations]
        return [each[2] for each in seen]


@functools.cache
def _loaded(folder, family):
    return Seeing(make_seeing(folder / family, family))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("seeing")


@pytest.fixture(params=sorted(FAMILIES))
def seeing(request, home):
    return _loaded(home, request.param)


@pytest.fixture
def llava(home):
    return _loaded(home, "llava")


def test_a_picture_with_a_question_is_answered_as_by_transformers(seeing):
    assert "vision" in seeing.model.info.capabilities
    seeing.check([message(0, "what is it?")])
    seeing.check([message("first ", 1, " second ", 2, " which?")])


def test_pictures_and_texts_are_answered_in_one_batch_as_each_alone(seeing):
    seeing.check(
        [message(0, "what?")],
        [
            {
                "role": "user",
                "content": "A question without a picture, which takes a while to read.",
            }
        ],
        [message(1, 2, "and these?")],
        [{"role": "system", "content": "Be brief."}, message(2, "one")],
    )


def test_a_conversation_goes_on_from_what_is_cached_and_a_picture_is_known_by_its_pixels(llava):
    first = [message(0, "what is in this picture, which has a prompt of some length around it?")]
    ((text, num_prompt, _),) = llava.ask(first)
    later = [*first, {"role": "assistant", "content": text}, message("and what else?")]
    ((_, _, num_cached),) = llava.ask(later)
    assert num_cached >= num_prompt - 1
    other = [message(1, "what is in this picture, which has a prompt of some length around it?")]
    assert llava.check(other)[0] < 16  # its first vector is another one
    jpeg = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url_of(PICTURES[0], "GIF")}}]}]
    llava.check(jpeg)


def test_the_vision_tower_looks_once_at_a_picture_that_comes_again(llava, monkeypatch):
    looked = []
    eye = llava.engine._prompts._sight._eye
    real = eye.look
    monkeypatch.setattr(eye, "look", lambda prepared: looked.append(prepared.runs) or real(prepared))
    picture = Image.new("RGB", (40, 40), (1, 2, 3))
    content = [{"type": "image_url", "image_url": {"url": url_of(picture)}}, {"type": "text", "text": "?"}]
    for _ in range(3):
        llava.ask([{"role": "user", "content": content}])
    assert looked == [(16,)]


def test_penalties_see_the_texts_tokens_and_not_the_pictures(llava):
    plain = llava.ask([message(0, "what?")])
    penalised = llava.ask([message(0, "what?")], repetition_penalty=1.3)
    assert penalised[0][1] == plain[0][1]


def refused(seeing, messages, kind=InvalidRequestError):
    with pytest.raises(kind) as caught:
        seeing.ask(messages)
    return caught.value


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.com/cat.png", UnsupportedFieldError),
        ("http://127.0.0.1/cat.png", UnsupportedFieldError),
        ("data:image/png;base64,AAAA", InvalidRequestError),
        ("cat.png", InvalidRequestError),
    ],
)
def test_a_picture_that_can_not_be_had_is_refused_by_its_place(llava, url, kind):
    content = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    assert refused(llava, [{"role": "user", "content": content}], kind).param == "messages.0.content.1.image_url"


def test_a_text_that_looks_like_a_picture_is_refused_beside_pictures(llava):
    assert "'<image>'" in str(refused(llava, [message(0, "this <image> is another")]))


def test_too_many_pictures_and_too_long_prompts_are_refused(llava):
    assert refused(llava, [message(*[0] * 9)]).param == "messages.0.content.8.image_url"
    refused(llava, [message(*[0] * 8, "word " * 400)], ContextLengthError)


def test_pictures_are_let_go_when_their_request_has_ended(llava):
    memory = llava.engine._prompts._sight._memory
    llava.ask([message(0, 1, 2, "all")])
    refused(llava, [message(0, 1, "word " * 600)], ContextLengthError)
    gc.collect()  # the refusal's traceback refers to its prompt
    asyncio.run(wait_until(lambda: not memory._pins))
    assert memory.num_bytes > 0


def test_a_cell_asks_with_what_it_has_of_a_picture(llava):
    ((expected, _, _),) = llava.ask([message(0, "what is it?")])
    sampling = {"temperature": 0, "max_tokens": NUM_NEW, "ignore_eos": True}
    for picture in (PICTURES[0], np.asarray(PICTURES[0]), url_of(PICTURES[0])):
        assert llava.model.ask("what is it?", images=[picture], **sampling) == expected


def test_a_model_for_text_refuses_pictures_by_name():
    model = kit.load("pocket", max_slots=2)
    with pytest.raises(UnsupportedFieldError, match="takes text only") as caught:
        model.ask("what is it?", images=[PICTURES[0]])
    assert caught.value.param == "messages.0.content.0.image_url"
