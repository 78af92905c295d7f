"""Pictures in chat requests over HTTP, to a small random model that sees."""

from __future__ import annotations

import base64
import io
import json

import anthropic
import numpy as np
import openai
import pytest
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from tests.checkpoints.seeing_folders import make_seeing

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


@pytest.mark.slow
def test_the_sdk_gets_the_same_answer_whole_and_streamed(client):
    options = {"model": "llava", "messages": asking(url_of()), "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**options, stream=True)
    )
    assert whole.choices[0].message.content == streamed
    assert whole.usage.prompt_tokens_details.model_dump()["image_tokens"] == 16


@pytest.mark.parametrize("detail", [None, "auto", "low", "high", "original"])
def test_every_detail_is_taken_and_none_makes_a_small_picture_larger(client, detail):
    image = {} if detail is None else {"detail": detail}
    answer = client.chat.completions.create(
        model="llava", messages=asking(url_of(), **image), max_tokens=3, temperature=0
    )
    assert answer.usage.prompt_tokens == 28


def test_only_a_prompt_with_pictures_has_image_tokens(client, server, http):
    body = {"model": "llava", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    answer = http(server).post("/v1/chat/completions", json=body).json()
    assert "image_tokens" not in answer["usage"]["prompt_tokens_details"]
    body |= {"messages": asking(url_of(), url_of(seed=1)), "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**body))
    assert chunks[-1].usage.prompt_tokens_details.model_dump()["image_tokens"] == 32


def test_the_list_of_models_says_which_sees(client):
    capabilities = {model.id: model.model_extra["llmapi_kit"]["capabilities"] for model in client.models.list()}
    assert "vision" in capabilities["llava"]
    assert "vision" not in capabilities["mock"]


@pytest.mark.slow
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
        (asking("data:image/png;base64,AAAA"), "messages.0.content.0.image_url", "not a picture"),
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


def test_responses_and_messages_take_the_same_pictures(client, server):
    url = url_of(seed=3)
    options = {"model": "llava", "temperature": 0}
    chat_answer = client.chat.completions.create(messages=asking(url), max_tokens=8, **options)
    content = [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": "What is it?"},
    ]
    response = client.responses.create(
        input=[{"role": "user", "content": content}], max_output_tokens=8, store=True, **options
    )
    assert response.output_text == chat_answer.choices[0].message.content
    assert response.usage.input_tokens == chat_answer.usage.prompt_tokens
    assert response.usage.input_tokens_details.model_dump()["image_tokens"] == 16
    assert client.responses.input_items.list(response.id).data[0].content[0].image_url == url
    source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as other:
        message = other.messages.create(
            model="llava",
            max_tokens=8,
            messages=[{"role": "user", "content": blocks}],
            extra_body={"temperature": 0},  # which the newest client does not name any more
        )
    assert message.content[0].text == chat_answer.choices[0].message.content
    used = message.usage
    assert used.input_tokens + used.cache_read_input_tokens == chat_answer.usage.prompt_tokens


def test_a_response_goes_on_after_one_with_a_picture(client):
    options = {"model": "llava", "temperature": 0, "max_output_tokens": 4}
    content = [{"type": "input_image", "image_url": url_of(seed=4)}, {"type": "input_text", "text": "What is it?"}]
    first = client.responses.create(input=[{"role": "user", "content": content}], store=True, **options)
    second = client.responses.create(input="And now?", previous_response_id=first.id, **options)
    assert second.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "{}"}]}]}),
        (
            "/v1/messages",
            {
                "max_tokens": 3,
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "{}"}}]},
                ],
            },
        ),
    ],
)
def test_a_model_for_text_and_a_foreign_address_refuse_in_the_apis_own_words(server, http, path, body):
    def post(model, url):
        answer = http(server).post(path, content=json.dumps({**body, "model": model}).replace("{}", url))
        assert answer.status_code == 400
        return answer.json()["error"]

    field = "input" if path == "/v1/responses" else "messages"
    assert post("mock", url_of())["param"] == field
    assert "takes text only" in post("mock", url_of())["message"]
    assert "image_hosts" in post("llava", "https://example.com/a.png")["message"]


def test_the_result_of_a_tool_may_be_a_picture(server):
    blocks = [{"type": "image", "source": {"type": "url", "url": url_of(seed=5)}}]
    used = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    messages = [
        {"role": "user", "content": "Look!"},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": blocks}]},
    ]
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        with_picture = client.messages.count_tokens(model="llava", messages=messages).input_tokens
        messages[2]["content"][0]["content"] = ""
        assert with_picture == client.messages.count_tokens(model="llava", messages=messages).input_tokens + 16
