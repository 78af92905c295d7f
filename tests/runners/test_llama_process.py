"""Steps in a process of their own: the same numbers, and when it dies, an error and a new one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ModelLoadError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.llama_context import ContextOptions
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_process import MAX_ROWS, SPIN_COUNT, SPIN_VARIABLE, LlamaProcess, StepsSetup
from llmapi_kit.runners.llama_steps import LlamaSteps
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Failed, Finished

from .conftest import VOCAB
from .llama_files import write_tiny

pytestmark = pytest.mark.slow

EXACT = ContextOptions(kv_cache_dtype="f32", flash_attn=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_tiny(path)
    return path


@pytest.fixture
def process(path):
    process = LlamaProcess(StepsSetup(path=str(path), num_slots=4, max_length=400, vocab_size=VOCAB, options=EXACT))
    yield process
    process.close()


def test_it_computes_what_is_computed_here(path, process):
    here = LlamaSteps(LlamaModel(path), num_slots=4, max_length=400, options=EXACT)
    assert process.can_rewind
    for steps in (here, process):
        steps.step([StepItem(2, 0, [5, 6, 7, 8], False), StepItem(0, 0, [9, 8], True)])
        steps.copy_prefix(2, 3, 3)
        steps.step([StepItem(1, 0, [3, 4, 5], False, wants_mean=True)])
    items = [StepItem(3, 3, [9], True), StepItem(0, 2, [4, 4, 4], True, True)]
    assert np.array_equal(here.step(items), process.step(items))
    assert here.mean_state(1) == process.mean_state(1)
    process.free(1)
    long = [StepItem(slot, 0, [(7 * i + slot) % VOCAB for i in range(390)], True, True) for slot in range(4)]
    logits = process.step(long)
    assert len(logits) == 1560 > MAX_ROWS
    np.testing.assert_allclose(logits, here.step(long), atol=1e-5)
    here.close()


def test_its_threads_spin_briefly_unless_the_user_has_said_for_how_long(path, process, monkeypatch):
    assert psutil.Process(process.pid).environ()[SPIN_VARIABLE] == str(SPIN_COUNT)
    monkeypatch.setenv(SPIN_VARIABLE, "77")
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="process died"):
        process.step([StepItem(0, 0, [5], True)])
    process.restart()
    assert psutil.Process(process.pid).environ()[SPIN_VARIABLE] == "77"


def test_an_error_of_a_step_is_raised_here_and_ends_nothing(process):
    pid = process.pid
    with pytest.raises(RuntimeError, match="could not compute"):
        process.step([StepItem(0, 0, [VOCAB + 7], True)])
    assert not process.restart()
    assert process.step([StepItem(0, 0, [5], True)]).shape == (1, VOCAB)
    assert process.pid == pid


def test_what_was_computed_by_a_process_that_died_is_lost_and_a_new_one_computes(process):
    process.step([StepItem(0, 0, [5, 6], True), StepItem(1, 0, [5, 6], True)])
    os.kill(process.pid, signal.SIGABRT)
    with pytest.raises(RuntimeError, match="process died, exit code -6"):
        process.step([StepItem(0, 2, [7], True)])
    assert process.restart()
    with pytest.raises(RuntimeError, match="started anew"):
        process.step([StepItem(1, 2, [7], True)])
    assert process.step([StepItem(0, 0, [5, 6], True)]).shape == (1, VOCAB)
    assert not process.restart()


def test_a_process_that_hangs_in_a_step_is_ended_and_a_new_one_computes(path):
    """Its step was waited for without end, and every later request with it."""
    setup = StepsSetup(path=str(path), num_slots=4, max_length=400, vocab_size=VOCAB, options=EXACT)
    process = LlamaProcess(setup, step_timeout_s=1)
    pid = process.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"had not answered for 1 s, the limit that step_timeout_s sets"):
        process.step([StepItem(0, 0, [5, 6], True)])
    assert not psutil.pid_exists(pid)
    assert process.restart()
    assert process.step([StepItem(0, 0, [5, 6], True)]).shape == (1, VOCAB)
    process.close()


def test_a_file_that_ends_the_process_is_an_error(path, tmp_path):
    (tmp_path / "m.gguf").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ModelLoadError, match=r"can't load m\.gguf"):
        LlamaProcess(StepsSetup(path=str(tmp_path / "m.gguf"), num_slots=1, max_length=16, vocab_size=VOCAB))


def test_it_ends_with_whoever_started_it(path):
    code = (
        "import os, sys; from llmapi_kit.runners.llama_process import LlamaProcess, StepsSetup;"
        f"p = LlamaProcess(StepsSetup(path={str(path)!r}, num_slots=1, max_length=16, vocab_size={VOCAB}));"
        "print(p.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    try:
        child = psutil.Process(int(done.stdout))
    except psutil.NoSuchProcess:
        return
    child.wait(timeout=20)


def test_running_requests_get_an_error_each_and_later_ones_an_answer(pocket_gguf):
    """The process dies between two steps; what slots held goes with it, and no later request counts on it."""
    engine = make_engine(parse_spec(str(pocket_gguf)), Settings(max_slots=4, context_length=512), isolate=True)
    prompt = list(range(100, 160))

    def request(num_tokens):
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        return GenerationRequest(prompt=prompt, sampling=params)

    async def last_event(num_tokens, started=None):
        last = None
        async for event in engine.generate(request(num_tokens)):
            last = event
            if started is not None and getattr(event, "text", ""):
                started.set()
        return last

    async def main():
        assert isinstance(await last_event(4), Finished)
        started = [asyncio.Event() for _ in range(3)]
        running = [asyncio.create_task(last_event(440, each)) for each in started]
        for each in started:
            await each.wait()
        os.kill(engine._loop._runner._steps.pid, signal.SIGKILL)
        ends = await asyncio.gather(*running)
        later = await asyncio.gather(*(last_event(5) for _ in range(4)))
        return ends, later

    try:
        ends, later = asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        engine.close()
    assert all(isinstance(each, Failed) and "llama.cpp's process" in each.error.message for each in ends)
    assert all(isinstance(each, Finished) for each in later)
    assert engine.stats().num_failed == 3
