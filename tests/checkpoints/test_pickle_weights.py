"""Pickle files become safetensors when that is asked for, and run nothing on the way."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from llmapi_kit.checkpoints.pickle_weights import convert
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import ModelLoadError, ModelNotFoundError, UnsupportedModelError
from tests.checkpoints.odd_folders import WEIGHTS, make_small

pytestmark = pytest.mark.slow


@pytest.fixture
def pickled(tmp_path):
    """A model whose weights are in two pickle files, and what they are."""
    folder = make_small(tmp_path / "model")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:5], names[5:]), 1):
        torch.save({name: tensors[name] for name in part}, folder / f"pytorch_model-{number:05}-of-00002.bin")
    torch.save({"step": 3}, folder / "training_args.bin")
    return folder, tensors


def test_pickled_shards_load_once_they_are_converted_as_the_refusal_says(pickled):
    folder, tensors = pickled
    with pytest.raises(UnsupportedModelError, match=r"python -m llmapi_kit\.checkpoints\.pickle_weights .*model"):
        parse_spec(folder)
    ended = run(folder)
    assert ended.stdout.split() == [str(folder / f"model-0000{n}-of-00002.safetensors") for n in (1, 2)], ended.stderr
    model = load_model(parse_spec(folder), device="cpu").model
    assert all(torch.equal(weight, tensors[name]) for name, weight in model.named_parameters())


def run(folder):
    """The command that the refusal names."""
    command = [sys.executable, "-m", "llmapi_kit.checkpoints.pickle_weights", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Shell:
    """Writes a file as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_runs_none_and_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Shell(tmp_path / "ran")}))
    with pytest.raises(ModelLoadError, match=r"converted: pytorch_model\.bin holds something else than tensors, which"):
        convert(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pytorch_model.bin"]


def test_what_has_no_pickled_weights_says_so(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no weights in pickle files"):
        convert(tmp_path)
    ended = run(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{tmp_path} has no weights in pickle files")
