"""`code-server.sh` with stand-ins for what it installs: sets up, starts, goes on, stops, and says what it does."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[1]
SYSTEM_PYTHON = """#!/bin/bash
case "$1" in
  --version) echo "Python 3.11.9" ;;
  -c) ;;
  -m) echo "made $3"; mkdir -p "$3/bin"; cp stand-ins/python stand-ins/llmapi-kit "$3/bin/" ;;
esac
"""
VENV_PYTHON = f"""#!/bin/bash
echo "$*" >>calls
case "$*" in
  "-c import secrets"*) echo "the-password-of-$RANDOM-$RANDOM" ;;
  "-m pip"*) echo "Collecting torch"; [ ! -e pip-fails ] || {{ echo "connection broke off"; exit 1; }} ;;
  "-m jupyterlab"*) echo "$JUPYTER_TOKEN" >seen-token; {sys.executable} -m http.server --bind 127.0.0.1 "$7" ;;
  "-m llmapi_kit.tunnels"*) echo "https://stand-in.example"; sleep 60 ;;
esac
"""
CODE_SERVER = f"""#!/bin/bash
echo "code-server $*" >>calls
while [ $# -gt 0 ]; do
  case $1 in
    --install-extension) mkdir -p "$extensions/$2-1.0"; exit 0 ;;
    --extensions-dir) extensions=$2; shift 2 ;;
    --config) port=$(sed -n 's/bind-addr: .*://p' "$2"); shift 2 ;;
    *) shift ;;
  esac
done
{sys.executable} -m http.server --bind 127.0.0.1 "$port"
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="made for Linux")


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A bare machine: the project's folder, a Python, and a home."""
    folder = tmp_path / "project"
    (folder / "notebooks").mkdir(parents=True)
    for name in ("code-server.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    write_program(folder / "stand-ins" / "python", VENV_PYTHON)
    write_program(folder / "stand-ins" / "llmapi-kit", "#!/bin/bash\necho 'the doctor was here'\n")
    write_program(tmp_path / "bin" / "python3.11", SYSTEM_PYTHON)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    subprocess.run([folder / "code-server.sh", "--stop"], check=False, capture_output=True)


@pytest.fixture
def script(machine):
    def run(*arguments, expect=0):
        done = subprocess.run([machine / "code-server.sh", *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def state(machine):
    return machine.parent / "home" / ".local" / "state" / "llmapi-kit"


def calls(machine):
    return (machine / "calls").read_text()


def add_code_server(machine):
    write_program(machine.parent / "bin" / "code-server", CODE_SERVER)


@pytest.mark.slow
def test_setting_up_says_each_step_and_does_it_once(machine, script):
    said = script("--lab", "--setup-only")
    for words in ("Making .venv with Python 3.11.9", "Installing the kit", "done in", "the doctor was here", "--lab"):
        assert words in said
    assert "-c constraints.txt" in calls(machine)
    again = script("--lab", "--setup-only")
    assert "Installing" not in again
    assert calls(machine).count("-m pip install") == 1
    assert "Installing the kit" in script("--lab", "--setup-only", "--update")
    assert "--upgrade" in calls(machine)


def test_a_download_that_broke_off_is_said_and_goes_on_when_run_again(machine, script):
    (machine / "pip-fails").touch()
    said = script("--lab", "--setup-only", expect=1)
    assert "connection broke off" in said
    assert "Run this again: what was downloaded is kept." in said
    (machine / "pip-fails").unlink()
    assert "Making .venv" not in script("--lab", "--setup-only")


@pytest.mark.slow
def test_jupyterlab_starts_once_and_stops(machine, script, port):
    script("--lab", "--setup-only")
    said = script("--lab", "--port", port)
    (password,) = [line.split(": ")[1] for line in said.splitlines() if "shown this once" in line]
    assert httpx.get(f"http://127.0.0.1:{port}", trust_env=False).status_code == 200
    assert (machine / "seen-token").read_text().strip() == password
    assert f"--ip 127.0.0.1 --port {port}" in calls(machine)
    again = script("--lab", "--port", port)
    assert "It runs already." in again
    assert password not in again
    file = state(machine) / "password"
    assert file.read_text().strip() == password
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "Stopped." in script("--stop")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
    assert "Nothing runs." in script("--stop")


@pytest.mark.slow
def test_vs_code_starts_with_its_extensions_and_no_password_among_the_arguments(machine, script, port):
    add_code_server(machine)
    said = script("--port", port)
    assert "VS Code answers at" in said
    assert "ms-toolsai.jupyter" in said
    assert httpx.get(f"http://127.0.0.1:{port}", trust_env=False).status_code == 200
    password = (state(machine) / "password").read_text().strip()
    assert password in (state(machine) / "code-server.yaml").read_text()
    assert stat.S_IMODE((state(machine) / "code-server.yaml").stat().st_mode) == 0o600
    assert password not in calls(machine)
    settings = (state(machine) / "code" / "User" / "settings.json").read_text()
    assert f'"{machine}/.venv/bin/python"' in settings
    script("--port", port)
    assert calls(machine).count("--install-extension") == 2


@pytest.mark.slow
def test_an_extension_that_can_not_be_had_is_said_and_the_editor_starts(machine, script, port):
    write_program(machine.parent / "bin" / "code-server", CODE_SERVER.replace("exit 0", "echo ENOTFOUND; exit 1"))
    said = script("--port", port)
    assert "ENOTFOUND" in said
    assert "use --lab" in said
    assert "VS Code answers at" in said


@pytest.mark.slow
def test_another_kind_takes_the_place_of_what_runs(machine, script, port):
    add_code_server(machine)
    script("--lab", "--port", port)
    assert "VS Code answers at" in script("--port", port)
    assert "JupyterLab answers at" in script("--lab", "--port", port)


@pytest.mark.slow
def test_what_has_died_is_started_again(machine, script, port):
    script("--lab", "--port", port)
    pid = int((state(machine) / "server.pid").read_text().split()[0])
    process = psutil.Process(pid)
    os.killpg(pid, signal.SIGKILL)
    process.wait(20)  # a signal only asks
    assert "It runs already." not in script("--lab", "--port", port)


@pytest.mark.slow
def test_a_tunnel_shows_its_address(script, port):
    assert "Public: https://stand-in.example" in script("--lab", "--port", port, "--tunnel")


def test_a_port_in_use_is_told(script):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"port {port} is in use by another program" in script("--lab", "--port", port, expect=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--prot", "1"], "unknown option --prot"), (["--port"], "needs a value"), (["--port", "0"], "from 1 to 65535")],
)
def test_a_wrong_option_is_named(script, arguments, words):
    assert words in script(*arguments, expect=2)


def test_help_names_every_option(script):
    said = script("--help")
    for option in ("--lab", "--tunnel", "--setup-only", "--update", "--stop", "--port", "--host"):
        assert option in said
