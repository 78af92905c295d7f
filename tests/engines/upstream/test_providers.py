"""Where each provider is asked, with which headers, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest

from llmapi_kit.checkpoints.providers import PROVIDERS
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError, ModelNotFoundError, UnsupportedFieldError, UpstreamError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Finished, ImageRequest

from .conftest import ask, run
from .faulty import CANARY, GOOD, answer, error, events

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n...").decode()


def make(name, **options):
    return make_engine(parse_spec(name), load_settings(), **options)


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"compatible", "vllm", "kit", "azure"}))
def test_a_provider_is_known_by_its_name_and_asks_for_its_key(name, monkeypatch):
    provider = PROVIDERS[name]
    assert provider.base_url.startswith(("https://", "http://127.0.0.1:"))
    if provider.needs_key:
        with pytest.raises(ConfigError, match=provider.key_variable):
            make(f"{name}:some-model")
    monkeypatch.setenv(provider.key_variable, CANARY)
    with contextlib.closing(make(f"{name}:some-model")) as engine:
        assert (engine.info.id, engine.info.owned_by) == ("some-model", name)
        assert engine.readiness().ready
        assert CANARY not in repr(engine.info)


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("openai:gpt-5", ("chat", "tools")),
        ("openai:gpt-3.5-turbo-instruct", ("completions",)),
        ("openai:text-embedding-3-small", ("embeddings", "dimensions")),
        ("openai:text-embedding-ada-002", ("embeddings",)),
        ("openai:dall-e-3", ("images",)),
        ("openai:gpt-image-1", ("images",)),
        ("anthropic:claude-opus-4-6", ("chat", "tools")),
        ("ollama:llama3.2:3b", ("chat", "completions", "tools", "embeddings")),
        ("ollama:nomic-embed-text", ("embeddings",)),
        ("welm:xl", ("chat", "completions")),
    ],
)
def test_what_a_model_can_do_is_told_by_its_provider_and_name(name, capabilities):
    with contextlib.closing(make(name, api_key="k")) as engine:
        assert engine.info.capabilities == capabilities
        assert engine.info.id == name.partition(":")[2]


def test_openai_is_asked_with_the_key_and_nothing_else_of_ours(upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-ours")
    server, engine = upstream(events(*GOOD), name="openai:{url}#m")
    run(engine)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["authorization"] == f"Bearer {CANARY}"
    assert asked.headers["openai-organization"] == "org-of-ours"
    assert asked.body["model"] == "m"


def test_headers_meant_for_openai_go_to_nobody_else(upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-ours")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-ours")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-of-ours")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: gateway-of-ours")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://of-ours.invalid/v1")
    for name in ("openai+{url}#m", "vllm:{url}#m", "deepseek:{url}#m"):
        server, engine = upstream(events(*GOOD), name=name)
        run(engine)
        assert "of-ours" not in str(server.asked[0])


def test_who_asks_for_no_key_gets_none(upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-ours")
    for name in ("ollama:{url}#m", "openai+{url}#m"):
        server, engine = upstream(events(*GOOD), name=name, api_key=None)
        run(engine)
        assert "authorization" not in server.asked[0].headers


def test_azure_is_asked_for_its_deployment_with_its_own_header(upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_API_VERSION", "2025-01-01")
    server, engine = upstream(events(*GOOD), name="azure:{url}#my-deployment")
    assert run(engine)[0] == "one two"
    (asked,) = server.asked
    assert asked.path == "/v1/openai/deployments/my-deployment/chat/completions?api-version=2025-01-01"
    assert asked.headers["api-key"] == CANARY
    assert "authorization" not in asked.headers


def test_azure_keys_take_turns(upstream):
    server, engine = upstream(error(429), events(*GOOD), name="azure:{url}#m", api_key="k-first,k-second")
    run(engine)
    assert [asked.headers["api-key"] for asked in server.asked] == ["k-first", "k-second"]


def test_a_content_filter_is_told(upstream):
    stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}
    _, engine = upstream(events(*GOOD[:2], stop))
    assert run(engine)[1][-1] == Finished("content_filter", 0, 1)


def test_welm_answers_conversations(upstream):
    said = {"choices": [{"index": 0, "text": "Fine.\n用户：And you?", "finish_reason": "finished"}]}  # noqa: RUF001
    server, engine = upstream(answer(said), name="welm:{url}#xl")
    text, seen = run(engine, ask("How are you?", temperature=0))
    assert text == "Fine."
    assert seen[-1].reason == "stop"
    (asked,) = server.asked
    assert asked.path == "/v1/completions"
    assert asked.body["prompt"] == "用户：How are you?\n助手："  # noqa: RUF001
    assert not {"stream", "stop"} & set(asked.body)


def test_welm_cuts_at_stop_texts_itself(upstream):
    said = {"choices": [{"index": 0, "text": "one two three", "finish_reason": "length"}]}
    _, engine = upstream(answer(said), name="welm:{url}#xl")
    request = GenerationRequest(prompt="Count", sampling=SamplingParams(stop=(" three", " two")))
    assert run(engine, request)[0] == "one"


def test_an_answer_without_a_stream_is_read_whole(upstream):
    said = {
        "choices": [{"index": i, "text": f"t{i}", "finish_reason": "stop", "logprobs": None} for i in range(2)],
        "usage": {"prompt_tokens": 4, "completion_tokens": 6},
    }
    _, engine = upstream(answer(said))
    _, seen = run(engine, GenerationRequest(prompt="x", n=2, best_of=3))
    assert [(e.num_prompt_tokens, e.num_completion_tokens) for e in seen if isinstance(e, Finished)] == [(4, 3), (4, 3)]


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[]",
        {"data": []},
        {"data": [{"embedding": []}]},
        {"data": [{"embedding": ["x"]}]},
        {"data": [{"embedding": [1.0], "index": 7}]},
        {"error": {"message": "no"}},
    ],
)
def test_vectors_that_are_none_are_an_error(upstream, said):
    _, engine = upstream(answer(said))
    with pytest.raises(UpstreamError):
        asyncio.run(engine.embed(["a"]))


def test_vectors_come_in_order_and_of_length_one(upstream):
    data = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
    server, engine = upstream(answer({"data": data, "usage": {"prompt_tokens": 5}}))
    embedded = asyncio.run(engine.embed(["a", "bcde"]))
    assert [each.vector for each in embedded] == [(0.6, 0.8), (0.0, 1.0)]
    assert sum(each.num_prompt_tokens for each in embedded) == 5
    assert server.asked[0].body == {"model": "m", "input": ["a", "bcde"], "encoding_format": "float"}


def test_pictures_come_as_data_or_as_addresses(upstream):
    data = [{"b64_json": PNG, "revised_prompt": "a big cat"}, {"url": "https://host/cat.png"}]
    server, engine = upstream(answer({"created": 1, "data": data}))
    first, second = asyncio.run(engine.generate_images(ImageRequest(prompt="cat", n=2, size="256x256")))
    assert (first.media_type, first.revised_prompt, first.data[:4]) == ("image/png", "a big cat", b"\x89PNG")
    assert second.url == "https://host/cat.png"
    assert server.asked[0].path == "/v1/images/generations"
    assert server.asked[0].body == {
        "model": "m",
        "prompt": "cat",
        "n": 2,
        "size": "256x256",
        "response_format": "b64_json",
    }


@pytest.mark.parametrize("entry", [{}, {"b64_json": "***"}, {"url": "javascript:alert(1)"}, {"url": 3}, 7])
def test_pictures_that_are_none_are_an_error(upstream, entry):
    _, engine = upstream(answer({"data": [entry]}))
    with pytest.raises(UpstreamError):
        asyncio.run(engine.generate_images(ImageRequest(prompt="cat")))


def test_what_a_provider_can_not_do_is_refused_by_name():
    with contextlib.closing(make("anthropic:claude", api_key="k")) as engine:
        for work in (engine.tokenize("a"), engine.embed(["a"]), engine.generate_images(ImageRequest(prompt="a"))):
            with pytest.raises(UnsupportedFieldError):
                asyncio.run(work)


def test_recommended_sampling_is_what_a_provider_honours():
    with contextlib.closing(make("vllm:http://127.0.0.1:1/v1#m", sampling={"top_k": 5})) as engine:
        assert engine.info.defaults == {"top_k": 5}
    with pytest.raises(ConfigError, match="top_k"):
        make("openai:gpt-5", api_key="k", sampling={"top_k": 5})


def test_keys_on_their_way_over_a_plain_network_are_warned_of(caplog):
    make("openai+http://example.com/v1#m", api_key="k").close()
    assert "unencrypted" in caplog.text
    caplog.clear()
    make("openai+http://127.0.0.1:1/v1#m", api_key="k").close()
    assert not caplog.text


def test_an_address_of_ones_own_takes_the_place_of_the_providers(upstream):
    server, _ = upstream(events(*GOOD))
    with contextlib.closing(make("groq:llama", api_key=CANARY, base_url=server.url)) as engine:
        assert run(engine)[0] == "one two"


def test_a_user_in_an_address_is_refused_without_showing_it():
    with pytest.raises(ModelNotFoundError) as caught:
        parse_spec("kit:http://me:secret@host/v1#m")
    assert "secret" not in str(caught.value)
