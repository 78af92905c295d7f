"""An interrupt while torch is imported ends the cell, and breaks no later load."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from llmapi_kit.checkpoints import heavy_imports
from llmapi_kit.checkpoints.heavy_imports import import_heavy

pytestmark = pytest.mark.slow

NOTHING_MORE = """
import sys
from llmapi_kit.checkpoints import heavy_imports
from llmapi_kit.checkpoints.heavy_imports import import_heavy
for modules in sys.argv[1].split():
    import_heavy(getattr(heavy_imports, modules))
before = set(sys.modules)
import llmapi_kit as kit
kit.load("pocket", native=sys.argv[2] == "native").ask("Hello!", max_tokens=2)
print(sorted({name for name in set(sys.modules) - before if name.split(".")[0] in ("torch", "llguidance", "peft")}))
print([name for name in ("torch._dynamo", "torch.distributed.tensor", "transformers.modeling_utils", "peft")
       if name in sys.modules])
"""

INTERRUPTED = """
import os, signal, sys, threading, time
import llmapi_kit as kit

def interrupt_at(name):
    while name not in sys.modules:
        time.sleep(0.001)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

for name in ("torch", "torch.nn", "transformers"):
    threading.Thread(target=interrupt_at, args=(name,), daemon=True).start()
interrupts = 0
while interrupts < 10:
    try:
        answer = kit.load("pocket").ask("What is the capital of France?", max_tokens=20, temperature=0)
        break
    except KeyboardInterrupt:
        interrupts += 1
print(interrupts > 0, "Paris" in answer)
"""


# A Python that ends looks for cycles of objects in all that it has, most of a second's work where torch is imported
END_SOON = "import atexit, gc; atexit.register(gc.freeze)\n"


def program(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", END_SOON + code, *arguments], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_load_for_the_step_in_c_imports_no_classes_of_models_and_no_more_of_torch_than_was_shielded():
    """The classes took longer than torch itself, at each start of a server."""
    assert program(NOTHING_MORE, "LOCAL_MODELS", "native") == "[]\n[]"


def test_a_load_of_a_model_of_transformers_imports_no_more_of_torch_than_was_shielded():
    assert program(NOTHING_MORE, "LOCAL_MODELS MODEL_CLASSES", "in torch").startswith("[]\n")


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_load_after_interrupted_ones_works():
    """Each later load failed, with another of torch's errors each time."""
    assert program(INTERRUPTED) == "True True"


@pytest.fixture
def own_modules(monkeypatch, tmp_path):
    """The modules that are imported, made by the test; what they do stands in their code."""

    def make(**code):
        for name, text in code.items():
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(heavy_imports, "_begun", {})
        return tuple(code)

    return make


def test_a_package_that_is_broken_is_told_each_time_and_can_be_mended(own_modules, tmp_path):
    modules = own_modules(first_of_two="raise OSError('no such library')", second_of_two="")
    for _ in range(2):
        with pytest.raises(OSError, match="no such library"):
            import_heavy(modules)
    (tmp_path / "first_of_two.py").write_text("is_there = 'now it is there'")
    import_heavy(modules)
    assert "second_of_two" in sys.modules


def test_a_package_that_is_missing_is_left_to_who_needs_it(own_modules):
    modules = own_modules(needs_missing="import no_such_package_anywhere", comes_after="")
    import_heavy(modules)
    assert "comes_after" in sys.modules


def test_two_loads_at_once_import_once(own_modules):
    modules = own_modules(
        counted="import threading; gate = threading.Event()\nassert gate.wait(0.05) is False\ncount = 1"
    )
    threads = [threading.Thread(target=import_heavy, args=(modules,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert heavy_imports._begun[modules].error is None
    assert sys.modules["counted"].count == 1
