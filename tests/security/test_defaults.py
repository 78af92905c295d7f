"""What holds without any setting: the limits are those that docs/security.md promises, and each is refused by name."""

from __future__ import annotations

import inspect
import socket

import pytest

import llmapi_kit as kit
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, UnsupportedFieldError
from llmapi_kit.server import http_protocol

from .conftest import CHAT, chat, connect, serving

DEFAULTS = {
    "max_body_bytes": 2_000_000,
    "max_json_depth": 64,
    "max_answers": 4,
    "max_stop_strings": 4,
    "max_queue": 0,  # four times the slots, at most 128
    "queue_timeout_s": 60,
    "first_token_timeout_s": 120,
    "total_timeout_s": 600,
    "stalled_reader_s": 30,
    "drain_s": 30,
    "keep_alive_s": 15,
    "prefix_cache": "per_key",
    "cors_origins": (),
    "event_token_s": 300,
}
OVER = {
    "n": 5,
    "stop": list("abcde"),
    "logit_bias": {str(token): 1 for token in range(1025)},
    "temperature": 2.1,
    "top_p": 1.1,
    "top_k": 2**31,
    "min_p": 1.1,
    "typical_p": 0,
    "repetition_penalty": 11,
    "presence_penalty": -2.1,
    "frequency_penalty": 2.1,
    "seed": 2**63,
    "max_tokens": 0,
    "max_completion_tokens": -2,
    "min_tokens": -1,
    "num_beams": 0,
}


def test_settings_are_as_promised():
    assert {name: Settings.model_fields[name].default for name in DEFAULTS} == DEFAULTS


def test_limits_of_a_connection_are_as_promised():
    assert http_protocol.MAX_HEADER_BYTES == 16_384
    assert (http_protocol.MAX_HEAD_S, http_protocol.MAX_BODY_S, http_protocol.STALLED_READER_S) == (30, 120, 30)
    assert 0 < http_protocol.MAX_CONNECTIONS <= http_protocol.MOST_CONNECTIONS


def test_a_server_is_on_this_machine_only(server):
    assert inspect.signature(kit.launch).parameters["host"].default == "127.0.0.1"
    bound = {listener.getsockname()[0] for listener in server._thread._server.servers[0].sockets}
    assert bound == {"127.0.0.1"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


@pytest.mark.parametrize("name", OVER)
def test_what_is_over_a_bound_is_refused_by_name(client, name):
    response = client.post(CHAT, json=chat() | {name: OVER[name]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_top_logprobs_and_best_of_have_bounds_too(client):
    response = client.post(CHAT, json=chat(logprobs=True, top_logprobs=21))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "top_logprobs")
    for body in ({"best_of": 5}, {"n": 5, "best_of": 5}):
        response = client.post("/v1/completions", json={"prompt": "a", **body})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n" if "n" in body else "best_of")


@pytest.mark.parametrize("limit", [2, 6])
def test_the_settings_move_the_bounds_and_the_refusal_names_them(tmp_path, limit):
    with serving(tmp_path, max_answers=limit, max_stop_strings=limit) as server, connect(server) as client:
        within = chat(n=limit, stop=[str(index) for index in range(limit)])
        assert len(client.post(CHAT, json=within).json()["choices"]) == limit
        for name, setting in {"n": "max_answers", "stop": "max_stop_strings"}.items():
            over = limit + 1 if name == "n" else [str(index) for index in range(limit + 1)]
            error = client.post(CHAT, json=chat() | {name: over}).json()["error"]
            assert error["param"] == name
            assert f"at most {limit} (its setting {setting})" in error["message"]


@pytest.mark.parametrize("place", [{"host": "0.0.0.0"}, {"host": "::"}, {"tunnel": "ngrok"}])
def test_without_a_key_nothing_but_this_machine_is_possible(place):
    with pytest.raises(ConfigError, match="api_key=False works on this machine only"):
        kit.launch("mock", port=0, api_key=False, **place)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_weights_that_run_code_are_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(kit.LlmApiKitError, match="pickle"):
        kit.load(str(tmp_path))


def test_no_request_loads_a_model_or_runs_its_code(client):
    for model in ("pocket", "./model", "../../etc/passwd", "https://evil.example/model", "openai:gpt-4o"):
        response = client.post(CHAT, json=chat(model=model))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    for field in ("trust_remote_code", "lora", "model_path", "adapter", "plugins"):
        response = client.post(CHAT, json=chat() | {field: "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, UnsupportedFieldError.default_code)
