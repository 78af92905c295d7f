"""Engines that hang or choke on one request: nobody waits for ever, and the server says how it is."""

from __future__ import annotations

import threading
import time

from llmapi_kit.batching import loop
from tests.engines.conftest import make_local

from .conftest import CHAT, DEADLINE_S, chat, code_of, connect, serving

NUM_BESIDE = 7


class Gate:
    """Holds the steps of a runner until it is opened."""

    def __init__(self):
        self._open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, items):
        self.entered.set()
        assert self._open.wait(30), "the gate was never opened"

    def open(self):
        self._open.set()


def post_in_background(server, path, body):
    """Ask beside the test; call what is returned for the answer."""
    results = []

    def post():
        with connect(server) as client:
            results.append(client.post(path, json=body))

    thread = threading.Thread(target=post, daemon=True)
    thread.start()

    def result():
        thread.join(DEADLINE_S)
        assert results, "it did not end"
        return results[0]

    return result


def test_a_step_that_hangs_shows_in_readiness_and_ends_its_request(tmp_path, monkeypatch):
    """vLLM was dead and said that it was healthy (vLLM #39863)."""
    monkeypatch.setattr(loop, "STALLED_AFTER_S", 0.1)
    gate = Gate()
    with (
        serving(tmp_path, make_local(before_step=gate), first_token_timeout_s=1.0) as server,
        connect(server) as client,
    ):
        try:
            answer = post_in_background(server, CHAT, chat())
            assert gate.entered.wait(DEADLINE_S)
            deadline = time.monotonic() + DEADLINE_S
            while (ready := client.get("/readyz")).status_code == 200:
                assert time.monotonic() < deadline, "it says that it is ready"
            assert "computing one step" in ready.text
            assert client.get("/healthz").status_code == 200
            assert (answer().status_code, code_of(answer())) == (504, "timeout")
        finally:
            gate.open()
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, "it does not get ready again"
        assert client.post(CHAT, json=chat(max_tokens=1)).status_code == 200


def test_one_of_eight_in_a_step_that_raises_changes_nothing_for_the_other_seven(tmp_path):
    """One request that can't be computed took its whole batch along (vLLM PR #45346)."""
    gate, poison = Gate(), 61
    engine = make_local(num_slots=8, poison=poison, before_step=gate)
    with serving(tmp_path, engine) as server:
        bodies = [{"prompt": [index + 1, 5], "max_tokens": 8, "temperature": 0} for index in range(NUM_BESIDE)]
        bodies.append({"prompt": [5, poison], "max_tokens": 8, "temperature": 0})
        answers = [post_in_background(server, "/v1/completions", body) for body in bodies]
        gate.open()
        *good, bad = [answer() for answer in answers]
        assert (bad.status_code, code_of(bad)) == (500, "generation_failed")
        for body, answer in zip(bodies, good, strict=False):
            tokens = engine.test_runner.expected(body["prompt"], 8)
            if poison in tokens:  # then its own answer led it there
                continue
            assert answer.json()["choices"][0]["text"] == "".join(f"<{token}>" for token in tokens)
