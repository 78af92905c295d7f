"""``python -m llmapi_kit.tunnels``: an address for a port, until the program is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

DEADLINE_S = 60


@pytest.fixture
def program(monkeypatch, tmp_path):
    """The program, with a home of its own, and what is on PATH before everything else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    started = []

    def start(*arguments, path=""):
        process = subprocess.Popen(
            [sys.executable, "-m", "llmapi_kit.tunnels", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.mark.slow
def test_it_shows_the_address_and_ends_its_agent_when_told_to(program, fake_agent, monkeypatch, wait_until):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "canary-of-a-token")
    agent = fake_agent(public_url="https://stand-in.example")
    process = program("8000", path=agent.path.parent)
    assert process.stdout.readline() == "https://stand-in.example\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert agent.record()["was_terminated"]
    assert "canary" not in out + err


@pytest.mark.slow
def test_a_missing_token_is_told(program):
    _, err = (process := program("8000")).communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "NGROK_AUTHTOKEN" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2"]], ids=str)
def test_wrong_arguments_are_answered_with_the_usage(program, arguments):
    _, err = (process := program(*arguments)).communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert err.startswith("Usage:")
