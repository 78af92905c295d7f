"""Sharing in one word: `kit.launch(…, share=True)`, and ``llmapi-kit share`` beside a server that runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import httpx
import psutil
import pytest

import llmapi_kit as kit
from llmapi_kit.cli.share import find_server, share_until
from llmapi_kit.client.running_servers import RunningServers, SharedUrl
from llmapi_kit.config import load_settings
from llmapi_kit.server.outside_share import HostNames
from llmapi_kit.server.public_access import host_of

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
COMMAND = [sys.executable, "-m", "llmapi_kit", "share"]
LOCALHOST_RUN = "tunneled with tls termination, https://127.0.0.2:9"


@pytest.fixture(autouse=True)
def no_server_stays():
    yield
    kit.stop_all()


@pytest.fixture
def server():
    return kit.launch("mock", port=0)


@pytest.fixture
def program():
    """``llmapi-kit share`` in a process of its own."""
    started = []

    def start(*arguments):
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def through_ssh(ssh_options):
    """Arguments for a tunnel to the ssh server of this machine."""
    options = [f"--tunnel-option={name}={value}" for name, value in ssh_options.items()]
    return ["--tunnel=ssh", *options]


def line_with(process, words):
    for line in process.stdout:
        if words in line:
            return line
    pytest.fail(f"it ended without saying {words!r}")


def ask(url, server, path="/v1/models"):
    return httpx.get(url + path, headers={"Authorization": f"Bearer {server.api_key}"}, trust_env=False)


# In a cell


def test_share_opens_the_first_tunnel_that_works_and_says_which(fake_ssh):
    fake_ssh(lines=[LOCALHOST_RUN])
    server = kit.launch("mock", port=0, share=True)
    assert (server.tunnel_kind, server.public_url) == ("localhost.run", "https://127.0.0.2:9")
    assert "public  https://127.0.0.2:9  (localhost.run, " in str(server)
    assert kit.launch("mock", port=0, share=True) is server
    assert server.public_url == "https://127.0.0.2:9"
    kit.launch("mock", port=0)
    assert server.tunnel_kind is None


def test_a_running_server_is_shared_and_the_hosts_rules_are_said(server, fake_ssh, monkeypatch, caplog):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    fake_ssh(lines=[LOCALHOST_RUN])
    assert server.share() == "https://127.0.0.2:9"
    assert "Kaggle's rules forbid many kinds of tunnels" in caplog.text


def test_a_tunnel_that_is_named_wins_over_share(fake_ssh):
    fake_ssh(lines=["Forwarding HTTP traffic from https://0a1b.serveo.net"])
    assert kit.launch("mock", port=0, share=True, tunnel="serveo").tunnel_kind == "serveo"


def test_a_tunnel_that_is_open_when_the_server_is_shared_is_shown_as_it_is(server, fake_ssh):
    fake_ssh(lines=[LOCALHOST_RUN])
    server.share()
    status = server.tunnel_status(check=True)  # nobody is reached there
    assert status.state == "degraded"
    assert server.public_url == "https://127.0.0.2:9"


# From a terminal


def test_the_newest_server_is_public_until_ctrl_c_and_goes_on(program, server, through_ssh):
    process = program(*through_ssh)
    url = line_with(process, "(ssh, up)").split()[1].removesuffix("/v1")
    assert ask(url, server).status_code == 200
    assert ask(url, server, "/metrics").status_code == 403
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
    assert (server.public_url, server.tunnel_kind, server.tunnel_status().state) == (url, "ssh", "up")
    assert kit.servers()[0].public_url == url
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "the server goes on" in out
    assert server.public_url is None
    assert httpx.get(f"{server.url}/healthz", headers={"Host": host_of(url)}, trust_env=False).status_code == 403
    assert ask(server.url, server).status_code == 200


def test_a_killed_program_leaves_no_agent_and_no_name(program, server, through_ssh, wait_until):
    process = program(*through_ssh)
    url = line_with(process, "(ssh, up)").split()[1].removesuffix("/v1")
    (agent,) = (child for child in psutil.Process(process.pid).children() if child.name() == "ssh")
    process.kill()
    process.wait()
    wait_until(lambda: not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE)
    assert server.public_url is None
    assert httpx.get(f"{server.url}/healthz", headers={"Host": host_of(url)}, trust_env=False).status_code == 403


def test_without_a_server_one_is_launched(program, through_ssh):
    process = program("mock", "--port=0", *through_ssh)
    assert "public  http://127.0.0.2:" in line_with(process, "(ssh, up)")
    line_with(process, "Serving until Ctrl-C")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_a_server_that_is_public_is_not_made_public_again(server, fake_ssh, capsys):
    fake_ssh(lines=[LOCALHOST_RUN])
    server.share()
    share_until(threading.Event(), find_server(None), "auto", {})
    assert "is public already: https://127.0.0.2:9/v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("launch", "port", "kind", "options", "words"),
    [
        ({"api_key": False}, None, "auto", {}, "api_key=False works on this machine only"),
        ({"api_key": "secret-12"}, None, "auto", {}, "has 9 characters; at least 16 are needed"),
        ({}, 1, "auto", {}, "No server of llmapi_kit runs on port 1; there are some on"),
        ({}, None, "ngork", {}, "Did you mean 'ngrok'"),
        ({}, None, "ssh", {"colour": "red"}, "no option 'colour'"),
        ({}, None, "ssh", {}, "has to know where"),
    ],
)
def test_what_can_not_be_shared_is_said(launch, port, kind, options, words):
    server = kit.launch("mock", port=0, **launch)
    with pytest.raises(kit.LlmApiKitError, match=words):
        share_until(threading.Event(), find_server(port), kind, options)
    assert server.tunnel_status() is None


def test_where_no_server_runs_there_is_none_to_share():
    assert find_server(None) is find_server(8000) is None


def test_a_share_of_a_program_that_is_gone_counts_for_nothing(server):
    registry = RunningServers(load_settings())
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    instance = server._state.instance
    registry.share(instance, SharedUrl("ssh", "up", "https://evil.example", None, gone.pid, 1.0))
    assert server.tunnel_status() is None
    assert httpx.get(f"{server.url}/healthz", headers={"Host": "evil.example"}, trust_env=False).status_code == 403


def test_a_name_of_its_own_is_not_looked_up():
    names = HostNames(("localhost",), lambda: pytest.fail("it is looked up"))
    assert "localhost" in names
    assert "" not in HostNames((), lambda: None)
    assert list(names) == ["localhost"]
