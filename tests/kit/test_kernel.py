"""A real Jupyter kernel: launched in one cell, used in the next, interrupted, run again, restarted."""

import time

import jupyter_client
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.kernel,
    # The client library's own sockets, closed when its context ends
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DEADLINE_S = 60.0

LAUNCH = """
import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
engine = MockEngine("word", num_tokens=40, delay_s=0.02)
server = kit.launch(engine, port={port}, name="main")
print(server.port, server.api_key)
"""

STREAM = """
with server.client(max_retries=0, timeout=20) as client:
    chunks = client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": "go"}], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
print(len(text.split()))
"""

STREAM_ASYNC = """
async with server.async_client(max_retries=0, timeout=20) as client:
    chunks = await client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": "go"}], stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])
print(len(text.split()))
"""

# The stream runs beside the cells, as a teammate's would
STREAM_BESIDE = STREAM.replace("print(len(text.split()))", "outcome.append(len(text.split()))")
IN_THREAD = """
import threading
outcome = []
code = {code!r}
thread = threading.Thread(target=lambda: exec(code, globals()))
thread.start()
"""


class Notebook:
    """Runs cells in a kernel of its own."""

    def __init__(self):
        self.manager = jupyter_client.KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self._connect()

    def _connect(self):
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE_S)

    def send(self, code):
        return self.client.execute(code, stop_on_error=False)  # or the next cell may be dropped

    def wait_for(self, message_id, *, until="idle"):
        """What a cell printed, until it printed `until` or ended; raises what it raised."""
        printed, deadline = "", time.monotonic() + DEADLINE_S
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            if kind == "error":
                raise CellError(content["ename"], "\n".join(content["traceback"]))
            if until in printed or (kind == "status" and content["execution_state"] == "idle"):
                return printed.strip()

    def run(self, code):
        return self.wait_for(self.send(code))

    def restart(self):
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self._connect()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


class CellError(Exception):
    """A cell raised; the first argument is the exception's name."""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMAPI_KIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        book = Notebook()
        yield book
        book.close()


@pytest.mark.slow
def test_a_server_lives_through_a_day_in_a_notebook(notebook):
    """One story, as each step builds on the one before."""
    port, key = notebook.run(LAUNCH.format(port=0)).split()

    assert notebook.run(STREAM) == "40", "the next cell streams with the synchronous client"
    assert notebook.run(STREAM_ASYNC) == "40", "and with the asynchronous one, on the kernel's own loop"

    # Interrupts end the cell they are meant for, and no stream of another client
    notebook.run(IN_THREAD.format(code=STREAM_BESIDE))
    # Without a flush: an interrupt within one would leave the kernel's own output thread in disorder
    cell = notebook.send("import time\nprint('waiting')\ntime.sleep(60)")
    notebook.wait_for(cell, until="waiting")
    notebook.manager.interrupt_kernel()
    with pytest.raises(CellError, match="KeyboardInterrupt"):
        notebook.wait_for(cell)
    assert notebook.run("thread.join(20); print(*outcome)") == "40"

    # A cell that is interrupted while it streams stops its own generation
    cell = notebook.send(
        "model = kit.load('mock'); model.engine._delay_s = 0.05\n"
        "for n, piece in enumerate(model.stream('word ' * 1000)):\n"
        "    n == 3 and print('streaming')"
    )
    notebook.wait_for(cell, until="streaming")
    notebook.manager.interrupt_kernel()
    with pytest.raises(CellError, match="KeyboardInterrupt"):
        notebook.wait_for(cell)
    assert notebook.run("s = model.stats(); print(s.num_cancelled, s.num_running)") == "1 0"

    # The launch cell again: same place, same key
    assert notebook.run(LAUNCH.format(port=0)).split() == [port, key]
    assert notebook.run(STREAM) == "40"

    # A restarted kernel knows no server, and has the port to itself
    notebook.restart()
    assert notebook.run("import llmapi_kit as kit\nprint(kit.servers())") == "[]"
    assert notebook.run(LAUNCH.format(port=port)).split()[0] == port
    assert notebook.run(STREAM) == "40"


@pytest.mark.slow
def test_tracebacks_that_hold_memory_are_let_go(notebook):
    notebook.run("""
import gc, weakref
class Big: pass
def fail():
    big = Big()
    globals()["is_there"] = weakref.ref(big)
    raise ValueError("with a frame that holds it")
""")
    with pytest.raises(CellError, match="ValueError"):
        notebook.run("fail()")
    assert notebook.run("gc.collect(); print(is_there() is not None)") == "True"
    printed = notebook.run(
        "from llmapi_kit.loading.memory_release import release_memory\nprint(release_memory(), is_there() is None)"
    )
    assert printed == "0 True"


WATCH_THE_IMPORT = """
import sys, threading, time
import llmapi_kit as kit

def watch():
    while "torch.nn" not in sys.modules:
        time.sleep(0.001)
    print("importing")

threading.Thread(target=watch, daemon=True).start()
model = kit.load("pocket")
"""


@pytest.mark.torch
def test_interrupting_the_first_load_breaks_no_later_one(notebook):
    """Torch was left half imported, and the kernel had to be restarted."""
    notebook.restart()
    cell = notebook.send(WATCH_THE_IMPORT)
    notebook.wait_for(cell, until="importing")
    notebook.manager.interrupt_kernel()
    with pytest.raises(CellError, match="KeyboardInterrupt"):
        notebook.wait_for(cell)
    answer = notebook.run("print(kit.load('pocket').ask('What is the capital of France?', temperature=0))")
    assert "Paris" in answer
