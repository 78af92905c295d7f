"""Models that see, through the engine: the same greedy answers as by transformers, alone and in a batch."""

from __future__ import annotations

import asyncio
import functools
import gc

import numpy as np
import pytest
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from tests.checkpoints.seeing_folders import make_seeing

from .conftest import wait_until
from .seeing import NUM_NEW, PICTURES, Seeing, message, url_of

pytestmark = pytest.mark.slow

# One of each way in which pictures enter a prompt; `make vision-table` tries all families
FAMILIES = ("gemma3", "idefics3", "llava", "llava_next", "qwen3_vl")


@functools.cache
def _loaded(folder, family):
    return Seeing(make_seeing(folder / family, family))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("seeing")


@pytest.fixture(params=FAMILIES)
def seeing(request, home):
    return _loaded(home, request.param)


@pytest.fixture
def llava(home):
    return _loaded(home, "llava")


def test_a_picture_with_a_question_is_answered_as_by_transformers(seeing):
    assert "vision" in seeing.model.info.capabilities
    seeing.check([message(0, "what is it?")])
    seeing.check([message("first ", 1, " second ", 2, " which?")])


@pytest.mark.parametrize(("family", "kind"), [("llava", "native"), ("gemma3", "modules"), ("qwen3_vl", "modules")])
def test_decoders_that_are_known_in_c_run_in_it_with_pictures_too(home, family, kind):
    assert _loaded(home, family).engine._loop._runner.kind == kind


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
    other = [message(3, "what is in this picture, which has a prompt of some length around it?")]  # in no other test
    assert llava.check(other)[0] < 16  # its first vector is another one
    jpeg = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url_of(PICTURES[0], "GIF")}}]}]
    llava.check(jpeg)


def test_the_vision_tower_looks_once_at_a_picture_that_comes_again(llava, monkeypatch):
    looked = []
    encoder = llava.engine._prompts._prompt_pictures._encoder
    real = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda prepared: looked.append(prepared.runs) or real(prepared))
    picture = Image.new("RGB", (40, 40), (1, 2, 3))
    content = [{"type": "image_url", "image_url": {"url": url_of(picture)}}, {"type": "text", "text": "?"}]
    for _ in range(3):
        llava.ask([{"role": "user", "content": content}])
    assert looked == [(16,)]


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl"])
def test_chunks_and_prefixes_keep_a_pictures_positions_and_its_attention(home, family):
    seeing = _loaded(home, family)
    long = "a text of some length " * 6
    seeing.check([message(long, 0, long, 1, "?")], [message(1, long, "?")])
    first = [message(long, 2, long)]
    ((text, num_prompt, _),) = seeing.ask(first)
    assert seeing.check([*first, {"role": "assistant", "content": text}, message("and ", 1, "?")])[0] > num_prompt // 2
    assert seeing.check([message(long, 2, "another end")])[0] > num_prompt // 4


def test_a_picture_that_does_not_fit_is_refused_before_it_is_looked_at(home, monkeypatch):
    seeing = _loaded(home, "idefics3")
    pictures = seeing.engine._prompts._prompt_pictures
    monkeypatch.setattr(pictures, "_max_length", 19)
    monkeypatch.setattr(pictures._encoder, "encode", None)
    error = refused(seeing, [message("and ", 0, "?")], ContextLengthError)
    assert error.param == "messages.0.content.1.image_url"
    assert "context is 19 tokens" in str(error)


def test_little_detail_is_another_picture_to_the_cache(llava):
    url = url_of(Image.effect_noise((900, 700), 90))
    memory = llava.engine._prompts._prompt_pictures._memory
    added = []
    for detail in ("auto", "low", "high", "low"):
        before = memory.num_bytes
        content = [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]
        llava.ask([{"role": "user", "content": content}])
        added.append(memory.num_bytes > before)
    assert added == [True, True, False, False]


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
    content = [{"type": "text", "text": "encode"}, {"type": "image_url", "image_url": {"url": url}}]
    assert refused(llava, [{"role": "user", "content": content}], kind).param == "messages.0.content.1.image_url"


def test_a_text_that_looks_like_a_picture_is_refused_beside_pictures(llava):
    assert "'<image>'" in str(refused(llava, [message(0, "this <image> is another")]))


def test_too_many_pictures_and_too_long_prompts_are_refused(llava):
    assert refused(llava, [message(*[0] * 9)]).param == "messages.0.content.8.image_url"
    refused(llava, [message(*[0] * 8, "word " * 400)], ContextLengthError)


def test_pictures_are_let_go_when_their_request_has_ended(llava):
    memory = llava.engine._prompts._prompt_pictures._memory
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
