"""`store`: a finished completion can be listed, read, labelled and deleted, by the key it was made with."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json

import openai
import pytest

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import GenerationError
from llmapi_kit.types import Accepted, Delta, Failed

from .conftest import KEY, chat, error_of, wait_until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def client(server):
    with server.client(max_retries=0, _strict_response_validation=True) as made:
        yield made.chat.completions


def ask(client, text="one two", **fields):
    return client.create(model="mock", messages=[{"role": "user", "content": text}], **{"store": True, **fields})


def ids(page):
    return [completion.id for completion in page.data]


def test_a_stored_completion_is_the_one_that_was_answered(client):
    made = ask(client, metadata={"topic": "greeting"}, n=2)
    assert made.metadata == {"topic": "greeting"}
    assert len(made.choices) == 2
    assert client.retrieve(made.id) == made
    assert client.list().data == [made]


def test_metadata_may_be_left_out_or_empty(client):
    assert ask(client).metadata == {}
    assert ask(client, metadata={}).metadata == {}


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"store": None}, {"metadata": {}}])
def test_what_was_not_stored_is_not_there(server, http, client, fields):
    made = http(server).post(CHAT, json=chat(**fields)).json()
    assert "metadata" not in made
    assert client.list().data == []
    with pytest.raises(openai.NotFoundError, match="store=true"):
        client.retrieve(made["id"])


def test_a_streamed_completion_is_stored_once_it_is_complete(client):
    chunks = list(ask(client, "one two three", stream=True, n=2, metadata={"a": "b"}))
    stored = client.retrieve(chunks[0].id)
    assert [choice.message.content for choice in stored.choices] == ["one two three"] * 2
    assert {choice.finish_reason for choice in stored.choices} == {"stop"}
    assert (stored.metadata, stored.created) == ({"a": "b"}, chunks[0].created)
    whole = ask(client, "one two three", n=2)
    assert stored.usage == whole.usage, "whether or not the stream sent it"
    assert client.messages.with_raw_response.list(stored.id).http_response.json()["data"][0]["content"]


class Unfinished(MockEngine):
    """Begins an answer, and then waits or fails."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    async def generate(self, request):
        yield Accepted(1)
        yield Delta("one")
        if self.error is None:
            await asyncio.Event().wait()
        yield Failed(self.error)


def test_a_stream_that_its_client_left_is_not_stored(serve, http):
    server = serve(Unfinished())
    client = http(server)
    with client.stream("POST", CHAT, json=chat(stream=True, store=True)) as response:
        assert "one" in next(line for line in response.iter_lines() if "content" in line and "one" in line)
    wait_until(lambda: not server._state.active)
    assert client.get(CHAT).json()["data"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_failed_is_not_stored(serve, http, stream):
    client = http(serve(Unfinished(GenerationError("The model failed."))))
    assert "The model failed." in client.post(CHAT, json=chat(stream=stream, store=True)).text
    assert client.get(CHAT).json()["data"] == []


def test_the_messages_of_the_question_have_ids_and_come_as_they_were_sent(server, http):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    client = http(server)
    made = client.post(CHAT, json={"messages": messages, "store": True}).json()
    page = client.get(f"{CHAT}/{made['id']}/messages").json()
    expected_ids = [f"{made['id']}-{i}" for i in range(4)]
    assert [message.pop("id") for message in page["data"]] == expected_ids
    assert (page["first_id"], page["last_id"], page["has_more"]) == (expected_ids[0], expected_ids[3], False)
    assert [message.pop("content_parts") for message in page["data"]] == [None, parts, None, None]
    messages[1] = {"role": "user", "content": None}
    assert page["data"] == messages


def test_messages_come_in_pages_too(client):
    turns = [{"role": "assistant", "content": str(i)} for i in range(5)]  # the client's type knows no other role
    made = client.create(model="mock", messages=turns, store=True)
    assert [message.content for message in client.messages.list(made.id, limit=2)] == ["0", "1", "2", "3", "4"]
    latest = client.messages.list(made.id, limit=2, order="desc")
    assert ([message.content for message in latest.data], latest.has_more) == (["4", "3"], True)
    assert [message.content for message in latest] == ["4", "3", "2", "1", "0"]
    with pytest.raises(openai.BadRequestError, match="after"):
        client.messages.list(made.id, after=f"{made.id}-9")


def test_pages_are_in_order_and_lead_from_one_to_the_next(client):
    made = [ask(client).id for _ in range(7)]
    first = client.list(limit=3)
    assert (ids(first), first.has_more) == (made[:3], True)
    assert (ids(client.list(limit=3, after=made[2])), client.list(limit=1, after=made[5]).has_more) == (
        made[3:6],
        False,
    )
    assert [completion.id for completion in client.list(limit=3)] == made
    assert [completion.id for completion in client.list(limit=3, order="desc")] == made[::-1]
    assert client.list(limit=7).has_more is False
    assert client.list(after=made[-1]).data == []


def test_a_page_has_twenty_unless_asked_and_says_where_it_ends(server, http, client):
    made = [ask(client).id for _ in range(21)]
    page = http(server).get(CHAT).json()
    assert page.pop("data")[-1]["id"] == made[19]
    assert page == {"object": "list", "first_id": made[0], "last_id": made[19], "has_more": True}
    empty = http(server).get(CHAT, params={"model": "other"}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_lists_are_filtered_by_model_and_by_every_pair_of_metadata(serve):
    server = serve(MockEngine(name="a"), MockEngine(name="b"))
    with server.client(max_retries=0) as sdk:
        client = sdk.chat.completions

        def make(model, **metadata):
            messages = [{"role": "user", "content": "x"}]
            return client.create(model=model, messages=messages, store=True, metadata=metadata).id

        plain, red, big_red, other = make("a"), make("a", c="red"), make("a", c="red", s="big & so"), make("b", c="red")
        assert ids(client.list(model="a")) == [plain, red, big_red]
        assert ids(client.list(metadata={"c": "red"})) == [red, big_red, other]
        assert ids(client.list(metadata={"c": "red", "s": "big & so"})) == [big_red]
        assert ids(client.list(metadata={"c": "red"}, model="b")) == [other]
        assert ids(client.list(metadata={"c": "blue"})) == []
        pages = client.list(metadata={"c": "red"}, limit=1)  # the filter holds for the pages that follow
        assert [completion.id for completion in pages] == [red, big_red, other]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("order=newest", "order"),
        ("after=nothing", "after"),
        ("metdata[a]=b", "metdata[a]"),
        ("metadata=b", "metadata"),
        ("before=x", "before"),
    ],
)
def test_a_query_that_would_be_ignored_or_is_out_of_range_is_refused_by_name(server, http, query, param):
    assert error_of(http(server).get(f"{CHAT}?{query}"), 400)["param"] == param


def test_metadata_is_replaced_as_a_whole_and_nothing_else(client):
    made = ask(client, metadata={"a": "1", "b": "2"})
    updated = client.update(made.id, metadata={"b": "3"})
    assert updated.metadata == {"b": "3"}
    assert client.retrieve(made.id) == updated
    assert updated.choices == made.choices
    assert ids(client.list(metadata={"a": "1"})) == []
    assert client.update(made.id, metadata=None).metadata == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "v" * 513}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {}, "model": "x"}, "model"),
    ],
)
def test_an_update_that_is_not_allowed_changes_nothing(server, http, client, body, param):
    made = ask(client, metadata={"a": "1"})
    assert error_of(http(server).post(f"{CHAT}/{made.id}", json=body), 400)["param"] == param
    assert client.retrieve(made.id) == made


def test_the_largest_metadata_is_taken(client):
    metadata = {f"{i:064}": "é" * 512 for i in range(16)}
    assert client.retrieve(ask(client, metadata=metadata).id).metadata == metadata


def test_what_is_deleted_is_gone(client):
    made, other = ask(client), ask(client)
    deleted = client.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "chat.completion.deleted")
    assert ids(client.list()) == [other.id]
    gone = (client.retrieve, client.delete, client.messages.list, lambda which: client.update(which, metadata={}))
    for call in gone:
        with pytest.raises(openai.NotFoundError) as refused:
            call(made.id)
        assert (refused.value.code, refused.value.param) == ("completion_not_found", "completion_id")


def test_of_many_deletes_at_once_one_finds_it(server, http, client):
    for _ in range(5):
        made = ask(client)
        clients = [http(server) for _ in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda each, which=made.id: each.delete(f"{CHAT}/{which}"), clients))
        assert sorted(answer.status_code for answer in answers) == [200, *[404] * 7]


def test_a_list_goes_on_while_what_it_lists_is_deleted(client):
    made = [ask(client).id for _ in range(9)]
    seen = []
    for completion in client.list(limit=2):
        seen.append(completion.id)
        client.delete(completion.id)  # the next page is asked for with an id that is gone
    assert seen == made
    assert client.list().data == []


def test_another_key_sees_nothing(server, http, client):
    made = ask(client, metadata={"a": "b"})
    theirs = "sk-llmapi-another-0123456789abcdef"
    server._state.key_check = KeyCheck(theirs)
    other = http(server, headers={"Authorization": f"Bearer {theirs}"})
    one = f"{CHAT}/{made.id}"
    assert other.get(CHAT).json()["data"] == []
    assert other.get(CHAT, params={"metadata[a]": "b"}).json()["data"] == []
    error_of(other.get(one), 404)
    error_of(other.get(f"{one}/messages"), 404)
    error_of(other.post(one, json={"metadata": {}}), 404)
    error_of(other.delete(one), 404)
    server._state.key_check = KeyCheck(KEY)
    assert client.retrieve(made.id) == made


def test_the_oldest_go_when_there_are_too_many(serve, http):
    client = http(serve(max_stored_completions=3))
    made = [client.post(CHAT, json=chat(store=True)).json()["id"] for _ in range(5)]
    assert [each["id"] for each in client.get(CHAT).json()["data"]] == made[2:]
    error_of(client.get(f"{CHAT}/{made[1]}"), 404)


def test_the_oldest_go_when_they_take_too_much_and_an_update_counts(serve, http):
    client = http(serve(max_stored_bytes=6000))

    def make(text):
        return client.post(CHAT, json=chat(text, store=True)).json()["id"]

    def kept():
        return [each["id"] for each in client.get(CHAT).json()["data"]]

    first, second, third = make("a" * 700), make("b" * 700), make("c")  # question and answer
    assert kept() == [first, second, third]
    client.post(f"{CHAT}/{first}", json={"metadata": {str(i): "x" * 512 for i in range(5)}})
    assert kept() == [first, third], "room was made at the cost of the others"
    client.delete(f"{CHAT}/{first}")
    fourth = make("d" * 1500)
    assert kept() == [third, fourth], "what was deleted takes no room"
    fifth = make("e" * 5000)
    assert kept() == [third, fourth], "what alone is too large pushes nothing out"
    error_of(client.get(f"{CHAT}/{fifth}"), 404)


def test_a_server_that_stores_nothing_refuses_store_by_name(serve, http):
    client = http(serve(max_stored_completions=0))
    error = error_of(client.post(CHAT, json=chat(store=True)), 400)
    assert (error["param"], error["code"]) == ("store", "unsupported_parameter")
    assert client.post(CHAT, json=chat(store=False)).status_code == 200


def test_a_server_that_starts_anew_still_has_them_unless_they_were_in_memory(serve, http):
    for settings, status in (({}, 200), ({"database_url": "sqlite://"}, 404)):
        made = http(serve(**settings)).post(CHAT, json=chat(store=True)).json()["id"]
        assert http(serve(**settings)).get(f"{CHAT}/{made}").status_code == status


def test_too_many_pairs_to_find_are_refused(server, http):
    params = {f"metadata[{i}]": "x" for i in range(17)}
    assert error_of(http(server).get(CHAT, params=params), 400)["param"] == "metadata"


def test_text_of_every_kind_comes_back_as_it_was(server, http):
    text = 'quote " backslash \\ newline \n 中文 🦙 \x00 </script>'
    client = http(server)
    made = client.post(CHAT, json=chat(text, store=True, metadata={text: text})).json()
    again = client.get(f"{CHAT}/{made['id']}").json()
    assert json.dumps(again) == json.dumps(made)
    assert again["metadata"] == {text: text}
    assert client.get(f"{CHAT}/{made['id']}/messages").json()["data"][0]["content"] == text
    assert [each["id"] for each in client.get(CHAT, params={f"metadata[{text}]": text}).json()["data"]] == [made["id"]]
