"""kit.launch: one call to a server that answers; running the cell again changes what was changed, and nothing else."""

import os
import socket

import pytest

import llmapi_kit as kit
from llmapi_kit import kit as kit_module
from llmapi_kit import own_servers
from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, PortInUseError, ServerError, TunnelAuthError, TunnelError

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OWN_KEY = "my-own-key-of-this-team"


def content_of(response):
    return response.json()["choices"][0]["message"]["content"]


def test_launch_returns_a_server_that_answers(ask):
    server = kit.launch(kit.load("mock"), port=0)
    assert server.is_running
    assert content_of(ask(server, "to be or not")) == "to be or not"


def test_the_official_client_answers_and_streams():
    server = kit.launch("mock", port=0)
    messages = [{"role": "user", "content": "to be or not"}]
    with server.client() as client:
        assert client.models.list().data[0].id == "mock"
        whole = client.chat.completions.create(model="mock", messages=messages)
        assert whole.choices[0].message.content == "to be or not"
        chunks = list(client.chat.completions.create(model="mock", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "to be or not"
    assert server.stats()["mock"]["num_finished"] == 2


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = kit.launch("mock", port=0)
    with server.client(max_retries=0) as client:
        assert client.models.list().data[0].id == "mock"
    assert kit.connect(server.url).models() == ["mock"]


def test_running_the_cell_again_gives_the_same_server_url_and_key(ask):
    first = kit.launch(kit.load("mock"), port=0)
    place = first.url, first.api_key
    again = kit.launch(kit.load("mock"), port=0)
    assert again is first
    assert (again.url, again.api_key) == place
    assert len(kit.servers()) == 1
    assert ask(again).status_code == 200


def test_loading_again_gives_the_same_model():
    assert kit.load("mock") is kit.load("mock")
    assert kit.load("mock", max_slots=2) is not kit.load("mock")


def test_a_closed_model_is_loaded_afresh():
    model = kit.load("mock")
    model.close()
    with pytest.raises(ConfigError, match=r"was closed. Load it again"):
        kit.launch(model, port=0)
    assert kit.load("mock") is not model


def test_another_model_takes_over_at_the_same_url_and_the_old_one_is_closed(ask):
    old = kit.load("mock")
    server = kit.launch(old, port=0)
    place = server.url, server.api_key
    again = kit.launch(MockEngine("I am new", name="new"), port=0)
    assert (again.url, again.api_key) == place
    assert again.models == ["new"]
    assert old.is_closed
    assert content_of(ask(again, model="new")) == "I am new"
    assert ask(again, model="mock").status_code == 404
    assert kit.servers()[0].models == ("new",)


def test_an_engine_made_by_hand_is_not_closed():
    by_hand = MockEngine(name="by-hand")
    kit.launch(by_hand, port=0)
    kit.launch("mock", port=0)
    kit.stop_all()
    assert by_hand.readiness().ready


def test_a_model_that_another_server_uses_stays_open(ask):
    model = kit.load("mock")
    kit.launch(model, port=0, name="a")
    other = kit.launch(model, port=0, name="b")
    kit.launch(MockEngine(name="new"), port=0, name="a")
    assert not model.is_closed
    assert ask(other).status_code == 200


def replaced_under_a_request(ask, beside, wait_until, delay_s, drain_s):
    model = kit.load("mock")
    model.engine._delay_s = delay_s
    server = kit.launch(model, port=0, drain_s=drain_s)
    answer = beside(ask, server, "one two three four")
    wait_until(lambda: model.stats().num_running == 1)
    kit.launch(MockEngine(name="new"), port=0, drain_s=drain_s)
    assert model.is_closed
    return answer()


def test_an_answer_under_way_may_finish_on_the_old_model(ask, beside, wait_until):
    response = replaced_under_a_request(ask, beside, wait_until, delay_s=0.1, drain_s=5)
    assert content_of(response) == "one two three four"


def test_an_answer_that_takes_too_long_ends_in_a_clear_error(ask, beside, wait_until):
    response = replaced_under_a_request(ask, beside, wait_until, delay_s=0.5, drain_s=0.1)
    assert response.status_code == 503
    assert "closed" in response.json()["error"]["message"]


def test_another_port_is_a_second_server(ask):
    first = kit.launch("mock", port=0, name="first")
    second = kit.launch("mock", port=0, name="second")
    assert first.port != second.port
    assert first.api_key != second.api_key
    assert ask(first).status_code == ask(second).status_code == 200
    assert {record.port for record in kit.servers()} == {first.port, second.port}


def test_changed_settings_start_the_server_again_at_the_same_url_with_the_same_key(ask):
    first = kit.launch("mock", port=0)
    second = kit.launch("mock", port=0, max_body_bytes=2000)
    assert second is not first
    assert not first.is_running
    assert (second.url, second.api_key) == (first.url, first.api_key)
    assert ask(second, "x" * 3000).status_code == 413


def test_another_key_takes_the_place_of_the_old_one(ask):
    first = kit.launch("mock", port=0)
    second = kit.launch("mock", port=0, api_key=OWN_KEY)
    assert (second.url, second.api_key) == (first.url, OWN_KEY)
    assert ask(second).status_code == 200
    assert kit.launch("mock", port=0) is second, "a key chosen once stays"


def test_a_server_without_a_key_gets_one_unless_that_is_refused_again(ask):
    """The first version went on without a key when the cell no longer asked for that."""
    keyless = kit.launch("mock", port=0, api_key=False)
    assert keyless.api_key is None
    assert keyless.key_file is None
    assert ask(keyless).status_code == 200
    assert kit.launch("mock", port=0, api_key=False) is keyless
    keyed = kit.launch("mock", port=0)
    assert keyed.url == keyless.url
    assert keyed.api_key is not None
    assert kit_module.RemoteServer(keyed.url, None)._get("/v1/models", {}).status_code == 401


def test_after_stop_a_launch_has_the_same_key(ask):
    """It made a new one each time, and the settings of teammates broke unannounced."""
    first = kit.launch("mock", port=0)
    first.stop()
    assert kit.servers() == []
    second = kit.launch("mock", port=0)
    assert second is not first
    assert second.api_key == first.api_key
    assert ask(second).status_code == 200


def test_a_dead_server_is_replaced_at_the_same_url_with_the_same_key(ask):
    first = kit.launch("mock", port=0)

    def die():
        raise SystemExit("gone")

    first._thread.call_soon(die)
    first._thread._thread.join(60)
    assert kit.servers() == []
    second = kit.launch("mock", port=0)
    assert (second.url, second.api_key) == (first.url, first.api_key)
    assert ask(second).status_code == 200


def test_a_model_whose_engine_died_is_loaded_anew():
    dead = kit.load("mock")
    dead.engine.close()
    fresh = kit.load("mock")
    assert fresh is not dead
    assert dead.is_closed
    assert fresh.engine.readiness().ready


def test_port_in_use_by_another_program_is_told_in_the_cell():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"Port {port} is in use by another program .pid {os.getpid()}"):
            kit.launch("mock", port=port)
    assert kit.servers() == []


def test_port_in_use_by_another_server_of_this_notebook_is_told():
    first = kit.launch("mock", port=0)
    with pytest.raises(PortInUseError, match="another server of this notebook"):
        kit.launch("mock", port=first.port)


def test_port_in_use_by_the_server_of_another_notebook_says_how_to_use_that(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        record = ServerRecord("i", f"http://127.0.0.1:{port}", port, ("pocket",), pid=4121)
        monkeypatch.setattr(RunningServers, "running", lambda self: [record])
        with pytest.raises(PortInUseError) as caught:
            kit.launch("mock", port=port)
    message = str(caught.value)
    assert "the llmapi_kit server of another notebook (pid 4121, model pocket)" in message
    assert f"kit.connect('http://127.0.0.1:{port}')" in message


def test_a_launch_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match="LLMAPI_KIT_HOME"):
        kit.launch("mock", port=0)
    assert kit_module.own_servers() == []
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / "home"))
    assert kit.launch("mock", port=0).is_running


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"api_key": False, "host": "0.0.0.0"}, "api_key=False works on this machine only"),
        ({"api_key": False, "tunnel": "ngrok"}, "api_key=False works on this machine only"),
        (
            {"api_key": "short", "host": "0.0.0.0"},
            "has 5 characters; at least 16 are needed where others .* at 0.0.0.0",
        ),
        ({"api_key": "short", "tunnel": "ngrok"}, "has 5 characters; at least 16 are needed where others .* a tunnel"),
        ({"tunnel": "ngrok", "tunnel_options": {"token": "x"}}, "no option 'token'. Allowed: auth_token, domain"),
        ({"bots": {"chatgpt": {"kind": "robot"}}}, "robot"),
        ({"host": "192.0.2.1"}, "can't bind 192.0.2.1"),
        ({"port": "8000"}, "port is '8000'"),
        ({"default": "other"}, "default is 'other', which is not one of the models: pocket"),
        ({"aliases": {"a": "b"}}, "alias 'a' stands for 'b'"),
        ({"aliases": {"pocket": "pocket"}}, "alias 'pocket' is the name of a model"),
        ({"api_key": "with spaces in the middle"}, "without spaces"),
        ({"total_timeout_s": -1}, "total_timeout_s"),
        ({"no_such_setting": 1}, r"launch\(\) has no argument 'no_such_setting'"),
        ({"tunnel": "carrier pigeon"}, "no tunnel kind"),
        ({"tunnel": "ngrock"}, "Did you mean 'ngrok'"),
        ({"tunnel": True}, 'Pass tunnel="ngrok"'),
        ({"share": "ngrok"}, "share is 'ngrok'; it is True or False"),
        ({"share": True, "api_key": "short"}, "has 5 characters; .* a tunnel"),
        ({"api_key": "none"}, "pass api_key=False to ask for none"),
        ({"api_key": "EMPTY"}, "pass api_key=False to ask for none"),
    ],
)
def test_what_can_not_be_is_refused_before_a_model_is_loaded(monkeypatch, arguments, message):
    """A key that was too short used to be refused after minutes of loading."""
    monkeypatch.setattr(kit_module._own.models, "load", lambda *_, **__: pytest.fail("it loads a model"))
    with pytest.raises(ConfigError, match=message):
        kit.launch("pocket", **{"port": 0, **arguments})
    assert kit.servers() == []


@pytest.mark.torch
def test_a_port_in_use_and_a_missing_token_are_told_before_a_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(kit_module._own.models, "load", lambda *_, **__: pytest.fail("it loads a model"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUseError):
            kit.launch("pocket", port=other.getsockname()[1])
    with pytest.raises(TunnelAuthError):
        kit.launch("pocket", port=0, tunnel="ngrok")


@pytest.mark.torch
def test_nothing_slow_is_imported_before_all_is_checked(program):
    code = """
import sys
from llmapi_kit import kit
from llmapi_kit.server.endpoint import Endpoint
kit.check_launch("pocket", Endpoint(host="127.0.0.1", port=0, api_key=None), options={"served_name": "a"}, default="a")
print("torch" in sys.modules, "sqlalchemy" in sys.modules)
"""
    assert program(code) == "False False"


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "192.0.2.1"},
        {"default": "other"},
        {"tunnel": "ngrok", "api_key": "short"},
        {"tunnel": True},
        {"tunnel": "ngrok"},
        {"tunnel": "ngrok", "total_timeout_s": 50},
        {"database_url": "postgresql://nobody@127.0.0.1:9/nothing", "database_timeout_s": 1},
        {"share": True},
    ],
    ids=str,
)
def test_a_launch_that_fails_leaves_the_server_before_it_as_it_was(ask, monkeypatch, tmp_path, wrong):
    """Models and aliases were gone, or the server was."""
    monkeypatch.setenv("HOME", str(tmp_path))
    server = kit.launch(["mock", MockEngine(name="second")], port=0, aliases={"other": "mock"})
    with pytest.raises(kit.LlmApiKitError):
        kit.launch("mock", port=0, **wrong)
    assert server.models == ["mock", "second"]
    assert ask(server, model="other").status_code == ask(server, model="second").status_code == 200
    assert [record.models for record in kit.servers()] == [("mock", "second")]
    assert kit.connect().models() == ["mock", "second", "other"]


@pytest.mark.parametrize("settings", [{}, {"total_timeout_s": 50}], ids=["the same", "others"])
def test_a_tunnel_that_does_not_open_leaves_the_server_before_it_as_it_was(ask, monkeypatch, settings):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "a-token")
    old = MockEngine("I am old", name="old")
    server = kit.launch(old, port=0)
    agent = {"ngrok_path": "/bin/false"}
    with pytest.raises(TunnelError):
        kit.launch("mock", port=0, tunnel="ngrok", tunnel_options=agent, **settings)
    assert content_of(ask(server, model="old")) == "I am old"
    assert kit.connect().models() == ["old"]
    assert kit.launch(old, port=0) is server


def test_other_settings_cut_no_answer_and_refuse_nobody(ask, beside, wait_until):
    model = kit.load("mock")
    model.engine._delay_s = 0.1
    server = kit.launch(model, port=0)
    under_way = beside(ask, server, "one two three four five")
    wait_until(lambda: model.stats().num_running == 1)
    launch = beside(lambda: kit.launch(model, port=0, max_body_bytes=2000))
    wait_until(lambda: server.is_stopped)
    assert ask(server, "meanwhile").status_code == 200
    assert content_of(under_way()) == "one two three four five"
    assert launch().url == server.url
    assert kit.connect(server.url).models() == ["mock"]


def test_models_that_a_second_launch_replaces_are_named(caplog):
    server = kit.launch("mock", port=0)
    assert kit.launch("mock", port=0).replaced == ()
    assert caplog.text == ""
    again = kit.launch(MockEngine(name="new"), port=0)
    assert again is server
    assert again.replaced == ("mock",)
    assert "new now answers at" in caplog.text
    assert "in place of mock" in caplog.text
    assert "instead of mock" in repr(again)


def test_a_launch_without_a_port_takes_the_next_one_that_is_free(monkeypatch, caplog):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr("llmapi_kit.server.port.DEFAULT_PORT", taken)
        monkeypatch.setattr(own_servers, "DEFAULT_PORT", taken)
        server = kit.launch("mock")
        assert server.port != taken
        assert f"Port {taken} is in use" in caplog.text
        assert kit.launch("mock") is server


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("prot", "Did you mean 'port'"),
        ("tunel", "Did you mean 'tunnel'"),
        ("public", "share=True"),
        ("max_tokens", "default_max_tokens"),
        ("max_slot", "Did you mean 'max_slots'"),
        ("gpu", "It takes"),
        ("device", r"kit.load\(…, device=…\)"),
        ("server_port", "It is port here"),
    ],
)
def test_an_argument_that_is_not_known_is_answered_with_the_right_one(argument, words):
    with pytest.raises(ConfigError, match=words):
        kit.launch("mock", **{argument: 1})
    assert kit.servers() == []


@pytest.mark.parametrize("key", ["secret-12", "x", "0"])
def test_a_short_key_opens_a_server_of_this_machine_with_a_warning(ask, caplog, key):
    server = kit.launch("mock", port=0, api_key=key)
    assert ask(server).status_code == 200
    assert kit_module.RemoteServer(server.url, f"{key}x")._get("/v1/models", {}).status_code == 401
    assert f"The API key has {len(key)} characters" in caplog.text
    assert kit.launch("mock", port=0) is server


def test_a_server_with_a_short_key_is_not_made_public_later():
    server = kit.launch("mock", port=0, api_key="secret-12")
    with pytest.raises(ConfigError, match=r"has 9 characters; at least 16 are needed .* through a tunnel"):
        server.open_tunnel("ngrok")
    with pytest.raises(ConfigError, match="has 9 characters"):
        kit.launch("mock", port=0, tunnel="ngrok")
    assert server.is_running


def test_an_option_that_no_tunnel_has_is_refused_by_name():
    server = kit.launch("mock", port=0)
    with pytest.raises(ConfigError, match="no option 'colour'"):
        server.open_tunnel("ngrok", colour="red")


@pytest.mark.parametrize("thing", [3, None, [], [3]])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(ConfigError):
        kit.launch(thing, port=0)
    assert kit.servers() == []


def test_every_address_of_the_machine_can_be_bound_with_a_key(ask):
    server = kit.launch("mock", port=0, host="0.0.0.0")
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert ask(server).status_code == 200


def test_a_tunnel_to_a_stopped_server_is_refused():
    server = kit.launch("mock", port=0)
    server.stop()
    with pytest.raises(ServerError, match="stopped"):
        server.open_tunnel("ngrok")


def test_stop_all_stops_servers_and_unloads_models():
    model = kit.load("mock")
    server = kit.launch(model, port=0)
    kit.stop_all()
    assert not server.is_running
    assert model.is_closed
    assert kit.servers() == []
