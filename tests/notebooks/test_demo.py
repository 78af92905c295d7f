"""`make demo`, mostly as a program: what it prints, how it ends, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest

from .kernels import NOTEBOOKS, ROOT, keys_in

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
DEADLINE_S = 150


class Demo:
    """tools/demo.py in a process of its own; its lines are collected by a thread."""

    def __init__(self, *arguments):
        self.lines = []
        self._has_line = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "demo.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._has_line:
                self.lines.append(line)
                self._has_line.notify_all()

    @property
    def output(self):
        return "".join(self.lines)

    def wait_for(self, text):
        with self._has_line:
            found = self._has_line.wait_for(
                lambda: text in self.output or self.process.poll() is not None, timeout=DEADLINE_S
            )
        assert found, self.output
        assert text in self.output, self.output

    def wait(self):
        status = self.process.wait(DEADLINE_S)
        self._reader.join(10)
        return status

    def kernels(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def start_demo():
    demos = []

    def start(*arguments):
        demos.append(Demo(*arguments))
        return demos[-1]

    yield start
    for demo in demos:
        demo.close()


@pytest.fixture
def run_demo(capsys):
    """`run_demo(arguments…)`: the demo in this process, with real kernels; its exit status and what it printed."""
    from tools.demo import main  # which finds the runner of notebooks where `kernels` has put it

    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        status = main(list(arguments))
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    yield run
    signal.signal(signal.SIGTERM, handler)


def has_ended(processes):
    return not psutil.wait_procs(processes, timeout=20)[1]


def write_notebook(folder, name, last_cell):
    """A copy of a notebook that has its parameters and one more cell."""
    shorten(folder / f"{name}.ipynb")
    nb = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(last_cell, id="extra"))
    nbformat.write(nb, folder / f"{name}.ipynb")


def shorten(path):
    """Leave a notebook's parameters only, for tests about what comes after it."""
    nb = nbformat.read(path, as_version=4)
    nb.cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    nbformat.write(nb, path)


@pytest.fixture
def copied_notebooks(tmp_path):
    return shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))


def test_demo_serves_until_interrupted_and_its_curl_line_works(start_demo):
    before = {path: path.read_bytes() for path in NOTEBOOKS.glob("*.ipynb")}
    demo = start_demo()
    demo.wait_for("Serving until Ctrl-C.")
    (key,) = keys_in(os.environ["LLMAPI_KIT_HOME"])
    assert "> What is the capital of France?\n    The capital of France is Paris." in demo.output
    assert key not in demo.output
    port = re.search(r"with the server on port (\d+)", demo.output).group(1)
    assert f"http://127.0.0.1:{port}/v1" in demo.output
    command = demo.output[demo.output.index("\ncurl ") : demo.output.index("Serving until")]
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert '"role":"assistant"' in answer.stdout.replace(" ", "")
    kernels = demo.kernels()
    assert kernels
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.output
    assert has_ended(kernels)
    assert keys_in(os.environ["LLMAPI_KIT_HOME"]) == []
    assert {path: path.read_bytes() for path in NOTEBOOKS.glob("*.ipynb")} == before


def test_demo_exit_ends_by_itself_with_success(run_demo, copied_notebooks):
    """With short notebooks that hold what the demo goes by; above, it runs the long ones."""
    for name in ("01_setup", "02_load_model"):
        shorten(copied_notebooks / f"{name}.ipynb")
    write_notebook(copied_notebooks, "03_launch_server", "import llmapi_kit as kit; kit.launch('mock', port=PORT)")
    asking = "import llmapi_kit as kit; kit.show(' and '.join(kit.connect(URL).models()), 'Who is served?')"
    write_notebook(copied_notebooks, "04_test_client", asking)
    status, output = run_demo("--exit", "--notebooks", str(copied_notebooks))
    assert status == 0, output
    assert "> Who is served?\n    mock\n" in output
    assert "All notebooks passed." in output
    assert re.search(r"04_test_client\n(?: .*\n)+  done in [\d.]+ s", output)
    assert keys_in(os.environ["LLMAPI_KIT_HOME"]) == []


def test_failing_cell_is_named_and_ends_the_demo_with_failure(start_demo, copied_notebooks):
    write_notebook(copied_notebooks, "01_setup", "raise ValueError('broken on purpose')")
    demo = start_demo("--exit", "--notebooks", str(copied_notebooks))
    assert demo.wait() == 1
    assert "01_setup.ipynb, code cell 2 of 2" in demo.output
    assert "ValueError: broken on purpose" in demo.output
    assert "\x1b" not in demo.output
    assert "02_load_model" not in demo.output


def test_kernel_that_dies_ends_the_demo_with_failure(run_demo, copied_notebooks):
    write_notebook(copied_notebooks, "01_setup", "import os; os.kill(os.getpid(), 9)")
    status, output = run_demo("--notebooks", str(copied_notebooks))
    assert status == 1
    assert "the kernel died" in output


def test_interrupted_while_a_cell_runs_it_leaves_nothing_behind(start_demo, copied_notebooks, tmp_path):
    mark = tmp_path / "running"
    write_notebook(copied_notebooks, "01_setup", f"open({str(mark)!r}, 'w').close()\nimport time; time.sleep(100)")
    demo = start_demo("--notebooks", str(copied_notebooks))
    deadline = time.monotonic() + DEADLINE_S
    while not mark.exists():
        assert time.monotonic() < deadline
        assert demo.process.poll() is None, demo.output
        time.sleep(0.05)
    kernels = demo.kernels()
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 130
    assert "Stopped." in demo.output
    assert "Traceback" not in demo.output
    assert has_ended(kernels)
