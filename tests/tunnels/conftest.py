"""Fixtures for the tunnels: a fake agent, a fake public site, tunnels that are stopped at the test's end."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from pyngrok import installer

from llmapi_kit.tunnels import TunnelSettings, open_tunnel, secret_store
from tests.tunnels.ssh_host import SshHost, make_keys

HERE = Path(__file__).parent


@dataclass
class FakeAgent:
    """The program to use as ngrok_path, and what it has recorded."""

    path: Path
    record_file: Path
    die_file: Path

    def record(self) -> dict:
        """What the agent that was started last was given and asked; {} before it runs."""
        return json.loads(self.record_file.read_text()) if self.record_file.exists() else {}

    def die(self) -> None:
        self.die_file.touch()


@dataclass
class PublicSite:
    """What a public URL reaches."""

    url: str
    headers_seen: list[dict]
    answer: dict


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    """The user's ngrok configuration and program are out of sight, and nothing can be downloaded."""
    monkeypatch.setattr(secret_store, "_answers", {})
    monkeypatch.setattr(installer, "get_ngrok_cdn_url", lambda _: "http://127.0.0.1:9/no-download-in-tests.tgz")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user" / ".config"))
    monkeypatch.delenv("PYNGROK_NGROK_PATH", raising=False)


@pytest.fixture
def wait_until():
    def wait_until(condition, timeout_s=60.0):
        """Wait for a condition and return its value; fail when it does not come true in time."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {condition}")
            time.sleep(0.01)
        return value

    return wait_until


@pytest.fixture
def is_running():
    def is_running(pid):
        """Does a process run, other than as one that ended and waits to be collected?"""
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return is_running


@pytest.fixture
def make_program(tmp_path):
    """Make a stand-in for an agent: a script beside this file, under the agent's name, with its scenario."""
    num_made = 0

    def make(name, script, **scenario):
        nonlocal num_made
        num_made += 1
        folder = tmp_path / f"agent {num_made}"  # a space: paths must survive the shell
        folder.mkdir()
        agent = FakeAgent(folder / name, folder / "record.json", folder / "die")
        scenario = {"record": str(agent.record_file), "die_file": str(agent.die_file), **scenario}
        (folder / "scenario.json").write_text(json.dumps(scenario))
        command = shlex.join([sys.executable, "-S", str(HERE / script), str(folder / "scenario.json")])
        agent.path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        agent.path.chmod(0o755)
        return agent

    return make


@pytest.fixture
def fake_agent(make_program):
    """A stand-in for ngrok's agent."""
    return partial(make_program, "ngrok", "fake_ngrok.py")


@pytest.fixture
def fake_cloudflared(make_program):
    """One for cloudflared."""
    return partial(make_program, "cloudflared", "fake_printer.py")


@pytest.fixture
def fake_ssh(make_program, monkeypatch):
    """One for ssh, first on PATH."""

    def make(**scenario):
        agent = make_program("ssh", "fake_printer.py", **scenario)
        monkeypatch.setenv("PATH", f"{agent.path.parent}{os.pathsep}{os.environ['PATH']}")
        return agent

    return make


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("ssh keys"))


@pytest.fixture
def ssh_host(ssh_keys, tmp_path):
    """An OpenSSH server of this machine."""
    with SshHost(ssh_keys, tmp_path) as host:
        yield host


@pytest.fixture
def ssh_options(ssh_host):
    """How to log in there. The second address of loopback is none of the names that a server is local by."""
    return {
        "host": f"127.0.0.2:{ssh_host.port}",
        "identity_file": ssh_host.keys.identity,
        "host_key": ssh_host.keys.host_key,
    }


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def make_kind(state_dir):
    """Make tunnels of any kind; all are stopped at the end."""
    tunnels = []

    def make(kind, *, port=8000, **settings):
        settings = TunnelSettings(**{"timeout_s": 20.0, "state_dir": state_dir, **settings})
        tunnel = open_tunnel(kind, port=port, settings=settings)
        tunnels.append(tunnel)
        return tunnel

    yield make
    for tunnel in tunnels:
        tunnel.stop()


@pytest.fixture
def make_tunnel(make_kind):
    def make(agent, **settings):
        path = agent.path if agent is not None else None
        return make_kind("ngrok", **{"auth_token": "a-token", "ngrok_path": path, **settings})

    return make


@pytest.fixture
def public_site():
    """A site on this machine that answers /healthz as its `answer` says: status, headers, body, delay_s."""
    servers = []

    def make(body, *, status=200, headers=()):
        answer = {"status": status, "headers": list(headers), "body": body}
        seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
                text = answer["body"]
                data = (text if isinstance(text, str) else json.dumps(text)).encode()
                self.send_response(answer["status"])
                for name, value in [*answer["headers"], ("Content-Length", str(len(data)))]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return PublicSite(f"http://127.0.0.1:{server.server_port}", seen, answer)

    yield make
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
