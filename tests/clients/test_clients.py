"""Clients that others wrote, each in an environment of its own, against a live server: what they send is served.

Every program prints what came of its steps; here is what should. The pocket model answers alike each time, and where a
step needs a cleverer one, only the form of the answer counts. One client is in `make test`, all in `make test-clients`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.load_request import make_engine
from tests.api.conftest import KEY, serving

from .player import Player

FOLDER = Path(__file__).parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv-clients"
SHORT = "pydantic_ai"
TIMEOUT_S = 500  # guidellm starts several processes, each of which imports torch
# For programs that know by its name what a model can do.
ALIASES = {"claude-opus-5-5": "pocket", "claude-player": "player"}
pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)

PARIS = "The capital of France is Paris."
SUNNY = "It is 18 degrees and sunny in Paris."
ADA = {"name": "Ada", "age": 36}
CALLED = ["Paris"]


def paris_in_pieces(value):
    return "".join(value) == PARIS


def is_thought_and_code(value):
    return set(json.loads(value)) == {"thought", "code"}


def all_have_called(value):
    return bool(value) and all(name in ("get_weather", "final_answer") and not problem for name, problem in value)


# By client and step: the value, or what it has to be
EXPECTED = {
    "pydantic_ai": {
        f"{api}_{step}": expected
        for api in ("chat", "responses", "anthropic")
        for step, expected in {
            "plain": [PARIS, True],
            "stream": paris_in_pieces,
            "history": PARIS,
            "tool": [CALLED, SUNNY],
            "tool_stream": [CALLED, SUNNY],
            "native_output": [[], "Person", ADA],
            "native_output_strict": [[], "Person", ADA],
            "prompted_output": [[], "Person", ADA],
            "tool_output": lambda value: value[1] == "Person",
            "tool_and_native_output": lambda value: value[:2] == [CALLED, "Person"],
            "typed_stream": ADA,
        }.items()
        if (api, step) != ("anthropic", "tool_output")
    },
    "openai_agents": {
        f"{api}_{step}": expected
        for api in ("chat", "responses")
        for step, expected in {
            "plain": [PARIS, True],
            "stream": paris_in_pieces,
            "history": PARIS,
            "session": PARIS,
            "tool": [CALLED, SUNNY],
            "tool_stream": [CALLED, SUNNY, True],
            "typed": ADA,
            "tool_and_type": [[], "Person"],
            "tool_called_and_type": [CALLED, "Person"],
            "tool_and_type_stream": [CALLED, True, True],
            "handoff": "weather",
        }.items()
    },
    "autogen": {
        "plain": [PARIS, "stop", True],
        "stream": paris_in_pieces,
        "history": PARIS,
        "json_output": ADA,
        "default_agent": ["TextMessage", "TextMessage"],
        "agent_twice": PARIS,
        "agent_stream": paris_in_pieces,
        "tool": [CALLED, SUNNY],
        "tool_and_type": [CALLED, True, "Person"],
        "tool_and_type_stream": [CALLED, "Person"],
        "team": [["user", "first", "second"], True],
    },
    "outlines": {
        **dict.fromkeys(("plain", "stream", "asynchronous", "history"), PARIS),
        **dict.fromkeys(("schema", "schema_stream", "openai_schema"), ADA),
        "choice": lambda value: value in ("yes", "no"),
        "regex": lambda value: len(value) == 5 and value[2] == ":" and (value[:2] + value[3:]).isdigit(),
        "number": lambda value: isinstance(value, int),
        "grammar": lambda value: value in ("yes", "no"),
        "several": lambda value: len(value) == 2 and set(value) <= {"yes", "no"},
    },
    "smolagents": {
        "plain": [PARIS, True],
        "stream": PARIS,
        "history": PARIS,
        "schema": ADA,
        "tool_call": "get_weather",
        "agent": all_have_called,
        "agent_stream": all_have_called,
        "code_agent": is_thought_and_code,
    },
    "guidellm": {step: [4, [], True] for step in ("chat", "chat_of_a_length", "completions_of_a_length")},
    "litellm": {
        **{
            f"{api}_{step}": expected
            for api in ("chat", "responses", "anthropic")
            for step, expected in {
                "plain": [PARIS, True],
                "stream": paris_in_pieces,
                "tool": [CALLED, SUNNY],
            }.items()
        },
        "own_responses": [PARIS, PARIS],
        "own_messages": PARIS,
    },
    "coding_agents": {"codex_tool": "It said hello.", "claude_tool": ["It said hello.", 2, False]},
    "ai_sdk": {
        f"{provider}_{step}": expected
        for provider in ("compatible", "openai", "responses", "anthropic")
        for step, expected in {
            "plain": [PARIS, "stop", True],
            "stream": [PARIS, "stop", True],
            "history": PARIS,
            "tool": [CALLED, ["tool-calls", "stop"], SUNNY],
            "tool_stream": [CALLED, SUNNY],
            "typed": ADA,
            "typed_stream": ADA,
            "tool_and_type": [CALLED, ["age", "name"]],
            "tool_and_type_stream": [CALLED, ["age", "name"]],
        }.items()
    },
}
CASES = [
    pytest.param(client, step, marks=() if client == SHORT else pytest.mark.clients, id=f"{client}-{step}")
    for client, steps in EXPECTED.items()
    for step in steps
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of a client's steps; its program runs once."""
    pocket = make_engine(parse_spec("pocket"), load_settings())
    with serving(tmp_path_factory.mktemp("home"), pocket, MockEngine(), Player(), aliases=ALIASES) as server:
        yield functools.cache(lambda client: run(client, server, tmp_path_factory.mktemp(client)))


def run(client, server, folder):
    """The JSON in the last line that a client's program prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NO_PROXY": "*",
        "PYTHONPATH": str(FOLDER),
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": KEY,
    }
    done = subprocess.run(
        command(client), cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(client):
    """What runs a client's program."""
    script = FOLDER / client / "program.mjs"
    is_python = not script.is_file()
    program = ENVIRONMENTS / client / "bin" / "python" if is_python else script.parent / "node_modules"
    assert program.exists(), f"{client} is not installed. Run python tools/client_environments.py {client}"
    return [str(program), "-P", str(script.with_suffix(".py"))] if is_python else ["node", str(script)]


@pytest.mark.slow
@pytest.mark.parametrize(("client", "step"), CASES)
def test_a_client_is_served(results, client, step):
    result, expected = results(client)[step], EXPECTED[client][step]
    assert "error" not in result, result["error"]
    assert expected(result["value"]) if callable(expected) else result["value"] == expected, result["value"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "client", [pytest.param(name, marks=() if name == SHORT else pytest.mark.clients) for name in EXPECTED]
)
def test_every_step_of_a_program_is_looked_at(results, client):
    assert set(results(client)) == set(EXPECTED[client])


def test_every_program_has_its_expectations():
    assert {path.parent.name for path in FOLDER.glob("*/program.*")} == set(EXPECTED)


def test_clients_are_pinned():
    pinned = re.compile(r"[\w.-]+(\[[\w,]+\])?==[\d.]+")
    lines = [line for path in FOLDER.glob("*/requirements.txt") for line in path.read_text().splitlines()]
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    for path in FOLDER.glob("*/package.json"):
        versions = json.loads(path.read_text())["dependencies"].values()
        assert all(re.fullmatch(r"[\d.]+", version) for version in versions)
