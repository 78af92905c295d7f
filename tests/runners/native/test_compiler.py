from __future__ import annotations

import logging
import os
import stat
import subprocess

import platformdirs
import pytest
import torch

from llmapi_kit.checkpoints.integer_weights import ROUNDED
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import compiler
from llmapi_kit.runners.native.compiler import NativeUnavailableError, load_library
from llmapi_kit.runners.native.formats import Formats
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.runners.conftest import make_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Nothing compiled or loaded yet; what is loaded already stays for other tests. Compiled quickly, not for speed."""
    monkeypatch.setattr(compiler, "FLAGS", tuple(flag for flag in compiler.FLAGS if not flag.startswith("-O")))
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *args, **kwargs: str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "load_library", load_library.__wrapped__)
    monkeypatch.setattr("llmapi_kit.runners.native.decoder.load_library", load_library.__wrapped__)
    return tmp_path / "cache" / "native"


def test_the_library_is_compiled_once_into_a_private_folder(empty_cache, monkeypatch):
    compiler.load_library()
    made = list(empty_cache.iterdir())
    assert len(made) == 1
    assert stat.S_IMODE(empty_cache.stat().st_mode) == 0o700
    monkeypatch.setattr(compiler, "_compile", lambda *args: pytest.fail("compiled again"))
    assert compiler.load_library().panel_width() > 0


def test_another_compiler_flag_makes_another_library(empty_cache):
    compiler.load_library()
    compiler.load_library("WEIGHTS_BFLOAT16")
    assert len(list(empty_cache.iterdir())) == 2


def test_without_a_compiler_steps_run_in_torch_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        runner = TorchRunner(make_tiny("llama"), num_slots=2, max_length=32)
    assert runner.kind == "lean"
    assert "no C compiler" in caplog.text


def test_a_load_without_a_compiler_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        engine = make_engine(parse_spec("pocket"), load_settings(max_slots=1))
    engine.close()
    assert caplog.text.count("no C compiler") == 1


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(monkeypatch, tmp_path, empty_cache):
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\n[ $# = 1 ] || { echo 'no headers here' >&2; exit 1; }\n")
    program.chmod(0o755)
    monkeypatch.setenv("CC", str(program))
    with pytest.raises(NativeUnavailableError, match="no headers here"):
        compiler.load_library()
    assert not list(empty_cache.iterdir())


def test_a_compiler_may_be_given_with_options(monkeypatch):
    monkeypatch.setenv("CC", "cc -O1")
    assert compiler.load_library().panel_width() > 0


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NativeUnavailableError, match="no-such-compiler"):
        compiler.load_library()


FORMATS = (
    Formats(torch.float32, torch.float32),
    Formats(torch.bfloat16, torch.float32, torch.int8),
    Formats(torch.bfloat16, torch.bfloat16),
    *(Formats(each, torch.float32) for each in ROUNDED.values()),
)


def test_the_source_compiles_without_warnings(tmp_path):
    """One format with the warnings that only come of optimizing, which take long."""
    for number, formats in enumerate(FORMATS):
        how = "-fsyntax-only" if number else "-O1"
        command = ["cc", how, "-Wall", "-Wextra", "-Werror", *(f"-D{name}" for name in formats.macros())]
        command += ["-shared", "-fPIC", "-pthread"]
        command += [str(compiler.SOURCES[0]), "-o", str(tmp_path / "short.so"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert done.returncode == 0, done.stderr


def test_processors_with_short_vectors_compute_the_same(monkeypatch):
    """The width of vectors decides how weights and keys are laid out."""
    monkeypatch.setattr(compiler, "FLAGS", tuple(flag for flag in compiler.FLAGS if flag != "-march=native"))
    model = make_tiny("qwen3")  # its heads are no multiple of a long vector
    ids = [(7 * i) % 190 + 3 for i in range(50)]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    runner = TorchRunner(model, num_slots=2, max_length=64)
    assert runner.kind == "native"
    runner.step([StepItem(1, 0, ids[:30], False)])
    logits = runner.step([StepItem(1, 30, ids[30:], True, wants_every=True)])
    torch.testing.assert_close(logits, expected[30:], atol=2e-5, rtol=1e-4)
