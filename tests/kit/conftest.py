"""The kit as a cell uses it: every test ends with no server and no model left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import httpx
import pytest

import llmapi_kit as kit

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def no_server_stays():
    yield
    kit.stop_all()


# What a launch shows where it takes more than a moment, on a busy machine for instance
PROGRESS = re.compile(r"(importing torch|reading weights.*|preparing the engine|starting the server|Ready in \d+ s)\n")


def run_program(code, *arguments, expect=0, options=(), **environment):
    """Run Python code in a process of its own; its output, without progress. Warnings are errors there too."""
    command = [sys.executable, "-W", "error", *options, "-c", code, *arguments]
    env = {**os.environ, **environment}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, env=env)
    return said(ran, expect)


def said(ran, expect=0):
    """What a program printed, once it has ended as expected."""
    assert ran.returncode == expect, f"exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout.strip() + PROGRESS.sub("", ran.stderr)


@pytest.fixture
def program():
    return run_program


@pytest.fixture
def warm_program(warm_python):
    """As `program`, where what a server needs may have been imported already."""
    return lambda code, *arguments: said(warm_python.run(code, *arguments))


def ask_plainly(server, content="hello", model="mock", **fields):
    """One question over HTTP; the response."""
    return httpx.post(
        server.url + "/v1/chat/completions",
        headers={"Authorization": f"Bearer {server.api_key}"} if server.api_key else {},
        json={"model": model, "messages": [{"role": "user", "content": content}], **fields},
        timeout=DEADLINE_S,
        trust_env=False,
    )


@pytest.fixture
def ask():
    return ask_plainly


def wait(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


@pytest.fixture
def wait_until():
    return wait


@pytest.fixture
def beside():
    """Run something in a thread; call what it returns for the outcome, an exception included."""

    def start(function, *args):
        outcome = []

        def work():
            try:
                outcome.append(function(*args))
            except Exception as exc:
                outcome.append(exc)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def join():
            thread.join(DEADLINE_S)
            assert outcome, "it did not end in time"
            return outcome[0]

        return join

    return start
