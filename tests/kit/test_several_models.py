"""Several models on one server: loaded when they are asked for, under several names, and never two at a time."""

from __future__ import annotations

import importlib
import signal
import threading

import httpx
import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, ModelNotFoundError
from tests.plugin_packages import add_package, without_collecting_garbage

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

BACK_END = """
    import threading
    from llmapi_kit.engines.mock import MockEngine

    gates, made, closed = {}, [], []


    class Mine(MockEngine):
        def close(self):
            super().close()
            closed.append(self)


    def make(name, **options):
        made.append(name)
        if name in gates:
            assert gates[name].wait(30)
        if name == "broken":
            raise RuntimeError("no such weights")
        return Mine(f"I am {name}", name=name, **options)
"""


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    without_collecting_garbage(monkeypatch)
    yield
    kit.stop_all()


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """A back end ``mine:…`` whose models load when a test lets them."""
    add_package(monkeypatch, tmp_path / "site", "my_back_end", BACK_END, entries={"mine": "make"})
    return importlib.import_module("my_back_end")


def content(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def get(server, path):
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.get(server.url + path, headers=headers, timeout=10, trust_env=False)


def states(server):
    return {card["id"]: card["llmapi_kit"]["state"] for card in get(server, "/v1/models").json()["data"]}


def test_names_in_a_list_are_loaded_when_they_are_asked_for(mine, ask):
    server = kit.launch(["mine:a", "mine:b", "mock"], port=0)
    assert mine.made == []
    assert server.models == ["a", "b", "mock"]
    assert states(server) == {"a": "unloaded", "b": "unloaded", "mock": "loaded"}
    assert "a (unloaded), b (unloaded), mock" in repr(server)
    assert get(server, "/readyz").status_code == 200
    assert content(ask(server, model="b")) == "I am b"
    assert mine.made == ["b"]
    assert states(server) == {"a": "unloaded", "b": "loaded", "mock": "loaded"}
    assert server.stats()["b"]["num_loads"] == 1
    assert server.stats()["a"]["num_loads"] == 0
    text = get(server, "/metrics").text
    assert 'llmapi_kit_model_loads_total{model="b"} 1.0' in text
    assert 'llmapi_kit_model_loaded{model="a"} 0.0' in text


def test_a_single_name_is_loaded_before_launch_returns(mine):
    kit.launch("mine:a", port=0, name="one")
    kit.launch(["mine:b"], port=0, name="other")
    assert mine.made == ["a", "b"]


def test_while_a_model_loads_the_server_says_so_and_answers_for_others(mine, ask, beside, wait_until):
    mine.gates["a"] = threading.Event()
    server = kit.launch(["mine:a", "mock"], port=0)
    answer = beside(ask, server, "hello", "a")
    wait_until(lambda: mine.made == ["a"])
    assert states(server)["a"] == "loading"
    ready = get(server, "/readyz")
    assert (ready.status_code, ready.json()["models"]["a"]["state"]) == (200, "loading")
    assert content(ask(server, model="mock")) == "hello"
    mine.gates["a"].set()
    assert content(answer()) == "I am a"


def test_wrong_names_fail_at_launch_and_nothing_is_left(mine):
    for wrong in ("./nowhere", "yours:x", "mine:"):
        with pytest.raises(ModelNotFoundError):
            kit.launch(["mine:a", wrong], port=0)
    with pytest.raises(ModelNotFoundError, match=r"no provider 'yours'.*openai.*, mine"):
        kit.launch(["mine:a", "yours:x"], port=0)
    assert mine.made == []
    assert kit.servers() == []


def test_a_model_that_does_not_load_is_that_requests_error(mine, ask):
    server = kit.launch(["mine:broken", "mock"], port=0)
    response = ask(server, model="broken")
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 2
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_load_failed", "model")
    assert "The back end 'mine' of the package my_back_end failed to load 'broken'" in error["message"]
    assert "no such weights" in error["message"]
    assert content(ask(server, model="mock")) == "hello"
    assert "no such weights" in get(server, "/readyz").json()["models"]["broken"]["reason"]


def test_aliases_are_answered_and_listed(mine, ask):
    server = kit.launch(["mine:a", "mock"], port=0, aliases={"gpt-3.5-turbo": "mock", "team/large": "a"})
    response = ask(server, "to be", model="gpt-3.5-turbo")
    assert content(response) == "to be"
    assert response.json()["model"] == "mock"
    assert content(ask(server, model="team/large")) == "I am a"
    listed = {card["id"]: card["llmapi_kit"]["alias_of"] for card in get(server, "/v1/models").json()["data"]}
    assert listed == {"a": None, "mock": None, "gpt-3.5-turbo": "mock", "team/large": "a"}
    card = get(server, "/v1/models/team/large").json()
    assert (card["id"], card["llmapi_kit"]["alias_of"], card["llmapi_kit"]["state"]) == ("team/large", "a", "loaded")
    assert server.aliases == {"gpt-3.5-turbo": "mock", "team/large": "a"}
    assert "gpt-3.5-turbo = mock" in repr(server)
    error = ask(server, model="gpt-5").json()["error"]
    assert "This server has: a, mock, gpt-3.5-turbo, team/large." in error["message"]


def test_the_default_answers_where_no_model_is_named(mine):
    server = kit.launch(["mock", "mine:a"], port=0, default="a")
    assert server.models == ["a", "mock"]
    body = {"messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    response = httpx.post(server.url + "/v1/chat/completions", json=body, headers=headers, trust_env=False)
    assert content(response) == "I am a"
    again = kit.launch(["mock", "mine:a"], port=0, default="big", aliases={"big": "mock"})
    assert again is server
    assert server.models == ["mock", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aliases": {"x": "nothing"}}, "alias 'x' stands for 'nothing', which is not one of: mock"),
        ({"aliases": {"mock": "mock"}}, "alias 'mock' is the name of a model"),
        ({"aliases": {"": "mock"}}, "or empty"),
        ({"default": "nothing"}, "default is 'nothing', which is not one of the models: mock"),
        ({"max_slots": 2}, "max_slots is a setting of models"),
    ],
)
def test_names_that_lead_nowhere_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        kit.launch(kit.load("mock"), port=0, **options)
    assert kit.servers() == []


def test_two_models_of_one_name_can_be_told_apart(ask):
    with pytest.raises(ConfigError, match="served_name"):
        kit.launch([kit.load("mock"), MockEngine()], port=0)
    other = kit.load("mock", served_name="team/mock")
    server = kit.launch([kit.load("mock"), other], port=0)
    assert server.models == ["mock", "team/mock"]
    assert ask(server, model="team/mock").json()["model"] == "team/mock"
    with pytest.raises(ConfigError, match="served_name"):
        kit.load("mock", served_name=" ")


def test_running_the_cell_again_keeps_loaded_models_loaded(mine, ask):
    server = kit.launch(["mine:a", "mine:b"], port=0)
    assert content(ask(server, model="a")) == "I am a"
    assert kit.launch(["mine:a", "mine:b"], port=0) is server
    assert content(ask(server, model="a")) == "I am a"
    other = kit.launch(["mine:b", "mine:a", "mock"], port=0, max_body_bytes=5000)
    assert other is not server
    assert content(ask(other, model="a")) == "I am a"
    assert mine.made == ["a"]


def test_a_model_that_is_left_out_is_unloaded(mine, ask):
    server = kit.launch(["mine:a", "mine:b"], port=0)
    assert content(ask(server, model="a")) == "I am a"
    kit.launch(["mine:b", "mock"], port=0)
    assert len(mine.closed) == 1
    assert ask(server, model="a").status_code == 404


def test_an_idle_model_is_unloaded_and_comes_back(mine, ask, wait_until):
    server = kit.launch(["mine:a", "mock"], port=0, idle_unload_s=0.05)
    assert content(ask(server, model="a")) == "I am a"
    wait_until(lambda: states(server)["a"] == "unloaded")
    assert server.stats()["a"]["num_finished"] == 1
    assert content(ask(server, model="a")) == "I am a"
    assert server.stats()["a"]["num_finished"] == 2
    kit.launch(["mine:a", "mock"], port=0, idle_unload_s=0, name=str(server.port))


def test_loading_a_model_that_a_server_loads_lazily_is_the_same_model(mine, ask):
    server = kit.launch(["mine:a", "mock"], port=0)
    model = kit.load("mine:a")
    assert mine.made == ["a"]
    assert model.ask("hello") == "I am a"
    assert content(ask(server, model="a")) == "I am a"
    assert mine.made == ["a"]
    assert kit.load("mine:a") is model


def test_a_model_that_is_loaded_already_is_served_as_it_is(mine, ask):
    model = kit.load("mine:a")
    server = kit.launch(["mock", "mine:a"], port=0)
    assert states(server)["a"] == "loaded"
    assert server.engines[1] is model.engine


def test_a_lazy_model_waits_for_its_first_question(mine):
    model = kit.load("mine:a", lazy=True, served_name="later")
    assert model.engine.info.capabilities == ()
    assert mine.made == []
    assert repr(model) == "Model 'later', unloaded. Not loaded: the first request for it loads it."
    assert model.ask("hello") == "I am a"
    assert "A stand-in" in repr(model)
    assert model.name == "later"


def test_stop_all_in_the_middle_of_a_load_neither_hangs_nor_leaks(mine, ask, beside, wait_until):
    gate = mine.gates["a"] = threading.Event()
    server = kit.launch(["mine:a", "mock"], port=0)
    answer = beside(ask, server, "hello", "a")
    wait_until(lambda: mine.made == ["a"])
    kit.stop_all()
    outcome = answer()
    assert isinstance(outcome, httpx.TransportError) or outcome.status_code == 503
    gate.set()
    wait_until(lambda: len(mine.closed) == 1)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "llmapi_kit load a"])


@pytest.mark.parametrize("is_stream", [True, False])
def test_stopping_the_server_tells_those_who_wait_for_a_model(mine, ask, beside, wait_until, is_stream):
    """They got no answer at all: their connections were cut."""
    gate = mine.gates["a"] = threading.Event()
    server = kit.launch(["mine:a", "mock"], port=0)
    answer = beside(lambda: ask(server, model="a", stream=is_stream))
    wait_until(lambda: mine.made == ["a"])
    server.stop()
    response = answer()
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The server was stopped."
    gate.set()
    wait_until(lambda: server.engines[0].readiness().state == "loaded")


def test_an_interrupt_while_a_cell_waits_for_a_load_harms_nobody(mine, ask, beside, wait_until):
    gate = mine.gates["a"] = threading.Event()
    server = kit.launch(["mine:a", "mock"], port=0)
    answer = beside(ask, server, "hello", "a")
    wait_until(lambda: mine.made == ["a"])
    main = threading.main_thread().ident
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        kit.load("mine:a")
    gate.set()
    assert content(answer()) == "I am a"
    assert kit.load("mine:a").ask("hello") == "I am a"
    assert mine.made == ["a"]


def test_settings_of_models_reach_those_given_by_name():
    """They were taken by launch and reached nobody."""
    kit.launch("mock", port=0, max_slots=3)
    assert kit.load("mock", max_slots=3) is kit.load("mock", max_slots=3)
    assert kit.load("mock", max_slots=3).engine in kit.launch("mock", port=0, max_slots=3).engines
