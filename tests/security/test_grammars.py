"""What strangers want an answer to match: a hostile schema or pattern is its own request's trouble."""

from __future__ import annotations

import json
import threading

import pytest

from .conftest import CHAT, chat, connect, serving

NUM_SCHEMAS = 40  # each of its own, so that none is found among those that are known
RECURSIVE = {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}
ENDLESS = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
HOSTILE = {
    "a pattern that backtracks": {"guided_regex": "(a+)+$"},
    "a pattern in a schema": {"guided_json": {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}},
    "a pattern that repeats": {"guided_regex": "((a{1000}){1000}){1000}"},
    "recursive": {"guided_json": RECURSIVE},
    "a reference to itself": {"guided_json": ENDLESS},
    "a reference elsewhere": {"guided_json": {"$ref": "http://127.0.0.1:1/schema.json"}},
    "a file": {"guided_json": {"$ref": "file:///etc/passwd"}},
    "an enum of 10^5": {"guided_json": {"enum": [f"v{index}" for index in range(100_000)]}},
    "10^5 choices": {"guided_choice": [f"v{index}" for index in range(100_000)]},
    "a wide object": {"guided_json": {"type": "object", "properties": {f"p{i}": {} for i in range(5_000)}}},
    "an array of 10^9": {"guided_json": {"type": "array", "minItems": 10**9, "items": {"type": "null"}}},
    "rules that loop": {"guided_grammar": "start: a\na: b\nb: a"},
    "doubling rules": {
        "guided_grammar": "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(60)) + 'a60: "x"'
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), pocket_engine) as made:
        yield made


@pytest.fixture
def beside(server):
    """Asks until the test is over; each has to be the one that is given without company."""
    body = chat("Tell me a story about a cat.", max_tokens=60)
    with connect(server) as client:
        alone = client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    is_over, answers = threading.Event(), []

    def ask():
        with connect(server) as client:
            while not answers or not is_over.is_set():
                answers.append(client.post(CHAT, json=body).json()["choices"][0]["message"]["content"])

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    is_over.set()
    thread.join()
    assert set(answers) == {alone}


@pytest.mark.slow
@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_grammar_is_answered_or_refused_and_nobody_else_notices(client, beside, fields):
    response = client.post(CHAT, json=chat("Hello!", max_tokens=20, **fields))
    if response.status_code != 200:
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, next(iter(fields)))


@pytest.mark.slow
def test_many_schemas_of_their_own_are_all_answered(client, beside):
    for index in range(NUM_SCHEMAS):
        schema = {"type": "object", "properties": {f"p{index}": {"const": index}}, "required": [f"p{index}"]}
        schema["additionalProperties"] = False
        response = client.post(CHAT, json=chat("Hello!", max_tokens=40, guided_json=schema))
        assert json.loads(response.json()["choices"][0]["message"]["content"]) == {f"p{index}": index}
