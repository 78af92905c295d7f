"""Pictures in chat requests over HTTP, to a small random model that sees."""

from __future__ import annotations

import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from tests.models.seeing_folders import make_seeing

from .conftest import KEY, Recorder, chat, load_settings


def url_of(width=40, height=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def asking(*urls, **image):
    """Messages with pictures and a question."""
    parts = [{"type": "image_url", "image_url": {"url": url, **image}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("seeing")
    model = kit.load(make_seeing(home / "llava", "llava"), max_slots=4, context_length=512)
    settings = load_settings(home=home)
    server = Server([model.engine, MockEngine()], host="127.0.0.1", port=0, api_key=KEY, settings=settings)
    server.start()
    yield server
    server.stop(drain_s=0)
    model.close()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
        yield client


def test_the_sdk_gets_the_same_answer_whole_and_streamed(client):
    options = {"model": "llava", "messages": asking(url_of()), "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**options, stream=True)
    )
    assert whole.choices[0].message.content == streamed
    assert whole.usage.prompt_tokens > 16  # a picture takes as many


@pytest.mark.parametrize("detail", [None, "auto", "low", "high", "original"])
def test_every_detail_is_taken_as_one_way_of_looking(client, detail):
    image = {} if detail is None else {"detail": detail}
    answer = client.chat.completions.create(
        model="llava", messages=asking(url_of(), **image), max_tokens=3, temperature=0
    )
    assert answer.usage.prompt_tokens == 28


def test_the_list_of_models_says_which_sees(client):
    capabilities = {model.id: model.model_extra["llmapi_kit"]["capabilities"] for model in client.models.list()}
    assert "vision" in capabilities["llava"]
    assert "vision" not in capabilities["mock"]


def test_a_body_may_be_larger_where_a_model_sees(server, http, serve):
    large = asking(url_of(1000, 900))
    assert len(str(large)) > 3_000_000
    answer = http(server).post("/v1/chat/completions", json={"model": "llava", "messages": large, "max_tokens": 1})
    assert answer.status_code == 200
    refused = http(serve()).post("/v1/chat/completions", json={"messages": large})
    assert refused.status_code == 413


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        (asking("https://example.com/cat.png"), "messages.0.content.0.image_url", "image_hosts"),
        (asking("data:image/png;base64,AAAA"), "messages.0.content.0.image_url", "no picture"),
        (asking(url_of(1, 1)), "messages.0.content.0.image_url", "1 x 1"),
        (asking(*[url_of()] * 9), "messages.0.content.8.image_url", "at most 8"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0.image_url", "has no image_url"),
        ([{"role": "system", "content": [{"type": "image_url"}]}], "messages.0.content.0.type", "system take text"),
        (asking(url_of(), detail="best"), "messages.0.content.0.image_url.detail", "detail"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages.0.content.0.type", "input_audio"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_can_not_be_looked_at_is_refused_by_its_place(server, http, messages, param, words, stream):
    body = {"model": "llava", "messages": messages, "stream": stream, "max_tokens": 2}
    answer = http(server).post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert words in answer.json()["error"]["message"]


def test_a_model_for_text_refuses_pictures_by_name(client):
    with pytest.raises(openai.BadRequestError, match="takes text only") as caught:
        client.chat.completions.create(model="mock", messages=asking(url_of()))
    assert caught.value.body["param"] == "messages.0.content.0.image_url"


def test_parts_of_text_alone_are_one_text_for_every_model(serve, http):
    engine = Recorder()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert http(serve(engine)).post("/v1/chat/completions", json=chat(parts)).status_code == 200
    assert engine.requests[0].messages[0]["content"] == "one\ntwo"
