"""Interrupts: they stop what the cell waits for, and nothing else."""

import os
import signal
import threading

import pytest

import llmapi_kit as kit

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.name != "posix", reason="needs signals")]

NUM_INTERRUPTS = 100
NUM_TOKENS = 250  # which take five seconds
DEADLINE_S = 60.0

STREAM_UNDER_INTERRUPTS = """
import json, os, signal, sys, threading, time
import httpx
import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine

NUM_TOKENS, NUM_INTERRUPTS = map(int, sys.argv[1:])
engine = MockEngine("word", num_tokens=NUM_TOKENS, delay_s=0.02)
server = kit.launch(engine, port=0)
lines, begun = [], threading.Event()

def read():
    body = {"model": "mock", "messages": [{"role": "user", "content": "go"}], "stream": True}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    url = server.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30, trust_env=False) as response:
        for line in response.iter_lines():
            lines.append(line)
            begun.set()

reader = threading.Thread(target=read)
reader.start()
begun.wait(30)
num_interrupts = num_midway = 0
while num_interrupts < NUM_INTERRUPTS:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        num_interrupts += 1
        num_midway += reader.is_alive()
    try:
        time.sleep(0.01)
    except KeyboardInterrupt:
        pass
reader.join(60)
text = "".join(
    choice["delta"].get("content") or ""
    for line in lines if line.startswith("data: {")
    for choice in json.loads(line[6:])["choices"]
)
print(json.dumps([num_midway, text.split() == ["word"] * NUM_TOKENS, "data: [DONE]" in lines, server.is_running]))
server.stop()
"""


def interrupt_main_thread():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.mark.slow
def test_a_hundred_interrupts_break_no_stream(warm_program):
    said = warm_program(STREAM_UNDER_INTERRUPTS, str(NUM_TOKENS), str(NUM_INTERRUPTS))
    assert said == f"[{NUM_INTERRUPTS}, true, true, true]"


def test_an_interrupt_while_launch_waits_leaves_nothing_and_a_re_run_works(monkeypatch):
    import asyncio

    import uvicorn

    async def interrupt_and_hang(self, sockets=None):
        interrupt_main_thread()
        await asyncio.Event().wait()

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(uvicorn.Server, "startup", interrupt_and_hang)
        with pytest.raises(KeyboardInterrupt):
            kit.launch("mock", port=0)
    assert set(threading.enumerate()) == before
    assert kit.servers() == []
    assert kit.launch("mock", port=0).is_running


@pytest.mark.slow
def test_an_interrupt_while_an_old_model_drains_still_closes_it(ask, beside, wait_until):
    model = kit.load("mock")
    model.engine._delay_s = 1.0
    server = kit.launch(model, port=0)
    answer = beside(ask, server, "one two three four five six seven")
    wait_until(lambda: model.stats().num_running == 1)
    threading.Timer(0.2, interrupt_main_thread).start()
    with pytest.raises(KeyboardInterrupt):
        kit.launch(kit.load("mock", max_slots=2), port=0)
    assert model.is_closed
    assert answer().status_code == 503
    assert ask(server).status_code == 200


def test_an_interrupted_stream_stops_the_generation():
    model = kit.load("mock")
    model.engine._delay_s = 0.05
    pieces = []

    def read():
        for piece in model.stream("word " * 1000):
            pieces.append(piece)
            if len(pieces) == 2:
                interrupt_main_thread()

    with pytest.raises(KeyboardInterrupt):
        read()
    assert 2 <= len(pieces) < 100
    assert model.stats().num_cancelled == 1
    assert model.stats().num_running == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "llmapi_kit generation"]


def test_a_stream_that_is_left_early_stops_the_generation():
    model = kit.load("mock")
    model.engine._delay_s = 0.01
    for _ in model.stream("word " * 1000):
        break
    assert model.stats().num_cancelled == 1
    assert model.ask("fine") == "fine"
