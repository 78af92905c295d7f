"""What the processes that the kit starts inherit."""

from __future__ import annotations

import os
import sys

from llmapi_kit.child_environment import child_environment


def test_a_child_finds_python_and_no_secrets(monkeypatch):
    monkeypatch.setenv("PATH", "/somewhere/bin")
    monkeypatch.setenv("LLMAPI_KIT_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made = child_environment()
    assert made["PATH"] == "/somewhere/bin"
    assert set(sys.path) - {""} <= set(made["PYTHONPATH"].split(os.pathsep))
    assert not {"LLMAPI_KIT_API_KEY", "HF_TOKEN"} & made.keys()


def test_a_child_gets_what_is_named_and_set(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("NOT_SET", raising=False)
    made = child_environment("CUDA_VISIBLE_DEVICES", "NOT_SET", GGML_NO_BACKTRACE="1")
    assert made["CUDA_VISIBLE_DEVICES"] == "1"
    assert "NOT_SET" not in made
    assert made["GGML_NO_BACKTRACE"] == "1"
