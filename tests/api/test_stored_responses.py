"""Stored responses: retrieve, follow, go on after, cancel, delete; per key, across restarts, in the background."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import types

import openai
import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import GenerationError, StoreUnavailableError
from llmapi_kit.server.server import Server
from llmapi_kit.types import Delta

from .conftest import KEY, Recorder, error_of, wait_until
from .scripted import Scripted

pytestmark = pytest.mark.slow

OTHER_KEY = "sk-llmapi-test-another-0123456789"
PATH = "/v1/responses"


def create(client, text="one two three", **fields):
    response = client.post(PATH, json={"input": text, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def events_of(response):
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.fixture
def open_server(tmp_path):
    """Makes servers over the same database; all are stopped at the end."""
    made = []

    def make(engine, key=KEY, **settings):
        settings = load_settings(home=tmp_path, **settings)
        server = Server([engine], host="127.0.0.1", port=0, api_key=key, settings=settings)
        server.start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(drain_s=0)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_response_is_kept_as_it_was_answered(serve, http, is_stream):
    client = http(serve())
    answer = client.post(PATH, json={"input": "one two three", "stream": is_stream, "metadata": {"a": "b"}})
    response = events_of(answer)[-1]["response"] if is_stream else answer.json()
    assert response["store"] is True
    assert client.get(f"{PATH}/{response['id']}").json() == response


def test_what_was_not_to_be_stored_is_not_there(serve, http):
    client = http(serve())
    response = create(client, store=False)
    assert response["store"] is False
    error = error_of(client.get(f"{PATH}/{response['id']}"), 404)
    assert error["code"] == "response_not_found"
    error_of(client.post(PATH, json={"input": "x", "previous_response_id": response["id"]}), 404)


def test_another_key_sees_nothing_of_it(open_server, http):
    engine = MockEngine()
    mine = http(open_server(engine))
    theirs = http(open_server(engine, OTHER_KEY), headers={"Authorization": f"Bearer {OTHER_KEY}"})
    response = create(mine)
    path = f"{PATH}/{response['id']}"
    for method, each in (("GET", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel"), ("DELETE", path)):
        error_of(theirs.request(method, each), 404)
    error_of(theirs.post(PATH, json={"input": "x", "previous_response_id": response["id"]}), 404)
    reference = [{"type": "item_reference", "id": response["output"][0]["id"]}]
    error_of(theirs.post(PATH, json={"input": reference}), 404)
    assert mine.get(path).status_code == 200


def test_a_conversation_goes_on_after_a_restart(open_server, http):
    engine = Recorder()
    first_server = open_server(engine)
    first = create(http(first_server), "one", instructions="Be brief.")
    second = create(http(first_server), "two", previous_response_id=first["id"])
    first_server.stop(drain_s=0)
    client = http(open_server(engine))
    third = create(client, [{"role": "user", "content": "three"}], previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    said = [(message["role"], message["content"]) for message in engine.requests[-1].messages]
    assert said == [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two"), ("user", "three")]


def test_a_conversation_whose_beginning_is_gone_says_which(serve, http):
    client = http(serve())
    first = create(client)
    second = create(client, previous_response_id=first["id"])
    client.delete(f"{PATH}/{first['id']}")
    error = error_of(client.post(PATH, json={"input": "x", "previous_response_id": second["id"]}), 404)
    assert first["id"] in error["message"]
    assert second["id"] in error["message"]
    assert error["code"] == "previous_response_not_found"


def test_items_are_referred_to_by_their_ids(serve, http):
    engine = Recorder()
    client = http(serve(engine))
    first = create(client, [{"role": "user", "content": "one two"}])
    (question,) = client.get(f"{PATH}/{first['id']}/input_items").json()["data"]
    references = [{"type": "item_reference", "id": each["id"]} for each in (question, *first["output"])]
    create(client, [*references, {"role": "user", "content": "three"}])
    assert [message["content"] for message in engine.requests[-1].messages] == ["one two", "one two", "three"]
    error = error_of(client.post(PATH, json={"input": [{"type": "item_reference", "id": "msg_gone"}]}), 404)
    assert error["param"] == "input.0"


def test_input_items_are_listed_in_pages_the_newest_first(serve, http):
    client = http(serve())
    response = create(client, [{"role": "user", "content": str(i)} for i in range(5)])
    path = f"{PATH}/{response['id']}/input_items"
    pages, after = [], ""
    while True:
        page = client.get(path, params={"limit": 2, **({"after": after} if after else {})}).json()
        pages.append([item["content"][0]["text"] for item in page["data"]])
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    oldest = client.get(path, params={"order": "asc"}).json()["data"]
    assert [item["content"][0]["text"] for item in oldest] == ["0", "1", "2", "3", "4"]
    error_of(client.get(path, params={"after": "x"}), 400)
    error_of(client.get(path, params={"page": "1"}), 400)


def test_a_deleted_response_is_gone(serve, http):
    client = http(serve())
    path = f"{PATH}/{create(client)['id']}"
    assert client.delete(path).json()["deleted"] is True
    error_of(client.get(path), 404)
    error_of(client.delete(path), 404)


def test_a_stream_can_be_gone_on_with_from_any_event(serve, http):
    client = http(serve())
    sent = events_of(client.post(PATH, json={"input": "one two three", "stream": True}))
    path = f"{PATH}/{sent[0]['response']['id']}"
    assert events_of(client.get(path, params={"stream": "true"})) == sent
    for after in range(-1, len(sent) + 1):
        again = events_of(client.get(path, params={"stream": "true", "starting_after": after}))
        assert again == sent[after + 1 :]


def test_a_response_that_came_whole_is_followed_as_if_it_had_been_streamed(serve, http):
    client = http(serve())
    response = create(client)
    events = events_of(client.get(f"{PATH}/{response['id']}", params={"stream": "true"}))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["output"] == []
    assert events[-1] == {**events[-1], "type": "response.completed", "response": response}
    streamed = events_of(client.post(PATH, json={"input": "one two three", "stream": True}))
    assert [event["type"] for event in events] == list(dict.fromkeys(event["type"] for event in streamed))


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"starting_after": 1}, "starting_after"),
        ({"stream": "true", "starting_after": -2}, "starting_after"),
        ({"include_obfuscation": "true"}, "include_obfuscation"),
        ({"include[]": "everything"}, "include"),
        ({"include": "message.output_text.logprobs"}, "include"),
        ({"verbose": "1"}, "verbose"),
    ],
)
def test_what_a_retrieval_can_not_honour_is_named(serve, http, params, param):
    client = http(serve())
    response = create(client)
    assert error_of(client.get(f"{PATH}/{response['id']}", params=params), 400)["param"] == param


def test_the_latest_ones_that_fit_are_kept(serve, http):
    client = http(serve(max_stored_responses=2))
    ids = [create(client)["id"] for _ in range(4)]
    assert [client.get(f"{PATH}/{each}").status_code for each in ids] == [404, 404, 200, 200]


def test_a_server_that_keeps_none_says_so_and_answers(serve, http):
    client = http(serve(max_stored_responses=0))
    response = create(client)
    assert response["store"] is False
    error_of(client.get(f"{PATH}/{response['id']}"), 404)
    for field in ("store", "background"):
        error = error_of(client.post(PATH, json={"input": "x", field: True}), 400)
        assert error["param"] == field
        assert "max_stored_responses" in error["message"]


class Held(MockEngine):
    """Waits before its last token until it is let go."""

    def __init__(self):
        super().__init__(name="held")
        self.is_waiting = threading.Event()
        self._let_go = threading.Event()
        self._resume = lambda: None

    async def generate(self, request):
        loop, gate = asyncio.get_running_loop(), asyncio.Event()
        self._resume = lambda: loop.call_soon_threadsafe(gate.set)
        num = 0
        async for event in super().generate(request):
            num += 1
            if num == 3 and not self._let_go.is_set():
                self.is_waiting.set()
                await gate.wait()
            yield event

    def let_go(self):
        self._let_go.set()
        with contextlib.suppress(RuntimeError):  # the server's loop has ended
            self._resume()


@pytest.fixture
def held():
    engine = Held()
    yield engine
    engine.let_go()


def poll(client, response_id, *statuses):
    """Wait until a response has one of the statuses."""
    found = {}

    def has_come():
        found.update(client.get(f"{PATH}/{response_id}").json())
        return found["status"] in statuses

    wait_until(has_come)
    return found


def test_a_response_in_the_background_is_polled_until_it_is_complete(serve, http, held):
    client = http(serve(held))
    response = create(client, background=True)
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    assert poll(client, response["id"], "in_progress")["usage"] is None
    held.let_go()
    done = poll(client, response["id"], "completed")
    assert done["output"][0]["content"][0]["text"] == "one two three"
    error_of(client.post(f"{PATH}/{response['id']}/cancel"), 400)


def test_its_events_are_followed_by_whoever_comes_and_goes(serve, http, held):
    server = serve(held)
    client, other = http(server), http(server)
    with client.stream("POST", PATH, json={"input": "one two three", "background": True, "stream": True}) as stream:
        lines = stream.iter_lines()
        first = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
        held.is_waiting.wait(60)
    response_id = first["response"]["id"]
    followed = []

    def follow():
        followed.extend(events_of(other.get(f"{PATH}/{response_id}", params={"stream": "true", "starting_after": 0})))

    thread = threading.Thread(target=follow)
    thread.start()
    held.let_go()
    thread.join(15)
    numbers = [event["sequence_number"] for event in [first, *followed]]
    assert numbers == list(range(len(numbers)))
    assert followed[-1]["type"] == "response.completed"
    stored = client.get(f"{PATH}/{response_id}", params={"stream": "true", "starting_after": 0})
    assert events_of(stored) == followed


def test_a_response_in_the_background_is_cancelled(serve, http, held):
    server = serve(held)
    client = http(server)
    response = create(client, background=True)
    assert held.is_waiting.wait(60)
    cancelled = client.post(f"{PATH}/{response['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert client.post(f"{PATH}/{response['id']}/cancel").json() == cancelled
    assert client.get(f"{PATH}/{response['id']}").json() == cancelled
    wait_until(lambda: not server._state.active)
    error_of(client.post(PATH, json={"input": "x", "previous_response_id": "resp_none"}), 404)


def test_only_what_runs_in_the_background_is_cancelled(serve, http):
    client = http(serve())
    error = error_of(client.post(f"{PATH}/{create(client)['id']}/cancel"), 400)
    assert "background" in error["message"]


def test_a_deleted_response_in_the_background_ends_and_does_not_come_back(serve, http, held):
    server = serve(held)
    client = http(server)
    response = create(client, background=True)
    assert held.is_waiting.wait(60)
    assert client.delete(f"{PATH}/{response['id']}").status_code == 200
    wait_until(lambda: not server._state.active)
    error_of(client.get(f"{PATH}/{response['id']}"), 404)


def test_nothing_goes_on_after_a_response_that_is_not_complete(serve, http, held):
    client = http(serve(held))
    response = create(client, background=True)
    error = error_of(client.post(PATH, json={"input": "x", "previous_response_id": response["id"]}), 400)
    assert error["param"] == "previous_response_id"


def test_a_server_that_stops_leaves_it_failed(open_server, http, held):
    server = open_server(held)
    response = create(http(server), background=True)
    assert held.is_waiting.wait(60)
    server.stop(drain_s=0)
    left = http(open_server(MockEngine())).get(f"{PATH}/{response['id']}").json()
    assert left["status"] == "failed"
    assert "stopped" in left["error"]["message"]


def test_one_that_a_killed_server_left_has_failed_when_its_time_is_over(open_server, http, held, monkeypatch):
    server = open_server(held, total_timeout_s=30)
    response = create(http(server), background=True)
    stored = {"id": response["id"]}

    async def never(changed):
        stored["body"] = changed.body
        return True

    monkeypatch.setattr(server._store.responses, "change", never)  # killed before it could write
    server.stop(drain_s=0)
    client = http(open_server(MockEngine(), total_timeout_s=30))
    assert client.get(f"{PATH}/{response['id']}").json()["status"] == "queued"
    later = response["created_at"] + 30 + 61
    monkeypatch.setattr("llmapi_kit.api.responses.stored.time", types.SimpleNamespace(time=lambda: later))
    left = client.get(f"{PATH}/{response['id']}").json()
    assert (left["status"], left["error"]["code"]) == ("failed", "server_error")


def test_one_whose_engine_fails_is_kept_as_failed_with_what_came(serve, http):
    client = http(serve(Scripted(Delta("Well"), error=GenerationError("It broke."))))
    response = create(client, background=True)
    failed = poll(client, response["id"], "failed")
    assert failed["error"] == {"code": "server_error", "message": "It broke."}
    assert failed["output"][0]["content"][0]["text"] == "Well"
    events = events_of(client.get(f"{PATH}/{response['id']}", params={"stream": "true"}))
    assert events[-1] == {**events[-1], "type": "response.failed", "response": failed}


@pytest.mark.parametrize("is_background", [False, True])
def test_a_response_that_can_not_be_kept_fails_and_is_not_said_to_be_complete(serve, http, monkeypatch, is_background):
    server = serve()
    client = http(server)

    async def broken(stored):
        raise StoreUnavailableError("It is locked.")

    monkeypatch.setattr(server._store.responses, "change" if is_background else "add", broken)
    body = {"input": "one two", "stream": True, "background": is_background}
    events = events_of(client.post(PATH, json=body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "response.completed" not in [event["type"] for event in events]
    assert events[-1]["response"]["status"] == "failed"
    if not is_background:
        assert error_of(client.post(PATH, json={"input": "one two"}), 503)["code"] == "database_unavailable"


def test_a_stream_that_its_client_left_is_stopped_and_not_stored(serve, http, held):
    server = serve(held)
    with http(server).stream("POST", PATH, json={"input": "one two three", "stream": True}) as stream:
        first = json.loads(next(line for line in stream.iter_lines() if line.startswith("data: "))[6:])
        assert held.is_waiting.wait(60)
    wait_until(lambda: not server._state.active)
    error_of(http(server).get(f"{PATH}/{first['response']['id']}"), 404)


def test_what_its_engine_refuses_is_refused_at_once(serve, http):
    client = http(serve())
    error_of(client.post(PATH, json={"input": "word " * 9000, "background": True}), 400)


def test_the_client_lists_deletes_and_cancels(serve, held):
    with serve(held).client(max_retries=0, _strict_response_validation=True) as client:
        response = client.responses.create(model="held", input="one two three", background=True)
        assert client.responses.cancel(response.id).status == "cancelled"
        (item,) = client.responses.input_items.list(response.id)
        assert item.content[0].text == "one two three"
        client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)
