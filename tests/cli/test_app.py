"""The command line, run as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
from typer.testing import CliRunner

from llmapi_kit.cli.app import app
from llmapi_kit.notebook import doctor

pytestmark = pytest.mark.kernel

COMMAND = [sys.executable, "-m", "llmapi_kit"]


@pytest.fixture
def options():
    """Further ones for `serve`."""
    return []


@pytest.fixture
def key_file_options(options, tmp_path):
    """One that names a file with a short key."""
    file = tmp_path / "key"
    file.write_text("secret-12\n")
    file.chmod(0o600)
    options += ["--api-key-file", str(file)]


@pytest.fixture
def serving(options):
    """A `serve mock` process on a free port: (process, url, key file, what it printed)."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "mock", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "until Ctrl-C" in line:
            break
    shown = "".join(lines)
    url = re.search(r"http://127\.0\.0\.1:\d+", shown).group()
    key_file = re.search(r"key in +(\S+)", shown).group(1)
    yield process, url, key_file, shown
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_serve_answers_with_its_key_and_shows_none(serving):
    _, url, key_file, shown = serving
    with open(key_file) as file:
        key = file.read().strip()
    assert key not in shown
    assert os.stat(key_file).st_mode & 0o777 == 0o600
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.json()["data"][0]["id"] == "mock"


def test_serve_takes_the_key_from_a_file_and_warns_of_a_short_one(key_file_options, serving):
    _, url, _, shown = serving
    answer = httpx.get(f"{url}/v1/models", headers={"x-api-key": "secret-12"}, trust_env=False)
    assert answer.status_code == 200
    assert "The API key has 9 characters" in shown
    assert "secret-12" not in shown


@pytest.mark.slow
def test_the_curl_line_that_serve_prints_works_when_pasted(serving):
    shown = serving[3]
    line = shown[shown.index("curl ") : shown.index("Serving until")]
    line = line.replace("curl ", "curl -sS --noproxy '*' ", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert '"content":"Hello!"' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly_and_forgets_its_key(serving, number):
    process, _, key_file, _ = serving
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not os.path.exists(key_file)


@pytest.mark.slow
def test_chat_finds_the_server_and_streams_answers(serving):
    done = subprocess.run(
        [*COMMAND, "chat", "--system", "be brief"],
        input="good morning\n\n/reset\ngood night\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("good morning") == 1
    assert "good night" in done.stdout
    assert serving[1] in done.stdout


@pytest.mark.slow
def test_chat_without_a_server_says_what_to_do():
    done = subprocess.run([*COMMAND, "chat"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "No server of llmapi_kit runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "no-such-model"], "There is no model"),
        (["serve", "mock", "--port", "99999"], "0 (any free port) to 65535"),
        (["serve", "mock", "--api-key", "secret"], "--api-key-file"),
        (["serve", "mock", "--default", "other"], "default is 'other', which is none of the models: mock"),
    ],
)
def test_mistakes_are_one_line_and_status_1(arguments, message):
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert "Loading" not in done.stdout, "it is told before a model is loaded"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("is_ok", "status"), [(True, 0), (False, 1)])
def test_the_doctors_verdict_is_the_exit_status(monkeypatch, is_ok, status):
    monkeypatch.setattr(doctor, "doctor", lambda: SimpleNamespace(ok=is_ok))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == status


def test_help_lists_the_commands():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60, check=True)
    for command in ("serve", "chat", "doctor", "notebooks"):
        assert command in done.stdout


def test_notebooks_are_copied_where_there_are_none(tmp_path):
    # An empty PYTHONPATH stub stands for JupyterLab, so that nothing is opened
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").write_text("")
    (tmp_path / "jupyterlab" / "__main__.py").write_text("import sys; print('opened', sys.argv)")
    done = subprocess.run(
        [*COMMAND, "notebooks", "here"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "opened" in done.stdout
    assert sorted(p.name for p in (tmp_path / "here").glob("0*.ipynb"))[0] == "01_setup.ipynb"
