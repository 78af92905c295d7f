"""The GLM API on a live server: its clients' own bodies, and what else may come."""

from __future__ import annotations

import asyncio
import itertools
import json
import math

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.types import Accepted, Delta, Finished

from .conftest import KEY, Gate, Recorder, error_of, serving, wait_until

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of Italy?"
BODY = {"prompt": QUESTION, "history": [["Hello!", "Hi."]], "max_length": 4096, "top_p": 0.7, "temperature": 0.95}
FIELDS = ["content", "prompt_tokens", "completion_tokens", "total_tokens", "model", "object"]


@pytest.fixture(scope="module")
def server(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), pocket_engine) as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


def events(response):
    """What each event of a stream holds; nothing else may be in it."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: {") and "\n" not in frame for frame in frames)
    return [json.loads(frame[6:]) for frame in frames]


def test_chat_answers_its_clients_to_the_letter(client):
    assert client.post("/chat", json=BODY).text == (
        '{"content":"What is the capital of Italy?","prompt_tokens":6,"completion_tokens":6,"total_tokens":12,'
        '"model":"mock","object":"chat.completion"}'
    )


def test_a_stream_sends_all_that_was_said_so_far(client):
    response = client.post("/chat-stream", json={**BODY, "prompt": "one two 三"})
    assert response.text == "".join(
        f'data: {{"content":"{content}","prompt_tokens":3,"completion_tokens":{made},"total_tokens":{3 + made},'
        '"model":"mock","object":"chat.completion"}\n\n'
        for content, made in [("one", 1), ("one two", 2), ("one two 三", 3), ("one two 三", 3)]
    )


def test_a_stream_of_pieces_sends_what_is_new_only(client):
    pieces = events(client.post("/chat-stream", json={**BODY, "prompt": "one two 三", "chunk": True}))
    assert [(piece["content"], piece["total_tokens"]) for piece in pieces] == [
        ("one", 4),
        (" two", 5),
        (" 三", 6),
        ("", 6),
    ]
    assert all(list(piece) == FIELDS for piece in pieces)


@pytest.mark.parametrize("chunk", [False, True])
def test_a_real_model_says_the_same_streamed_and_whole(client, chunk):
    body = {**BODY, "model": "pocket", "temperature": 0}
    whole = client.post("/chat", json=body).json()
    assert whole["content"] == "The capital of Italy is Rome."
    pieces = events(client.post("/chat-stream", json={**body, "chunk": chunk}))
    contents = [piece["content"] for piece in pieces]
    assert "".join(contents) == whole["content"] if chunk else contents[-1] == whole["content"]
    assert len(pieces) >= 2  # how many is up to the machine
    if not chunk:
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(contents))
    assert pieces[-1] == {**whole, "content": contents[-1]}


HISTORIES = [
    [["a", "b"], ["c", "d"]],
    [["a", "b", "c", "d"]],
    ["a", "b", "c", "d"],
    [[], ["a", "b"], [], ["c", "d"]],
]


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_history_in_pairs_and_a_flat_one_are_the_same_conversation(serve, http, history):
    engine = Recorder()
    assert http(serve(engine)).post("/chat", json={"prompt": "e", "history": history}).status_code == 200
    said = [(message["role"], message["content"]) for message in engine.requests[0].messages]
    assert said == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]


@pytest.mark.parametrize("history", [["a"], [["a"]], [["a"], ["b"]], [["a", "b", "c"]], ["a", "b", "c"]], ids=str)
def test_a_question_without_an_answer_names_the_history(client, history):
    assert error_of(client.post("/chat", json={"prompt": "x", "history": history}), 400)["param"] == "history"


@pytest.mark.parametrize(
    "history", [[["a", 1]], [["a", None]], "ab", {"a": "b"}, [["a", "b"], "c"], [[["a"]]]], ids=str
)
def test_a_history_of_something_else_names_it_too(client, history):
    assert error_of(client.post("/chat", json={"prompt": "x", "history": history}), 400)["param"].startswith("history")


def test_what_is_left_out_is_as_its_clients_expect(serve, http):
    engine = Recorder(context_length=100_000)
    engine.info = engine.info.__class__(
        id="mock", context_length=100_000, created=0, defaults={"top_k": 20, "top_p": 0.1}
    )
    server = serve(engine)
    http(server).post("/chat", json={"prompt": "one two", "history": None, "top_p": None})
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.95, 0.7, 20, 4094)
    assert engine.requests[0].cache_salt == server._state.key_check.key_id


def test_max_length_is_prompt_and_answer_together(serve, http):
    client = http(serve(MockEngine("word", num_tokens=1000, context_length=300)))
    assert client.post("/chat", json={"prompt": "a b c", "max_length": 10}).json()["total_tokens"] == 10
    assert client.post("/chat", json={"prompt": "a b c", "max_length": 5000}).json()["total_tokens"] == 300
    assert client.post("/chat", json={"prompt": "a b c"}).json()["total_tokens"] == 300


@pytest.mark.parametrize("path", ["/chat", "/chat-stream"])
def test_a_prompt_that_does_not_fit_is_refused_and_says_into_what(serve, http, path):
    client = http(serve(MockEngine(context_length=300)))
    error = error_of(client.post(path, json={"prompt": "word " * 20, "max_length": 20}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "max_length is 20" in error["message"]
    error = error_of(client.post(path, json={"prompt": "word " * 5000}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "context is 300" in error["message"]


class Elsewhere(Recorder):
    """A model whose tokens can't be counted here."""

    async def tokenize(self, text, *, add_special_tokens=False):
        raise UnsupportedFieldError("This model is elsewhere; its tokens are not known here.", param="model")

    async def tokenize_chat(self, request):
        return await self.tokenize("")


def test_of_a_model_elsewhere_max_length_limits_the_answer(serve, http):
    engine = Elsewhere()
    client = http(serve(engine))
    assert client.post("/chat", json={"prompt": "a b", "max_length": 7}).status_code == 200
    assert client.post("/chat", json={"prompt": "a b"}).status_code == 200
    assert [request.sampling.max_tokens for request in engine.requests] == [7, None]
    error = error_of(client.post("/tokenize", json={"prompt": "a", "max_length": 9}), 400)
    assert "elsewhere" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/chat", {"chunk": True}, "chunk"),
        ("/chat", {"stream": True}, "stream"),
        ("/chat", {"temperature": 3}, "temperature"),
        ("/chat", {"temperature": "0.5"}, "temperature"),
        ("/chat", {"top_p": -1}, "top_p"),
        ("/chat", {"max_length": 0}, "max_length"),
        ("/chat", {"prompt": None}, "prompt"),
        ("/chat-stream", {"chunk": 1}, "chunk"),
        ("/chat-stream", {"max_tokens": 5}, "max_tokens"),
        ("/embedding", {"prompt": []}, "prompt"),
        ("/embedding", {"prompt": [1]}, "prompt"),
        ("/embedding", {"prompt": 1}, "prompt"),
        ("/embedding", {"prompt": ["a"], "max_length": 5}, "max_length"),
        ("/embedding", {"prompt": ["a"] * 2049}, "prompt"),
        ("/tokenize", {"max_length": 0}, "max_length"),
        ("/tokenize", {"max_length": "9"}, "max_length"),
        ("/tokenize", {"max_length": 9, "prompt": ["a"]}, "prompt"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(client, path, fields, param):
    assert error_of(client.post(path, json={"prompt": "one", **fields}), 400)["param"] == param


def test_a_stream_that_fails_ends_in_the_error(serve, http, local_engine):
    def die(items):
        if len(engine.test_runner.steps) == 4:
            raise RuntimeError("out of luck")

    engine = local_engine(before_step=die)
    *pieces, last = events(http(serve(engine)).post("/chat-stream", json={"prompt": "a b c", "temperature": 0}))
    assert pieces
    assert set(last) == {"error"}
    assert "out of luck" in last["error"]["message"]


def test_a_client_that_leaves_stops_the_model(serve, http, local_engine):
    gate = Gate()
    engine = local_engine(max_length=100_000, before_step=lambda items: engine.test_runner.steps and gate(items))
    server = serve(engine)
    body = {"prompt": "a b c", "max_length": 90_000, "temperature": 0}  # a drawn token could end it
    with http(server).stream("POST", "/chat-stream", json=body) as response:
        assert next(response.iter_lines()).startswith("data: {")
        assert gate.entered.wait(60)
    gate.open()
    wait_until(lambda: engine.stats().num_cancelled == 1 and not server._state.active)


def test_100_at_once_each_get_their_own_answer(server):
    async def ask(client, index):
        body = {"prompt": f"question {index} 你好 🙂", "history": [["a", f"b{index}"]]}
        path = ("/chat", "/chat-stream")[index % 2]
        response = await client.post(path, json=body)
        return events(response)[-1]["content"] if index % 2 else response.json()["content"]

    async def main():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
            return await asyncio.gather(*(ask(client, index) for index in range(100)))

    assert asyncio.run(main()) == [f"question {index} 你好 🙂" for index in range(100)]


@pytest.mark.parametrize("model", ["mock", "pocket"])
def test_an_empty_prompt_is_answered(client, model):
    body = {"prompt": "", "model": model, "max_length": 100}
    assert client.post("/chat", json=body).status_code == 200
    assert list(events(client.post("/chat-stream", json=body))[-1]) == FIELDS


def test_tokenize_answers_its_clients_to_the_letter(client):
    response = client.post("/tokenize", json={"prompt": "Hello the sun", "max_length": 4096, "model": "pocket"})
    ids = client.post("/tokenize", json={"prompt": "Hello the sun", "model": "pocket"}).json()["tokens"]
    assert response.text == json.dumps({"tokenIds": ids, "tokens": ["Hello", " the", " sun"]}, separators=(",", ":"))


class WithSpecialTokens(MockEngine):
    """Begins with 901, 902 and ends with 903."""

    async def tokenize(self, text, *, add_special_tokens=False):
        ids = await super().tokenize(text)
        return [901, 902, *ids, 903] if add_special_tokens else ids


def test_ids_have_special_tokens_and_tokens_have_not_also_where_they_are_cut(serve, http):
    client = http(serve(WithSpecialTokens()))

    def tokenize(max_length):
        return client.post("/tokenize", json={"prompt": "a b c a", "max_length": max_length})

    assert tokenize(7).json() == {"tokenIds": [901, 902, 0, 1, 2, 0, 903], "tokens": ["a", "b", "c", "a"]}
    assert tokenize(5).json() == {"tokenIds": [901, 902, 0, 1, 903], "tokens": ["a", "b"]}
    assert tokenize(3).json() == {"tokenIds": [901, 902, 903], "tokens": []}
    assert error_of(tokenize(2), 400)["param"] == "max_length"


@pytest.mark.parametrize(
    "fields", [{}, {"add_special_tokens": True}, {"return_token_strs": True}, {"max_length": None}]
)
def test_without_max_length_tokenize_is_vllms(client, fields):
    answer = client.post("/tokenize", json={"prompt": "one two", **fields}).json()
    assert set(answer) == {"count", "max_model_len", "tokens", "token_strs"}


def test_max_length_beside_a_field_of_vllm_is_refused_by_name(client):
    body = {"prompt": "one", "max_length": 5, "add_special_tokens": False}
    assert error_of(client.post("/tokenize", json=body), 400)["param"] == "max_length"


def test_embedding_answers_its_clients_to_the_letter(client):
    response = client.post("/embedding", json={"prompt": ["The sun", "你好"], "model": "pocket"})
    answer = response.json()
    assert response.text.startswith('{"data":[[')
    assert response.text.endswith('],"model":"pocket","object":"embedding"}')
    openai = client.post("/v1/embeddings", json={"input": ["The sun", "你好"], "model": "pocket"}).json()["data"]
    assert answer["data"] == [each["embedding"] for each in openai]
    assert [math.hypot(*vector) for vector in answer["data"]] == pytest.approx([1, 1])
    assert client.post("/embedding", json={"prompt": "The sun", "model": "pocket"}).json()["data"] == answer["data"][:1]


def test_a_model_that_makes_no_embeddings_says_so(serve, http):
    engine = MockEngine()
    engine.info = engine.info.__class__(id="mock", context_length=10, created=0)
    assert error_of(http(serve(engine)).post("/embedding", json={"prompt": "a"}), 400)["param"] == "model"


def test_an_unknown_model_is_a_404(client):
    for path in ("/chat", "/chat-stream", "/embedding"):
        assert error_of(client.post(path, json={"prompt": "a", "model": "gpt-4"}), 404)["code"] == "model_not_found"


def test_what_a_model_thinks_first_is_no_part_of_the_answer(serve, http):
    class Thinker(MockEngine):
        async def generate(self, request):
            yield Accepted(0)
            yield Delta("", reasoning="hm")
            yield Delta("yes")
            yield Finished("stop", 7, 3)

    client = http(serve(Thinker()))
    assert client.post("/chat", json={"prompt": "a"}).json()["content"] == "yes"
    whole = client.post("/chat", json={"prompt": "a"}).json()
    assert (whole["prompt_tokens"], whole["total_tokens"]) == (7, 10), "counted at the end"
    assert events(client.post("/chat-stream", json={"prompt": "a"}))[-1] == whole
    assert [each["content"] for each in events(client.post("/chat-stream", json={"prompt": "a"}))] == ["yes", "yes"]


def test_it_is_off_where_the_settings_say_so(serve, http):
    client = http(serve(compat=""))
    for path in ("/chat", "/chat-stream", "/embedding"):
        error_of(client.post(path, json={"prompt": "a"}), 404)
    assert error_of(client.post("/tokenize", json={"prompt": "a", "max_length": 5}), 400)["param"] == "max_length"
