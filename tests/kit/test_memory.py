"""Giving memory back: what kept tracebacks hold, and what the GPU's allocator keeps."""

import gc
import sys
import types
import weakref

import pytest

import llmapi_kit as kit
from llmapi_kit.loading.memory_release import release_memory

pytestmark = pytest.mark.kernel


class FakeCuda:
    """Two devices whose allocator keeps what was freed until it is told not to."""

    def __init__(self, *, is_initialized=True):
        self.reserved = [300, 200]
        self._is_initialized = is_initialized

    def is_initialized(self):
        return self._is_initialized

    def device_count(self):
        return 2

    def memory_reserved(self, device):
        return self.reserved[device]

    def empty_cache(self):
        self.reserved = [100, 0]


@pytest.fixture
def fake_cuda(monkeypatch):
    def install(**options):
        cuda = FakeCuda(**options)
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
        return cuda

    return install


class Big:
    """Stands for a tensor that a frame holds."""


def fail():
    big = Big()
    raise ValueError("with a frame that holds it", weakref.ref(big))


def fail_at_the_prompt():
    """What Python's interactive prompt keeps of an error; a reference to what its frame holds."""
    try:
        fail()
    except ValueError as exc:
        sys.last_value, sys.last_traceback = exc, exc.__traceback__
        return exc.args[1]


def test_the_last_error_of_the_interpreter_is_let_go():
    held = fail_at_the_prompt()
    gc.collect()
    assert held() is not None
    release_memory()
    assert held() is None
    assert not hasattr(sys, "last_traceback")


def test_bytes_given_back_are_counted_over_all_gpus(fake_cuda):
    fake_cuda()
    assert release_memory() == 400
    assert release_memory() == 0


def test_closing_a_model_tells_the_bytes(fake_cuda):
    model = kit.load("mock")
    fake_cuda()
    assert model.close() == 400


def test_a_gpu_that_nobody_used_is_not_woken(fake_cuda):
    cuda = fake_cuda(is_initialized=False)
    assert release_memory() == 0
    assert cuda.reserved == [300, 200]
