"""Fixtures for all tests: a clean environment and a home of its own for each."""

from __future__ import annotations

import gc
import itertools
import os
import re
import signal
import ssl
import sys
from collections import Counter
from pathlib import Path

# Read by huggingface_hub when it is first imported, so before any test
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by torch, here and in programs that tests start. Threads that wait for each other by spinning make a small model
# many times slower when another process wants the same cores; a test that is about threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import certifi
import hypothesis
import pytest

from tests.warm_python import WarmPython

# A job that a shell runs in the background ignores Ctrl-C, and so would all programs that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test speaks TLS, but each HTTP client reads the authorities that it would trust, 15 ms for all there are. Here it
# finds one, whose key nobody has.
AUTHORITY = str(Path(__file__).with_name("authority.pem"))
certifi.where = lambda: AUTHORITY
AUTHORITY_PATHS = ssl.get_default_verify_paths()._replace(openssl_cafile=AUTHORITY, openssl_capath="")
ssl.get_default_verify_paths = lambda: AUTHORITY_PATHS

# Timing is never asserted, by Hypothesis neither: a busy machine is no bug.
hypothesis.settings.register_profile("project", deadline=None, max_examples=50)
hypothesis.settings.load_profile("project")


SLOW_MODULE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """Modules that are slow as a whole are not even imported where slow tests are left out."""
    if "not slow" in config.option.markexpr and collection_path.suffix == ".py":
        return bool(SLOW_MODULE.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


# Folders whose tests start browsers, clusters and kernels
LONGEST = ("browser", "cluster", "notebooks", "benchmarks")


def pytest_collection_modifyitems(items):
    """Modules that take long go first, so that processes which share the tests end at about the same time."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.parent.name not in LONGEST, -num_slow[item.path]))


@pytest.fixture(autouse=True, scope="module")
def freeze():
    """What has been imported, or kept by earlier modules, stays: full collections to come need not look through it.

    In a process that ran thousands of tests they would take a tenth of its time.
    """
    gc.collect()
    gc.freeze()


PREFIXES = ("LLMAPI_KIT_", "NGROK_", "OPENAI_", "HF_TOKEN")
GGUF_SERVER = ("MODEL_TYPE", "MODEL_PATH", "MODEL_NAME", "MMPROJ_PATH")


@pytest.fixture(scope="session")
def new_home(tmp_path_factory):
    """A function that names a folder of its own to each test; `tmp_path` would make one for each, and list all."""
    folder, numbers = tmp_path_factory.mktemp("homes"), itertools.count()
    return lambda: folder / str(next(numbers))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, new_home):
    """No setting, token or proxy of the machine reaches a test, and no test writes to the user's folders."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name.lower().endswith("_proxy") or name in GGUF_SERVER:
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(new_home()))
    # IPython's shell takes its place, and programs that multiprocessing starts can't do with that
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def home():
    """Where the kit keeps what it keeps, in this test."""
    return Path(os.environ["LLMAPI_KIT_HOME"])


@pytest.fixture(scope="session")
def warm_python():
    """Starts programs that have imported already what a server and its clients need."""
    python = WarmPython()
    yield python
    python.close()


@pytest.fixture(scope="session")
def warm_torch():
    """Starts programs that have imported what models need, too."""
    from llmapi_kit.checkpoints.heavy_imports import LOCAL_MODELS, MODEL_CLASSES

    python = WarmPython(*LOCAL_MODELS, *MODEL_CLASSES)
    yield python
    python.close()


@pytest.fixture(scope="session")
def pocket_engine():
    """The pocket model with its usual settings, loaded once for all tests that leave it as it is."""
    from llmapi_kit.checkpoints.spec import parse_spec
    from llmapi_kit.config import load_settings
    from llmapi_kit.loading.load_request import make_engine  # needs torch for it, which kernel tests do without

    engine = make_engine(parse_spec("pocket"), load_settings())
    close, engine.close = engine.close, lambda: None  # whoever serves it closes what they served
    yield engine
    close()


@pytest.fixture(scope="session")
def pocket_gguf(tmp_path_factory):
    """The pocket model as a GGUF file, in float32. Copy it before changing it."""
    import json

    import torch
    import transformers

    from benchmarks.gguf_file import write_gguf
    from llmapi_kit.checkpoints.spec import POCKET_DIR

    path = tmp_path_factory.mktemp("gguf") / "small-one.gguf"
    model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32)
    template = (POCKET_DIR / "chat_template.jinja").read_text()
    write_gguf(model, json.loads((POCKET_DIR / "tokenizer.json").read_text()), template, path)
    return path


@pytest.fixture(scope="session")
def shared_chromium():
    """One browser for all modules; they ask for `chromium`."""
    from tests.browser.chromium import SharedChromium  # needs Playwright, which not every Python has here

    shared = SharedChromium()
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def chromium(shared_chromium):
    """A browser. Pages are made in profiles of their own, which end with the module at the latest."""
    with shared_chromium.use() as browser:
        yield browser
