"""The server runs whatever the kernel's own event loop is and whatever has patched asyncio."""

import importlib.util

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

# What a cell may have done before it launches, and after; `kind` picks one.
CELLS = """
import asyncio, sys, threading, warnings

# nest_asyncio uses calls that newer Pythons deprecate
warnings.filterwarnings("ignore", category=DeprecationWarning)

kind, has_uvloop = sys.argv[1], sys.argv[2] == "uvloop"
if not has_uvloop:
    sys.modules["uvloop"] = None

import llmapi_kit as kit

def patch(loop=None):
    import nest_asyncio
    nest_asyncio.apply(loop)

def ask(server):
    with server.client(max_retries=0, timeout=20) as client:
        stream = client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "to be or not"}], stream=True)
        return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

async def ask_async(server):
    async with server.async_client(max_retries=0, timeout=20) as client:
        answer = await client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "to be or not"}])
        return answer.choices[0].message.content

async def cells():
    if kind == "patched before":
        patch()
    server = kit.launch("mock", port=0)
    if kind == "patched after":
        assert ask(server) == "to be or not"
        patch()
    assert ask(server) == "to be or not"
    assert await ask_async(server) == "to be or not"
    assert kit.launch("mock", port=0) is server
    if kind.startswith("patched"):
        assert asyncio.get_running_loop().run_until_complete(ask_async(server)) == "to be or not"
    else:
        assert "nest_asyncio" not in sys.modules
    server.stop()
    assert not server.is_running
    kit.stop_all()
    left = [thread.name for thread in threading.enumerate() if "llmapi_kit" in thread.name]
    assert not left, left

if kind == "script, then running loop":
    server = kit.launch("mock", port=0)
    assert ask(server) == "to be or not"
    assert asyncio.run(ask_async(server)) == "to be or not"
    server.stop()
    assert not {"nest_asyncio", "IPython", "torch"} & set(sys.modules), "imported for nothing"
    asyncio.run(cells())
elif kind == "uvloop":
    import uvloop
    uvloop.run(cells()) if hasattr(uvloop, "run") else None
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(cells())
else:
    asyncio.run(cells())
print("fine")
"""


@pytest.mark.parametrize("kind", ["script, then running loop", "patched before", "patched after"])
@pytest.mark.parametrize("uvloop", ["uvloop", "no uvloop"])
def test_the_server_answers(warm_program, kind, uvloop):
    assert importlib.util.find_spec("uvloop"), "the test extra brings it"
    assert warm_program(CELLS, kind, uvloop) == "fine"


def test_the_server_answers_where_the_kernel_runs_uvloop(warm_program):
    assert importlib.util.find_spec("uvloop"), "the test extra brings it"
    assert warm_program(CELLS, "uvloop", "uvloop") == "fine"
