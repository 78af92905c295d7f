"""The command line, run as a user runs it: in a process of its own."""

from __future__ import annotations

import contextlib
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
from tests.warm_python import COMMAND_LINE

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "llmapi_kit"]


def start(*arguments, stdout, home):
    """A command line that starts from nothing."""
    environment = {**os.environ, "LLMAPI_KIT_HOME": str(home)}
    return subprocess.Popen([*COMMAND, *arguments], stdout=stdout, stderr=stdout, env=environment)


@pytest.fixture
def start_warm(warm_python):
    """Another one, without its imports."""

    def start(*arguments, stdout, home):
        return warm_python.start(COMMAND_LINE, *arguments, stdout=stdout, stderr=stdout, LLMAPI_KIT_HOME=str(home))

    return start


@contextlib.contextmanager
def serve(start, *options, home):
    """A `serve mock` process on a free port: (process, url, key file, what it printed)."""
    reading, writing = os.pipe()
    with open(reading) as output:
        with open(writing, "w"):
            process = start("serve", "mock", "--port", "0", *options, stdout=writing, home=home)
        try:
            lines = []
            for line in output:
                lines.append(line)
                if "until Ctrl-C" in line:
                    break
            shown = "".join(lines)
            url = re.search(r"http://127\.0\.0\.1:\d+", shown).group()
            key_file = re.search(r"key in +(\S+)", shown).group(1)
            yield process, url, key_file, shown
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def shared_home(new_home):
    return new_home()


@pytest.fixture(scope="module")
def serving(shared_home):
    """One for all tests that leave it as it is."""
    with serve(start, home=shared_home) as started:
        yield started


def test_serve_answers_with_its_key_and_shows_none(serving):
    _, url, key_file, shown = serving
    with open(key_file) as file:
        key = file.read().strip()
    assert key not in shown
    assert os.stat(key_file).st_mode & 0o777 == 0o600
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.json()["data"][0]["id"] == "mock"


def test_serve_takes_the_key_from_a_file_and_warns_of_a_short_one(start_warm, tmp_path, home):
    file = tmp_path / "key"
    file.write_text("secret-12\n")
    file.chmod(0o600)
    with serve(start_warm, "--api-key-file", str(file), home=home) as (_, url, _, shown):
        answer = httpx.get(f"{url}/v1/models", headers={"x-api-key": "secret-12"}, trust_env=False)
    assert answer.status_code == 200
    assert "The API key has 9 characters" in shown
    assert "secret-12" not in shown


def test_the_curl_line_that_serve_prints_works_when_pasted(serving):
    shown = serving[3]
    line = shown[shown.index("curl ") : shown.index("Serving until")]
    line = line.replace("curl ", "curl -sS --noproxy '*' ", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert '"content":"Hello!"' in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly_and_forgets_its_key(start_warm, home, number):
    with serve(start_warm, home=home) as (process, _, key_file, _):
        process.send_signal(number)
        assert process.wait(20) == 0
        assert not os.path.exists(key_file)


def test_chat_finds_the_server_and_streams_answers(serving, warm_python, shared_home):
    typed = "good morning\n\n/reset\ngood night\n"
    done = warm_python.run(COMMAND_LINE, "chat", "--system", "be brief", typed=typed, LLMAPI_KIT_HOME=str(shared_home))
    assert done.returncode == 0
    assert done.stdout.count("good morning") == 1
    assert "good night" in done.stdout
    assert serving[1] in done.stdout


def test_a_mistake_is_one_line_and_status_1(warm_python):
    done = warm_python.run(COMMAND_LINE, "serve", "no-such-model")
    assert done.returncode == 1
    assert "There is no model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat"], "No server of llmapi_kit runs"),
        (["serve", "mock", "--port", "99999"], "0 (any free port) to 65535"),
        (["serve", "mock", "--api-key", "secret"], "--api-key-file"),
        (["serve", "mock", "--default", "other"], "default is 'other', which is not one of the models: mock"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(arguments, message):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert "Loading" not in done.stdout


@pytest.mark.parametrize(("is_ok", "status"), [(True, 0), (False, 1)])
def test_the_doctors_verdict_is_the_exit_status(monkeypatch, is_ok, status):
    monkeypatch.setattr(doctor, "doctor", lambda: SimpleNamespace(ok=is_ok))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == status


def test_help_lists_the_commands():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
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
