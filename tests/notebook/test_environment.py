"""What machine this is: each predicate with the world it looks for faked, and the description of the real one."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from llmapi_kit.notebook import environment
from llmapi_kit.places import PLACES


@pytest.fixture
def colab(monkeypatch):
    module = types.ModuleType("google.colab")
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return module


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.setattr("llmapi_kit.places.PLACES", [place for place in PLACES if place.name != "a machine over ssh"])
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "VSCODE_PID", "VSCODE_CWD"):
        monkeypatch.delenv(name, raising=False)


def test_plain_python_is_none_of_these():
    assert not environment.is_jupyter_kernel()
    assert not environment.is_vscode()
    assert environment.place() == "Python program"


def test_hosts_are_named(monkeypatch, colab):
    assert environment.place() == "Google Colab"
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert environment.place() == "Kaggle"
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    assert environment.place() == "Python program, RunPod"


@pytest.mark.parametrize("variable", ["VSCODE_PID", "VSCODE_CWD"])
def test_vscode_is_known_by_either_of_its_variables(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert environment.is_vscode()


def test_ipython_terminal_is_not_a_kernel(monkeypatch):
    fake = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert not environment.is_jupyter_kernel()


def test_missing_package_has_no_version():
    assert environment.version_of("no-such-package-anywhere") is None
    assert environment.version_of("pytest")


def test_description_of_this_machine_has_figures():
    machine = environment.describe_machine()
    assert machine.python == ".".join(map(str, sys.version_info[:3]))
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.free_disk_bytes > 0
    assert machine.versions["llmapi-kit"]
    assert "cores" in str(machine)


def test_description_escapes_what_the_machine_says_of_itself():
    machine = environment.Machine("here", "3.11", "Linux", "<b>fast</b>", 1, 1, 1, 1)
    assert "&lt;b&gt;fast" in machine._repr_html_()
    assert "<b>" not in machine._repr_html_()


def test_import_brings_neither_torch_nor_ipython():
    code = (
        "import sys, llmapi_kit.notebook.environment, llmapi_kit.notebook.display, llmapi_kit.notebook.show;"
        "print([name for name in ('torch', 'IPython', 'ipywidgets', 'fastapi', 'anywidget') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
