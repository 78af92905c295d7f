"""What launching and stopping leaves behind: nothing worth naming."""

import gc
import json
import weakref

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine

pytestmark = pytest.mark.slow

NUM_ROUNDS = 20

ROUNDS = """
import gc, json, sys, threading
import psutil
import httpx
import llmapi_kit as kit

def round_trip():
    server = kit.launch("mock", port=0)
    body = {"model": "mock", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    url = server.url + "/v1/chat/completions"
    assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 200
    kit.stop_all()

def measure():
    gc.collect()
    process = psutil.Process()
    connections = getattr(process, "net_connections", None) or process.connections
    listening = [c for c in connections() if c.status == psutil.CONN_LISTEN]
    return {
        "threads": threading.active_count(),
        "files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        "listening": len(listening),
        "rss": process.memory_info().rss,
        "blocks": sys.getallocatedblocks(),  # of memory; how large they are, a table that grew once decides
    }

for _ in range(5):
    round_trip()
before = measure()
for _ in range(int(sys.argv[1])):
    round_trip()
after = measure()
print(json.dumps({name: after[name] - before[name] for name in before}))
"""


def test_twenty_launches_leak_no_thread_no_socket_and_no_memory(program, record_property):
    grown = json.loads(program(ROUNDS, str(NUM_ROUNDS)))
    record_property("grown", grown)
    assert grown["threads"] == 0
    assert grown["files"] == 0
    assert grown["listening"] == 0
    assert grown["blocks"] < NUM_ROUNDS * 100
    assert grown["rss"] < 20_000_000


def test_a_stopped_server_lets_go_of_its_engine(ask):
    """FastAPI caches what it learned of each endpoint; one that closed over its app kept app, server and model."""
    engine = MockEngine()
    server = kit.launch(engine, port=0)
    assert ask(server).status_code == 200
    server.stop()
    kit.stop_all()
    is_there = weakref.ref(engine)
    del engine, server
    gc.collect()
    assert is_there() is None


def test_launch_and_stop_warn_of_nothing(program):
    """In Python's development mode, with warnings as errors: no unclosed socket, loop or thread."""
    code = """
import gc, logging, sys
import llmapi_kit as kit
logging.getLogger("asyncio").setLevel("ERROR")  # it warns of slow steps, such as a first import
sys.unraisablehook = lambda error: print("unraisable", error)
server = kit.launch("mock", port=0)
with server.client() as client:
    stream = client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": "one two three"}], stream=True)
    next(iter(stream))
    server.stop(0)
    stream.close()
kit.launch("mock", port=0)
kit.stop_all()
del server
gc.collect()
print("quiet")
"""
    assert program(code, options=("-X", "dev")) == "quiet"
