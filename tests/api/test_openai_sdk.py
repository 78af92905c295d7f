"""The official openai client, sync and async, against a live server with the pocket model."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest

from .conftest import KEY

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def server(pocket_server):
    return pocket_server


@pytest.fixture
def client(server):
    with server.client(max_retries=0) as made:
        yield made


def test_a_question_is_answered(client):
    answer = client.chat.completions.create(model="pocket", messages=QUESTION)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "pocket"


def test_a_stream_is_the_same_answer_in_pieces(client):
    whole = client.chat.completions.create(model="pocket", messages=QUESTION)
    chunks = list(
        client.chat.completions.create(
            model="pocket", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    *body, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in body) == whole.choices[0].message.content
    assert [c.choices[0].delta.role for c in body if c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in body if c.choices[0].finish_reason] == ["stop"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1


def test_stream_without_usage_has_none(client):
    chunks = list(client.chat.completions.create(model="pocket", messages=QUESTION, stream=True))
    assert all(c.choices and c.usage is None for c in chunks)


def test_raw_stream_ends_with_done_and_is_an_event_stream(server):
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"messages": QUESTION, "stream": True}
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, trust_env=False) as response:
        text = "".join(response.iter_text())
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(frame.removeprefix("data: ")) for frame in frames[:-2])


def test_chinese_streams_without_broken_characters(client):
    messages = [{"role": "user", "content": "你好"}]
    pieces = [
        c.choices[0].delta.content or ""
        for c in client.chat.completions.create(model="pocket", messages=messages, stream=True)
    ]
    whole = client.chat.completions.create(model="pocket", messages=messages).choices[0].message.content
    assert "".join(pieces) == whole
    assert "\ufffd" not in whole
    assert any("\u4e00" <= char <= "\u9fff" for char in whole)


@pytest.mark.slow
def test_the_async_client_gets_the_same_from_8_requests_at_once(server):
    questions = ["Hello!", "What is llmapi_kit?", "你好", "Count to five."] * 2

    async def main():
        async with server.async_client(max_retries=0) as client:

            async def ask(question):
                messages = [{"role": "user", "content": question}]
                stream = await client.chat.completions.create(model="pocket", messages=messages, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            alone = [await ask(question) for question in questions]
            return alone, await asyncio.gather(*(ask(question) for question in questions))

    alone, together = asyncio.run(main())
    assert alone == together
    assert all(alone)


def test_max_tokens_under_both_names_cuts_with_reason_length(client):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="pocket", messages=QUESTION, **{name: 2})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 2


def test_usage_stands_on_the_last_chunk_and_is_null_before(client):
    options = {"model": "pocket", "messages": QUESTION, "stream": True}
    chunks = list(client.chat.completions.create(**options, stream_options={"include_usage": True}))
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens > 0) == ([], True)
    assert all("usage" not in chunk.model_fields_set for chunk in client.chat.completions.create(**options))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_continuous_usage_counts_up_with_every_chunk(client, endpoint):
    options = {
        "stream": True,
        "max_tokens": 200,  # so many that they can't all have piled up into one or two chunks
        "extra_body": {"ignore_eos": True},
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if endpoint == "chat":
        story = [{"role": "user", "content": "Tell me a story about a cat."}]
        chunks = list(client.chat.completions.create(model="pocket", messages=story, **options))
    else:
        chunks = list(client.completions.create(model="pocket", prompt="The sun", **options))
    made = [chunk.usage.completion_tokens for chunk in chunks]
    assert made == sorted(made)
    assert made[0] < made[-1]
    assert len(set(made)) >= 3
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {chunks[-1].usage.prompt_tokens}


def test_there_is_one_service_tier(client):
    options = {"model": "pocket", "messages": QUESTION, "max_tokens": 2}
    assert client.chat.completions.create(**options, service_tier="flex").service_tier == "default"
    streamed = client.chat.completions.create(**options, service_tier="priority", stream=True)
    assert {chunk.service_tier for chunk in streamed} == {"default"}
    assert client.chat.completions.create(**options).service_tier is None


def test_the_smallest_of_several_limits_counts(client):
    limits = {"max_tokens": 7, "max_completion_tokens": 3, "extra_body": {"n_predict": 5}}
    answer = client.chat.completions.create(model="pocket", messages=QUESTION, **limits)
    assert answer.usage.completion_tokens == 3


def test_special_tokens_show_where_they_are_not_skipped(client):
    options = {"model": "pocket", "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    shown = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    plain = client.chat.completions.create(**options).choices[0]
    whole = client.chat.completions.create(**options, extra_body=shown).choices[0]
    assert whole.message.content == plain.message.content + "<|im_end|>"
    forced = {"ignore_eos": True, "skip_special_tokens": False}
    entries = client.chat.completions.create(**options, logprobs=True, extra_body=forced).choices[0]
    assert "<|im_end|>" in entries.message.content
    assert "".join(entry.token for entry in entries.logprobs.content) == entries.message.content


def test_min_tokens_goes_on_past_the_end_of_turn(client):
    options = {"model": "pocket", "messages": QUESTION, "temperature": 0}
    ends_at = client.chat.completions.create(**options).usage.completion_tokens
    longer = client.chat.completions.create(**options, extra_body={"min_tokens": ends_at + 5}, max_tokens=ends_at + 40)
    assert longer.usage.completion_tokens > ends_at + 5


def test_stop_text_is_not_in_the_answer(client):
    whole = client.chat.completions.create(model="pocket", messages=QUESTION).choices[0].message.content
    cut = client.chat.completions.create(model="pocket", messages=QUESTION, stop="Paris").choices[0]
    assert cut.message.content == whole[: whole.index("Paris")]
    assert cut.finish_reason == "stop"


def test_seeded_answers_repeat_and_others_do_not(client):
    def ask(**fields):
        messages = [{"role": "user", "content": "Tell me something"}]
        fields = {"temperature": 2, "max_tokens": 20, **fields}
        return client.chat.completions.create(model="pocket", messages=messages, **fields).choices[0].message.content

    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert ask() != ask()


def test_n_answers_come_each_under_its_index_and_share_their_prompt(client):
    open_question = [{"role": "user", "content": "Tell me something"}]
    fields = {"model": "pocket", "messages": open_question, "n": 3, "temperature": 2, "seed": 4, "max_tokens": 20}
    whole = client.chat.completions.create(**fields)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert whole.usage.completion_tokens <= 3 * 20
    streamed, opened, ended = ["", "", ""], [], {}
    for chunk in client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            if choice.delta.role:
                opened.append(choice.index)
            if choice.finish_reason:
                ended[choice.index] = choice.finish_reason
            streamed[choice.index] += choice.delta.content or ""
    assert opened == [0, 1, 2]
    assert streamed == texts
    assert ended == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunk.usage.completion_tokens == whole.usage.completion_tokens
    first = client.chat.completions.create(**{**fields, "n": 1}).choices[0].message.content
    assert first == texts[0]


def test_best_of_gives_the_likeliest_candidates_best_first(client):
    fields = {"model": "pocket", "prompt": "The sun", "temperature": 1.5, "seed": 8, "max_tokens": 8, "logprobs": 0}
    every = client.completions.create(**fields, n=4)

    def score(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    ranked = sorted(every.choices, key=score, reverse=True)
    best = client.completions.create(**fields, n=2, best_of=4)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == every.usage.completion_tokens
    del fields["logprobs"]
    hidden = client.completions.create(**fields, best_of=4).choices[0]
    assert (hidden.text, hidden.logprobs) == (ranked[0].text, None)


def test_logprobs_stand_on_every_token(client):
    for is_stream in (False, True):
        answer = client.chat.completions.create(
            model="pocket", messages=QUESTION, logprobs=True, top_logprobs=3, stream=is_stream
        )
        if is_stream:
            choices = [c.choices[0] for c in answer]
            tokens = [t for choice in choices if choice.logprobs for t in choice.logprobs.content]
            text = "".join(choice.delta.content or "" for choice in choices)
        else:
            tokens = answer.choices[0].logprobs.content
            text = answer.choices[0].message.content
        assert b"".join(bytes(t.bytes) for t in tokens).decode() == text
        assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob >= t.logprob for t in tokens)


def test_completions_continue_text_and_token_ids(client):
    answer = client.completions.create(model="pocket", prompt="The sun", max_tokens=5, logprobs=2)
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens == 5
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset[0] == 0
    assert len(logprobs.text_offset) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 5
    chunks = client.completions.create(model="pocket", prompt="The sun", max_tokens=5, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    assert client.completions.create(model="pocket", prompt=[5, 6, 7], max_tokens=3).usage.prompt_tokens == 3


def test_logit_bias_bans_a_token(client):
    first = client.completions.create(model="pocket", prompt=[5, 6, 7], max_tokens=1, logprobs=1)
    vocabulary = client.completions.create(model="pocket", prompt=[5, 6, 7], max_tokens=1, logit_bias={"300": 100})
    assert first.choices[0].text != vocabulary.choices[0].text


def test_models_are_listed_and_retrieved(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["pocket"]
    model = client.models.retrieve("pocket")
    assert (model.object, model.owned_by) == ("model", "llmapi_kit")
    assert model.llmapi_kit["context_length"] == 2048
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("owner/none")


def test_mistakes_raise_the_clients_own_errors(server, client):
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="sk-llmapi-wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="pocket", messages=QUESTION, modalities=["audio"])
    assert (bad.value.param, bad.value.code) == ("modalities", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="pocket", messages=[{"role": "user", "content": "long " * 5000}])
    assert long.value.code == "context_length_exceeded"


def test_a_conversation_is_remembered_through_its_messages(client):
    answer = client.chat.completions.create(
        model="pocket",
        messages=[
            {"role": "user", "content": "My name is Anna."},
            {"role": "assistant", "content": "Nice to meet you, Anna!"},
            {"role": "user", "content": "What is my name?"},
        ],
    )
    assert "Anna" in answer.choices[0].message.content
