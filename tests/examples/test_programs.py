"""Every client in examples/ that can run here, run as its README says, against a live server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import KEY, serving

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWER = "The capital of Italy is Rome."
# What JSON, and a client that takes it apart, may stumble over
ODD = 'a "quoted" \\ \\u00e9 é 🙂 <b>\n\n\tdata: x\x01'
NEEDED = {
    "node": "Node 20 or newer",
    "java": "a JDK of version 17 or newer",
    "curl": "curl 7.82 or newer",
    "bash": "bash",
}
# Java compiles a client's one file each time, and does not run long enough to be worth its best code
FAST_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@pytest.fixture(scope="module")
def pocket(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), pocket_engine) as server:
        yield server


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A server whose answers are hard to take apart."""
    with serving(tmp_path_factory.mktemp("home"), MockEngine(ODD)) as server:
        yield server


def run(server, program, script, *args, key=KEY):
    """What a client printed; `key` is nowhere in its command line."""
    assert shutil.which(program), f"The tests of examples/ need {NEEDED[program]}, which is not installed."
    environment = {
        **os.environ,
        "LLMAPI_KIT_URL": server.url,
        "LLMAPI_KIT_API_KEY": key,
        "LC_ALL": "C.UTF-8",
        "NO_PROXY": "*",
        "JDK_JAVA_OPTIONS": FAST_START,
    }
    command = [program, str(EXAMPLES / script), *args]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60)


def output(*args, **options):
    """What a client printed, all being well."""
    done = run(*args, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text):
    """Every JSON object of a text, one after the other, those of events too."""
    decoder, found = json.JSONDecoder(), []
    for line in text.splitlines():
        line = line.removeprefix("data: ")
        while line.startswith("{"):
            value, end = decoder.raw_decode(line)
            found.append(value)
            line = line[end:].lstrip()
    return found


def test_curl_chats_and_streams(pocket):
    (answer,) = documents(output(pocket, "bash", "curl/chat.sh"))
    assert answer["choices"][0]["message"]["content"] == ANSWER
    streamed = output(pocket, "bash", "curl/stream.sh")
    pieces = documents(streamed)
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces[:-1]) == ANSWER
    assert pieces[-1]["usage"]["completion_tokens"] > 0
    assert streamed.rstrip().endswith("data: [DONE]")


def test_curl_listens_to_events(pocket, odd):
    text = output(pocket, "bash", "curl/eventsource.sh", "What is the capital of Italy?")
    assert "".join(each["text"] for each in documents(text)) == ANSWER
    assert "event: end" in text
    assert "".join(each["text"] for each in documents(output(odd, "bash", "curl/eventsource.sh", "ä&b=c"))) == ODD


def test_curl_makes_embeddings(pocket):
    (answer,) = documents(output(pocket, "bash", "curl/embeddings.sh"))
    assert [each["index"] for each in answer["data"]] == [0, 1]


def test_curl_speaks_with_the_session_api(pocket):
    first, second, ended = documents(output(pocket, "bash", "curl/session.sh"))
    assert first["reply"] == ANSWER
    assert second["reply"] == "The capital of France is Paris."
    assert ended == {"code": 0, "msg": "Success"}


def test_curl_speaks_with_the_glm_api(pocket):
    answer, *events, tokens, vectors = documents(output(pocket, "bash", "curl/glm.sh"))
    assert answer["content"] == ANSWER
    ends = [index for index, event in enumerate(events) if event["total_tokens"] == answer["total_tokens"]]
    assert events[ends[0]]["content"] == ANSWER
    assert "".join(event["content"] for event in events[ends[0] + 1 :]) == ANSWER
    assert tokens["tokens"] == ["The", " sun"]
    assert len(vectors["data"]) == 2


def test_curl_speaks_with_the_alpaca_demo_api(pocket):
    conversation, of_a_text, completion = documents(output(pocket, "bash", "curl/alpaca.sh"))
    assert conversation["choices"] == of_a_text["choices"]
    assert conversation["choices"][-1]["message"] == {"role": "assistant", "content": ANSWER}
    assert completion["object"] == "text_completion"


NODE_EVENTSOURCE = ("node", "javascript/eventsource.js")
CLIENTS = [NODE_EVENTSOURCE, ("node", "javascript/fetch.js"), ("java", "java/ChatSse.java")]


@pytest.fixture(autouse=True)
def installed(request):
    """Says what is missing, in place of Node's own words."""
    if "client" in request.fixturenames and request.getfixturevalue("client") == NODE_EVENTSOURCE:
        package = EXAMPLES / "javascript" / "node_modules" / "eventsource"
        assert package.is_dir(), "Its package is missing: npm install --prefix examples/javascript (make test does it)."


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client[1])
def test_a_client_prints_the_answer(client, pocket):
    assert output(pocket, *client) == ANSWER + "\n"  # without a question it has one of its own


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client[1])
def test_a_client_takes_odd_answers_apart(client, odd):
    assert output(odd, *client, "ä&b=c?") == ODD + "\n"


@pytest.mark.parametrize("client", [*CLIENTS, ("bash", "curl/eventsource.sh"), ("bash", "curl/chat.sh")], ids=str)
def test_a_client_with_a_wrong_key_says_so_and_fails(client, odd):
    done = run(odd, *client, key="sk-llmapi-wrong-0123456789")
    assert done.returncode != 0
    assert re.search("401|API key is wrong", done.stdout + done.stderr)
    assert "sk-llmapi-wrong-0123456789" not in done.stdout + done.stderr


def test_what_npm_installs_is_named_exactly_and_from_no_certain_registry():
    package = json.loads((EXAMPLES / "javascript" / "package.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    assert not (EXAMPLES / "javascript" / "package-lock.json").exists()


def test_every_example_stands_in_the_readme():
    readme = (EXAMPLES / "README.md").read_text()
    part_of_another = {"api.sh", "client.js", "page.js", "index.html", "package.json"}
    for language in ("curl", "javascript", "java", "go"):
        for path in (EXAMPLES / language).iterdir():
            if path.is_file() and path.name not in part_of_another and not path.name.startswith("."):
                assert f"examples/{language}/{path.name}" in readme
