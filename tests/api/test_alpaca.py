"""The Alpaca demo API on a live server: its clients' own bodies, the instruction template, its embeddings."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.config import INSTRUCTION_TEMPLATES, load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError

from .conftest import KEY, Gate, Recorder, asking, error_of, serving, wait_until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
QUESTION = "What is the capital of Italy?"
ANSWER = "The capital of Italy is Rome."
# The wording is the format: models were trained on it, to the letter.
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    f"### Instruction:\n\n{QUESTION}\n\n### Response:\n\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), pocket_engine, MockEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def instructed(tmp_path_factory, pocket_engine):
    """The same model behind the template."""
    with serving(tmp_path_factory.mktemp("home"), pocket_engine, instruction_template="alpaca") as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


def user(text, **fields):
    return {"messages": [{"role": "user", "message": text}], "temperature": 0, **fields}


def said(response):
    """The conversation that an answer holds."""
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [(choice["message"]["role"], choice["message"]["content"]) for choice in choices]


def test_a_conversation_comes_back_whole_with_the_answer_last_and_nothing_else(client):
    messages = [
        {"role": "system", "message": "You are brief."},
        {"role": "user", "message": "你好"},
        {"role": "assistant", "message": "Hi 🙂"},
        {"role": "user", "message": "one two three"},
    ]
    response = client.post(CHAT, json={"messages": messages, "model": "mock"})
    conversation = ",".join(
        f'{{"index":{index},"message":{{"role":"{role}","content":"{text}"}}}}'
        for index, (role, text) in enumerate(
            [(each["role"], each["message"]) for each in messages] + [("assistant", "one two three")]
        )
    )
    pattern = (
        r'\{"id":"chatcmpl-[0-9a-f]{24}","object":"chat\.completion","created":\d{10},"model":"mock","choices":\['
        + re.escape(conversation)
        + r"\]\}"
    )
    assert re.fullmatch(pattern, response.text), response.text


def test_messages_may_be_a_plain_text(client):
    answer = client.post(CHAT, json={"messages": QUESTION, "temperature": 0})
    assert said(answer) == [("user", QUESTION), ("assistant", ANSWER)]


def test_with_content_the_openai_shape_is_returned(client):
    answer = client.post(CHAT, json={"messages": [{"role": "user", "content": QUESTION, "message": None}]}).json()
    assert len(answer["choices"]) == 1
    assert set(answer["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_sample": False, "temperature": 1.5},
        {"num_beams": 3},
        {"num_beams": 3, "do_sample": False, "temperature": None},
        {"top_k": 1, "temperature": 0.9},
        {"repetition_penalty": 1.0, "top_p": 1.0, "top_k": 40, "stream": False, "user": "me"},
    ],
    ids=str,
)
def test_greedy_beams_and_sampling_go_through_the_same_fields(client, fields):
    assert said(client.post(CHAT, json=user(QUESTION, max_tokens=30, **fields)))[-1] == ("assistant", ANSWER)


def test_every_field_reaches_the_engine(serve, http):
    engine = Recorder()
    server = serve(engine)
    body = {"max_tokens": 5, "temperature": 0.3, "top_p": 0.8, "top_k": 7, "repetition_penalty": 1.2}
    assert http(server).post(CHAT, json=user("a", **body)).status_code == 200
    request = engine.requests[0]
    assert {name: getattr(request.sampling, name) for name in body} == body
    assert request.messages == [{"role": "user", "content": "a"}]
    assert request.cache_salt == server._state.key_check.key_id
    error = error_of(http(server).post(CHAT, json=user("a", num_beams=2)), 400)
    assert error["param"] == "num_beams", "the mock has no model, so the beams did reach it"


MESSAGE, CONTENT = {"role": "user", "message": "a"}, {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [CONTENT, MESSAGE]}, "messages.0"),
        ({"messages": [MESSAGE, CONTENT]}, "messages.1"),
        ({"messages": [{**MESSAGE, "content": "b"}]}, "messages.0"),
        ({"messages": [MESSAGE, {"role": "user"}]}, "messages.1.message"),
        ({"messages": [{"role": "user", "message": 5}]}, "messages.0.message"),
        ({"messages": [{"role": "tool", "message": "a"}]}, "messages.0.role"),
        ({"messages": [{"message": "a"}]}, "messages.0.role"),
        ({"messages": [{**MESSAGE, "name": "me"}]}, "messages.0.name"),
        ({"messages": [MESSAGE, "a"]}, "messages.1"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"n": 1}, "n"),
        ({"stop": "a"}, "stop"),
        ({"seed": 1}, "seed"),
        ({"tools": []}, "tools"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0.1"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 2, "do_sample": True, "temperature": 0.5}, "do_sample"),
    ],
    ids=str,
)
def test_what_is_not_honoured_is_refused_by_name(client, fields, param):
    assert error_of(client.post(CHAT, json=user("a", **fields)), 400)["param"] == param


@pytest.mark.parametrize("messages", [[], [{}], ["a"], 5, None, {"message": "a"}], ids=str)
def test_what_is_neither_shape_is_answered_as_openai_would(client, messages):
    assert error_of(client.post(CHAT, json={"messages": messages}), 400)["param"].startswith("messages")


def test_a_prompt_that_does_not_fit_is_refused(client):
    error = error_of(client.post(CHAT, json={"messages": "word " * 10_000}), 400)
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("model", ["mock", "pocket"])
def test_an_empty_text_is_answered(client, model):
    assert said(client.post(CHAT, json={"messages": "", "model": model, "max_tokens": 5}))[0] == ("user", "")


def test_a_client_that_leaves_stops_the_model(serve, local_engine):
    gate = Gate()
    engine = local_engine(max_length=100_000, before_step=gate)
    server = serve(engine)
    with asking(server, CHAT, {"messages": "a b c"}):
        assert gate.entered.wait(60)
    wait_until(lambda: not server._state.active)  # before the gate opens, or the answer may be over first
    gate.open()
    wait_until(lambda: engine.stats().num_cancelled == 1)


def test_100_at_once_each_get_their_own_conversation(server):
    async def main():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
            bodies = [{"messages": f"question {index}", "model": "mock"} for index in range(100)]
            return await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))

    for index, response in enumerate(asyncio.run(main())):
        assert said(response) == [("user", f"question {index}"), ("assistant", f"question {index}")]


def test_it_is_off_where_the_settings_say_so(serve, http):
    client = http(serve(compat="glm"))
    assert error_of(client.post(CHAT, json={"messages": "a"}), 400)["param"] == "messages"
    assert error_of(client.post(CHAT, json=user("a")), 400)["param"] == "messages.0.content"


# The instruction template of /v1/completions


def test_a_completion_answers_its_clients_in_the_demos_shape(instructed, http):
    client = http(instructed)
    body = {
        "prompt": QUESTION,
        "max_tokens": 60,
        "temperature": 0.2,
        "top_k": 40,
        "top_p": 0.9,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "do_sample": False,
    }
    answer = client.post("/v1/completions", json=body).json()
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "pocket")
    assert {"index": 0, "text": ANSWER}.items() <= answer["choices"][0].items()


@pytest.fixture
def templated(serve, http):
    """A server with the template, and what its engine was asked."""
    engine = Recorder()
    return http(serve(engine, instruction_template="alpaca")), engine.requests


def test_each_prompt_is_put_into_the_template_to_the_letter(templated):
    client, requests = templated
    assert client.post("/v1/completions", json={"prompt": QUESTION}).status_code == 200
    assert [request.prompt for request in requests] == [PROMPT]
    assert client.post("/v1/completions", json={"prompt": ["a", "b {instruction} {0}"]}).status_code == 200
    assert [request.prompt.split("\n\n")[2] for request in requests[1:]] == ["a", "b {instruction} {0}"]


def test_a_template_of_ones_own_may_have_other_braces(serve, http):
    engine = Recorder()
    client = http(serve(engine, instruction_template="{system} {0} Q: {instruction}\nA:"))
    assert client.post("/v1/completions", json={"prompt": "why?"}).status_code == 200
    assert engine.requests[0].prompt == "{system} {0} Q: why?\nA:"


def test_chats_are_not_put_into_it(templated):
    client, requests = templated
    assert client.post(CHAT, json={"messages": "a"}).status_code == 200
    assert requests[0].messages == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": [5, 6]}, "prompt"), ({"prompt": [[5], [6]]}, "prompt"), ({"suffix": "end"}, "suffix")],
    ids=str,
)
def test_what_does_not_go_into_a_template_is_refused_by_name(templated, fields, param):
    client, requests = templated
    assert error_of(client.post("/v1/completions", json={"prompt": "a", **fields}), 400)["param"] == param
    assert requests == []


def test_echo_gives_what_the_model_read(instructed, http):
    client = http(instructed)
    answer = client.post("/v1/completions", json={"prompt": QUESTION, "echo": True, "temperature": 0, "logprobs": 0})
    choice = answer.json()["choices"][0]
    assert choice["text"] == PROMPT + ANSWER
    assert "".join(choice["logprobs"]["tokens"]).startswith(PROMPT)


def test_without_a_template_prompts_are_left_alone_and_ids_are_taken(serve, http):
    engine = Recorder()
    client = http(serve(engine))
    for prompt in (QUESTION, [1, 2]):
        assert client.post("/v1/completions", json={"prompt": prompt}).status_code == 200
    assert [request.prompt for request in engine.requests] == [QUESTION, [1, 2]]


def test_a_template_of_ones_own_is_checked_when_the_settings_are_made(monkeypatch):
    assert load_settings().instruction_template == ""
    assert load_settings(instruction_template="alpaca").instruction_template == INSTRUCTION_TEMPLATES["alpaca"]
    own = "{system} Q: {instruction}\nA:"
    assert load_settings(instruction_template=own).instruction_template == own
    for wrong in ("vicuna", "{instruction} {instruction}", "{ instruction }"):
        with pytest.raises(ConfigError, match=r"instruction_template is .*it needs \{instruction\} exactly once"):
            load_settings(instruction_template=wrong)
    monkeypatch.setenv("LLMAPI_KIT_INSTRUCTION_TEMPLATE", "vicuna")
    with pytest.raises(ConfigError, match="LLMAPI_KIT_INSTRUCTION_TEMPLATE"):
        load_settings()


# Embeddings


def test_an_embedding_is_the_mean_of_the_last_hidden_states_of_length_1(client):
    model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32).eval()
    ids = client.post("/tokenize", json={"prompt": QUESTION}).json()["tokens"]
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=0)
    embedding = client.post("/v1/embeddings", json={"input": QUESTION}).json()["data"][0]["embedding"]
    assert len(embedding) == model.config.hidden_size
    assert torch.tensor(embedding).norm().item() == pytest.approx(1, abs=1e-5)
    assert embedding == pytest.approx(expected.tolist(), abs=1e-4)
