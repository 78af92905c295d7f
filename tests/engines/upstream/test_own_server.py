"""Another server of ours as the upstream: what comes through is what it answers, to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import openai
import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, ModelLoadError, ModelNotFoundError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Finished
from tests.api.conftest import KEY, serving, wait_until

from .conftest import ask, collect, run

LOOK_UP = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
SHAPE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def behind(tmp_path_factory, pocket_engine):
    """The server that answers."""
    slow = MockEngine(name="slow", delay_s=0.005, num_tokens=2000)
    with serving(tmp_path_factory.mktemp("behind"), pocket_engine, MockEngine(), slow) as server:
        yield server


@pytest.fixture(scope="module")
def front(tmp_path_factory, behind):
    """The server in front of it."""
    engines = [load(behind, name) for name in ("pocket", "mock", "slow")]
    with serving(tmp_path_factory.mktemp("front"), *engines) as server:
        yield server


def load(server, model="", provider="kit", api_key=KEY, **settings):
    name = f"{provider}:{server.url}/v1" + (f"#{model}" if model else "")
    return make_engine(parse_spec(name), load_settings(**settings), api_key=api_key)


@pytest.fixture(scope="module")
def both(front, behind):
    """Clients of the two."""
    with front.client(max_retries=0) as through, behind.client(max_retries=0) as direct:
        yield through, direct


def same(both, ask_it):
    """What both answer, without what differs each time."""
    through, direct = (_bare(ask_it(client)) for client in both)
    assert through == direct
    return through


def _bare(answer):
    if isinstance(answer, openai.Stream):
        return _gathered([chunk.model_dump() for chunk in answer])
    dump = answer.model_dump()
    for name in ("id", "created"):
        dump.pop(name, None)
    if dump.get("usage"):
        dump["usage"].pop("prompt_tokens_details", None)  # what was asked first is cached for the second
    for choice in dump.get("choices", ()):
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            call.pop("id")
    return dump


def _gathered(chunks):
    """A stream's text by answer, its ends and its usage: where pieces end is chance."""
    texts, ends, usage = {}, {}, None
    for chunk in chunks:
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            delta = choice.get("delta") or choice
            texts[choice["index"]] = texts.get(choice["index"], "") + (delta.get("content") or delta.get("text") or "")
            if choice["finish_reason"]:
                ends[choice["index"]] = choice["finish_reason"]
    return texts, ends, usage and usage["total_tokens"]


CHATS = {
    "greedy": {"temperature": 0},
    "with a seed": {"temperature": 0.8, "seed": 5, "top_p": 0.9},
    "several": {"temperature": 1, "seed": 7, "n": 3, "max_tokens": 12},
    "cut short": {"temperature": 0, "max_tokens": 2},
    "with a stop": {"temperature": 0, "stop": [" is"]},
    "with logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 2, "max_tokens": 4},
    "as JSON": {
        "temperature": 0,
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SHAPE}},
    },
    "by a pattern": {"temperature": 0, "extra_body": {"guided_regex": "[a-c]{4}"}},
    "one of two": {"temperature": 0, "extra_body": {"guided_choice": ["yes", "no"]}},
    "with beams": {"extra_body": {"num_beams": 3}, "max_tokens": 6},
    "with samplers": {"seed": 3, "extra_body": {"top_k": 4, "min_p": 0.05, "repetition_penalty": 1.2}},
    "with a forced call": {
        "temperature": 0,
        "tools": [LOOK_UP],
        "tool_choice": "required",
    },
    "with tools": {
        "temperature": 0,
        "tools": [LOOK_UP],
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHATS)
def test_a_conversation_through_us_is_the_same(both, what):
    fields = {"model": "pocket", "messages": FRANCE, **CHATS[what]}
    answer = same(both, lambda client: client.chat.completions.create(**fields))
    assert all(choice["message"]["content"] or choice["message"]["tool_calls"] for choice in answer["choices"])


@pytest.mark.parametrize("what", [what for what in CHATS if "call" not in what and "tools" not in what])
def test_so_is_a_stream(both, what):
    fields = {"model": "pocket", "messages": FRANCE, "stream": True, **CHATS[what]}
    texts, ends, usage = same(
        both, lambda client: client.chat.completions.create(**fields, stream_options={"include_usage": True})
    )
    assert set(texts) == set(ends) == set(range(fields.get("n", 1)))
    assert usage


def test_a_streamed_tool_call_is_the_same(both):
    fields = {"model": "pocket", "messages": FRANCE, "tools": [LOOK_UP], "tool_choice": "required", "temperature": 0}

    def call_of(client):
        pieces = [
            call
            for chunk in client.chat.completions.create(**fields, stream=True)
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
        ]
        assert pieces[0].id
        return pieces[0].function.name, "".join(piece.function.arguments or "" for piece in pieces)

    through, direct = map(call_of, both)
    assert through == direct
    assert through[0] == "get_weather"
    json.loads(through[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "The sun", "max_tokens": 8, "temperature": 0},
        {"prompt": ["The sun", "The moon"], "max_tokens": 4, "temperature": 0, "n": 1},
        {"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0},
        {"prompt": "The sun", "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2},
        {"prompt": "The sun", "max_tokens": 4, "seed": 3, "n": 2, "best_of": 4},
    ],
    ids=["text", "two texts", "token ids", "echo and logprobs", "best of"],
)
def test_a_completion_through_us_is_the_same(both, fields):
    same(both, lambda client: client.completions.create(model="pocket", **fields))


@pytest.mark.parametrize("value", ["The sun", ["The sun", "A longer text about the moon"], [5, 6]])
def test_vectors_through_us_are_the_same(both, value):
    answer = same(both, lambda client: client.embeddings.create(model="pocket", input=value))
    assert answer["usage"]["prompt_tokens"]


def test_pictures_through_us_are_the_same(both):
    answer = same(both, lambda client: client.images.generate(model="mock", prompt="A lighthouse", n=2, size="32x16"))
    assert len({image["b64_json"] for image in answer["data"]}) == 2


def test_token_ids_through_us_are_the_same(front, behind, both):
    through, direct = both

    def ids(client, **body):
        return client.post("/../tokenize", cast_to=object, body={"model": "pocket", **body})["tokens"]

    for body in ({"prompt": "Hello there"}, {"messages": FRANCE}):
        assert ids(through, **body) == ids(direct, **body)
    text = through.post("/../detokenize", cast_to=object, body={"model": "pocket", "tokens": [5, 6, 7]})
    assert text == direct.post("/../detokenize", cast_to=object, body={"model": "pocket", "tokens": [5, 6, 7]})


WRONG = {
    "too long": ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
    "a token id that is none": ({"messages": FRANCE, "logit_bias": {"999999": 1}}, "logit_bias"),
    "a pattern that is none": ({"messages": FRANCE, "extra_body": {"guided_regex": "(("}}, "guided_regex"),
    "a variable that is not read": (
        {"messages": FRANCE, "extra_body": {"chat_template_kwargs": {"nobody_reads": 1}}},
        "chat_template_kwargs.nobody_reads",
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_upstream_refuses_is_refused_alike(both, what, stream):
    fields, param = WRONG[what]
    errors = []
    for client in both:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="pocket", stream=stream, **fields)
        errors.append((refused.value.param, refused.value.code, refused.value.body["message"].removeprefix("kit: ")))
    assert errors[0] == errors[1]
    assert errors[0][0] == param


def test_models_stand_side_by_side_with_who_serves_them(front, tmp_path, behind):
    with serving(tmp_path, MockEngine(name="here"), load(behind, "pocket")) as server, server.client() as client:
        cards = {card.id: card for card in client.models.list()}
    assert {name: card.owned_by for name, card in cards.items()} == {"here": "llmapi_kit", "pocket": "kit"}
    assert KEY not in str(cards)


def test_what_the_upstream_serves_is_learnt_from_it(behind):
    with contextlib.closing(load(behind)) as engine:
        told = behind.engines[0].info
        assert (engine.info.id, engine.info.context_length) == ("pocket", told.context_length)
        assert (engine.info.capabilities, engine.info.defaults) == (told.capabilities, told.defaults)


def test_a_model_that_is_not_there_is_not_loaded(behind):
    with pytest.raises(ModelNotFoundError, match="pocket"):
        load(behind, "nobody")


def test_a_key_that_is_refused_is_told_at_load_without_showing_it(behind):
    with pytest.raises(ModelLoadError, match="refuses the API key") as caught:
        load(behind, api_key="sk-llmapi-wrong-0123456789abcdef")
    assert "wrong" not in str(caught.value)


def test_an_address_where_nobody_is_is_told_at_load():
    with pytest.raises(ModelLoadError, match="can't be reached"):
        make_engine(parse_spec("kit:http://127.0.0.1:9/v1"), load_settings(upstream_connect_s=2))


def test_one_that_is_named_may_come_up_later():
    with contextlib.closing(make_engine(parse_spec("kit:http://127.0.0.1:9/v1#m"), load_settings())) as engine:
        assert engine.info.id == "m"
        assert "chat" in engine.info.capabilities


def test_a_server_with_openais_api_needs_a_name_or_is_asked_for_one(behind):
    with contextlib.closing(load(behind, provider="compatible")) as engine:
        assert engine.info.id == "pocket"
        assert run(engine, ask("Hello", temperature=0, max_tokens=5))[0]


def test_vllms_routes_are_understood(behind):
    with contextlib.closing(load(behind, "pocket", provider="vllm")) as engine:
        assert asyncio.run(engine.tokenize("Hello")) == asyncio.run(behind.engines[0].tokenize("Hello"))
        assert run(engine, ask("Hello", temperature=0, max_tokens=5))[0]


def test_who_leaves_us_stops_the_upstream(front, behind):
    slow = next(engine for engine in behind.engines if engine.info.id == "slow")
    before = slow.stats().num_cancelled
    with front.client(max_retries=0) as client:
        stream = client.chat.completions.create(model="slow", messages=FRANCE, stream=True)
        next(iter(stream))
        wait_until(lambda: slow.stats().num_running == 1)
        stream.close()
        wait_until(lambda: slow.stats().num_running == 0)
        assert slow.stats().num_cancelled == before + 1


@pytest.mark.slow
def test_fifty_streams_at_once_are_kept_apart(front, behind):
    async def main():
        async with front.async_client(max_retries=0) as client:

            async def one(number):
                words = " ".join(f"w{number}x{i}" for i in range(40))
                stream = await client.chat.completions.create(
                    model="mock", messages=[{"role": "user", "content": words}], stream=True
                )
                text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
                return text == words

            return await asyncio.gather(*(one(number) for number in range(50)))

    assert all(asyncio.run(main()))
    wait_until(lambda: all(engine.stats().num_running == 0 for engine in (*front.engines, *behind.engines)))


def test_one_engine_serves_several_event_loops_and_leaves_no_connection(behind):
    with contextlib.closing(load(behind, "mock")) as engine:
        texts = []

        def in_own_loop(number):
            texts.append(run(engine, ask(f"word{number}"))[0])

        threads = [threading.Thread(target=in_own_loop, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(texts) == [f"word{number}" for number in range(6)]


def test_a_cell_may_ask_it_directly(behind):
    from llmapi_kit.loading.model import Model

    model = Model(load(behind, "pocket"))
    try:
        assert model.ask("What is the capital of France?", temperature=0) == "The capital of France is Paris."
        assert "".join(model.stream(FRANCE, temperature=0, max_tokens=3))
    finally:
        model.close()


def test_connections_are_used_again(behind):
    engine = load(behind, "mock")

    async def main():
        for _ in range(5):
            await collect(engine.generate(ask("a b c")))
        (client,) = engine._connection._clients.values()
        return client._client._client._transport._pool.connections

    try:
        assert len(asyncio.run(main())) == 1
    finally:
        engine.close()


def test_usage_is_the_upstreams(behind):
    with contextlib.closing(load(behind, "pocket")) as engine:
        request = GenerationRequest(messages=FRANCE, sampling=SamplingParams(temperature=0))
        _, seen = run(engine, request)
        _, known = asyncio.run(collect(behind.engines[0].generate(request)))
        assert (seen[-1].num_prompt_tokens, seen[-1].num_completion_tokens) == (
            known[-1].num_prompt_tokens,
            known[-1].num_completion_tokens,
        )
        assert sum(e.num_tokens for e in seen if isinstance(e, Delta)) == seen[-1].num_completion_tokens
        assert isinstance(seen[-1], Finished)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("vllm:m", "base_url"),
        ("azure:m", "AZURE_OPENAI_ENDPOINT"),
        ("kit:http://h/v1?key=abc123#m", "query"),
        ("kit:http:///v1#m", "host"),
    ],
)
def test_an_address_that_can_not_be_used_is_refused(name, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        make_engine(parse_spec(name), load_settings(), api_key="k")
    assert "abc123" not in str(caught.value)
