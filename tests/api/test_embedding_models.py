"""A chat model and an embedding model at one address: who answers what, over the real clients and plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import struct

import numpy as np
import openai
import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.load_request import make_engine

from .conftest import KEY, chat, error_of, serving

EMBED = "pocket-embed"
TEXTS = ["the dog runs", "a small cat sleeps", "我喜欢苹果"]
DOCUMENTS = ["The economy of France", "A nurse in the hospital", "A train to London"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    engines = (MockEngine(), make_engine(parse_spec(EMBED), Settings()))
    with serving(tmp_path_factory.mktemp("home"), *engines) as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


@pytest.fixture(scope="module")
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def vectors(server):
    """What the engine itself says."""
    embedded = asyncio.run(server.engines[1].embed(TEXTS))
    return [list(each.vector) for each in embedded]


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_openai_client_gets_the_engines_vectors(sdk, vectors, encoding):
    answer = sdk.embeddings.create(model=EMBED, input=TEXTS, encoding_format=encoding)
    got = [each.embedding for each in answer.data]
    if encoding == "base64":
        got = [struct.unpack(f"<{len(each) * 3 // 16}f", base64.b64decode(each)) for each in got]
    np.testing.assert_allclose(got, vectors, atol=1e-6)
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 8
    assert answer.model == EMBED


def test_token_ids_are_embedded_as_the_text_that_they_are(sdk, client, vectors):
    ids = client.post("/tokenize", json={"model": EMBED, "prompt": TEXTS[0]}).json()["tokens"]
    answer = sdk.embeddings.create(model=EMBED, input=[ids])
    np.testing.assert_allclose(answer.data[0].embedding, vectors[0], atol=1e-6)


def test_dimensions_shorten_vectors_to_what_the_model_was_made_for(sdk, vectors):
    got = sdk.embeddings.create(model=EMBED, input=TEXTS, dimensions=32).data[1].embedding
    cut = np.array(vectors[1][:32])
    np.testing.assert_allclose(got, cut / np.linalg.norm(cut), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="can have 32, 64, 128") as caught:
        sdk.embeddings.create(model=EMBED, input=TEXTS, dimensions=33)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt_name": "query"}, "prompt_name", "no prompts"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1, or -1"),
        ({"truncate_prompt_tokens": 5, "truncate": "NONE"}, "truncate", "send one of the two"),
        ({"truncate": "MIDDLE"}, "truncate", ""),
        ({"input_type": "query"}, "input_type", "not supported"),
    ],
)
def test_a_field_that_can_not_be_honoured_is_refused_by_name(client, fields, param, words):
    error = error_of(client.post("/v1/embeddings", json={"model": EMBED, "input": "a", **fields}), 400)
    assert error["param"].startswith(param)
    assert words in error["message"]


def test_an_input_is_cut_only_where_the_request_says_so(client):
    def num_tokens(**fields):
        body = {"model": EMBED, "input": "the dog runs in the park", **fields}
        return client.post("/v1/embeddings", json=body).json()["usage"]["prompt_tokens"]

    assert num_tokens() == num_tokens(truncate=False) == num_tokens(truncate_prompt_tokens=-1) == 6
    assert num_tokens(truncate_prompt_tokens=2) == num_tokens(truncate_prompt_tokens=2, truncate="START") == 2


def test_a_chat_model_says_that_it_embeds_whole_inputs_only(serve, http):
    class Plain(MockEngine):
        def __init__(self):
            super().__init__()
            self.info = type(self.info)("plain", 100, 1, capabilities=("chat", "embeddings"))

    client = http(serve(Plain()))
    for field, value in (("truncate", True), ("prompt_name", "query")):
        error = error_of(client.post("/v1/embeddings", json={"input": "a", field: value}), 400)
        assert error["param"].startswith(field[:5])
        assert "as they are" in error["message"]
    error = error_of(client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}), 400)
    assert (error["param"], "scores no texts" in error["message"]) == ("model", True)


def test_where_no_model_is_named_and_the_default_can_not_rerank_the_first_that_can_does(serve, http):
    class Plain(MockEngine):
        def __init__(self):
            super().__init__(name="plain")
            self.info = type(self.info)("plain", 100, 1, capabilities=("chat",))

    client = http(serve(Plain(), MockEngine()))
    assert client.post("/v1/rerank", json={"query": "a", "documents": ["a"]}).json()["model"] == "mock"
    error = error_of(client.post("/v1/rerank", json={"model": "plain", "query": "a", "documents": ["a"]}), 400)
    assert error["param"] == "model"


def test_where_no_model_is_named_the_embedding_model_embeds_and_the_default_chats(client, vectors):
    answer = client.post("/v1/embeddings", json={"input": TEXTS}).json()
    assert answer["model"] == EMBED
    glm = client.post("/embedding", json={"prompt": TEXTS}).json()
    assert (glm["model"], glm["object"]) == (EMBED, "embedding")
    np.testing.assert_allclose(glm["data"], vectors, atol=1e-6)
    start = client.post("/v1/chat/start", json={"bot_type": "gpt-embedding", "settings": {}}).json()
    ask = client.post("/v1/chat/ask", json={"session": start["session"], "content": TEXTS[0]}).json()
    np.testing.assert_allclose(json.loads(ask["reply"]), vectors[0], atol=1e-6)
    assert client.post("/v1/chat/completions", json=chat()).json()["model"] == "mock"
    assert client.post("/v1/rerank", json={"query": "a", "documents": ["a"]}).json()["model"] == EMBED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat()),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5}),
        ("/chat", {"prompt": "a"}),
    ],
)
def test_who_asks_an_embedding_model_to_write_is_told_what_it_is(client, path, body):
    for fields in ({}, {"stream": True} if path != "/chat" else {}):
        response = client.post(path, json={**body, **fields, "model": EMBED})
        assert response.status_code == 400
        assert "is an embedding model and writes no text. Use POST /v1/embeddings" in response.text


def test_models_say_what_each_is_for(client):
    mock, embed = client.get("/v1/models").json()["data"]
    assert "chat" in mock["llmapi_kit"]["capabilities"]
    assert embed["llmapi_kit"]["capabilities"] == ["embeddings", "dimensions", "rerank"]
    assert embed["llmapi_kit"]["embedding_size"] == 128
    assert embed["llmapi_kit"]["prompts"] == []


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank_answers_as_cohere_and_jina_do(client, path):
    documents = [*DOCUMENTS, {"text": "The doctor"}]
    body = {"model": EMBED, "query": "The doctor treated the patient", "documents": documents, "top_n": 2}
    answer = client.post(path, json=body).json()
    assert [each["index"] for each in answer["results"]] == [3, 1]
    first, second = answer["results"]
    assert first["relevance_score"] > second["relevance_score"] > 0.3
    assert [first["document"], second["document"]] == [{"text": "The doctor"}, {"text": DOCUMENTS[1]}]
    assert answer["method"] == "cosine"
    assert answer["usage"]["total_tokens"] > 8
    bare = client.post(path, json={**body, "return_documents": False}).json()["results"]
    assert bare == [{name: each[name] for name in ("index", "relevance_score")} for each in answer["results"]]


def test_score_answers_as_vllm_does(client):
    answer = client.post("/v1/score", json={"model": EMBED, "text_1": "a dog", "text_2": ["a dog", *DOCUMENTS]}).json()
    assert answer["object"] == "list"
    assert [(each["index"], each["object"]) for each in answer["data"]] == [(i, "score") for i in range(4)]
    assert answer["data"][0]["score"] == pytest.approx(1, abs=1e-5)
    pairs = {"text_1": ["a dog", DOCUMENTS[0]], "text_2": [DOCUMENTS[2], DOCUMENTS[0]]}
    scores = [each["score"] for each in client.post("/score", json={"model": EMBED, **pairs}).json()["data"]]
    assert scores == pytest.approx([answer["data"][3]["score"], 1], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/rerank", {"top_n": 0}, "top_n"),
        ("/v1/rerank", {"documents": []}, "documents"),
        ("/v1/rerank", {"documents": ["a"] * 2049}, "documents"),
        ("/v1/rerank", {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ("/v1/rerank", {"rank_fields": ["title"]}, "rank_fields"),
        ("/v1/rerank", {"documents": [{"text": "a", "title": "b"}]}, "documents.0.title"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/v1/score", {"text_2": []}, "text_2"),
    ],
)
def test_a_field_of_rerank_and_score_that_can_not_be_honoured_is_refused_by_name(client, path, fields, param):
    body = {"query": "a", "documents": ["a"]} if "rerank" in path else {"text_1": "a", "text_2": "b"}
    error = error_of(client.post(path, json={"model": EMBED, **body, **fields}), 400)
    assert error["param"] == param


def test_tokens_that_were_read_are_counted(client):
    def used():
        return sum(each["embedding_tokens"] for each in client.get("/v1/usage").json()["data"])

    before = used()
    body = {"model": EMBED, "query": "the dog", "documents": ["the dog", "a cat"]}
    num_tokens = client.post("/v1/rerank", json=body).json()["usage"]["total_tokens"]
    assert num_tokens == 6  # the query once
    assert used() == before + num_tokens
