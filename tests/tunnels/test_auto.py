"""The first kind of tunnel that works, with stand-ins for the agents."""

from __future__ import annotations

import shutil
import threading

import pytest

from llmapi_kit.errors import ConfigError, TunnelDownError, TunnelError
from llmapi_kit.tunnels import Tunnel, auto

OURS = {"status": "ok", "instance": "ours"}
SSH_ANSWERS = "tunneled with tls termination, {url}"


@pytest.fixture
def own_path(monkeypatch, tmp_path):
    """Nothing on PATH but what a test puts there, and what a stand-in needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(auto, "PROVIDER_WAIT_S", 0.01)
    return folder


@pytest.fixture
def auto_tunnel(make_kind, own_path):
    def make(**settings):
        return make_kind("auto", instance="ours", **settings)

    return make


@pytest.fixture
def ssh_prints(fake_ssh):
    """An ssh on PATH that a provider answers with this URL."""

    def make(url):
        return fake_ssh(lines=[SSH_ANSWERS.format(url=url)])

    return make


def test_it_is_a_tunnel_that_has_the_name_of_the_chosen_one(auto_tunnel, ssh_prints, public_site):
    site = public_site(OURS)
    ssh_prints(site.url.replace("http", "https", 1))
    tunnel = auto_tunnel()
    assert isinstance(tunnel, Tunnel)
    assert tunnel.kind == "auto"
    assert tunnel.start().startswith("https://127.0.0.1:")
    assert (tunnel.kind, tunnel.is_open, tunnel.status().state) == ("localhost.run", True, "up")


def test_a_token_makes_it_ngrok(auto_tunnel, ssh_prints, fake_agent, monkeypatch, public_site):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "a-token")
    ssh_prints("https://never.example")
    lines = []
    tunnel = auto_tunnel(ngrok_path=fake_agent(public_url=public_site(OURS).url).path, on_progress=lines.append)
    tunnel.start()
    assert tunnel.kind == "ngrok"
    assert lines == ["opening a tunnel: ngrok", "the tunnel is open: ngrok"]


@pytest.mark.slow
def test_a_host_of_ones_own_comes_first(auto_tunnel, own_path, ssh_options, monkeypatch, fake_agent, public_site):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "a-token")
    (own_path / "ssh").symlink_to(shutil.which("ssh", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin"))
    port = int(public_site(OURS).url.rpartition(":")[2])
    tunnel = auto_tunnel(port=port, ngrok_path=fake_agent().path, **ssh_options)
    tunnel.start()
    assert tunnel.kind == "ssh"
    assert tunnel.check().state == "up"


@pytest.mark.slow
def test_the_login_for_ones_own_host_is_shown_to_no_provider(auto_tunnel, fake_ssh, tmp_path):
    key = tmp_path / "key"
    key.write_text("private")
    agent = fake_ssh(lines=["Permission denied (publickey)."], exit=255)
    with pytest.raises(TunnelError, match="ssh: h refused the login"):
        auto_tunnel(host="me@h", identity_file=key).start()
    record = agent.record()  # the last one that was tried
    (config,) = record["files"].values()
    assert record["arguments"][-1] == "serveo.net"
    assert str(key) not in config
    assert "User me" not in config


@pytest.mark.slow
def test_what_does_not_lead_here_is_passed_over(auto_tunnel, ssh_prints, fake_agent, monkeypatch, public_site):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "a-token")
    ssh = ssh_prints("https://127.0.0.1:9")  # nobody is reached there, which may be this machine's fault
    wrong = fake_agent(public_url=public_site("<html>offline</html>", status=404).url)
    tunnel = auto_tunnel(ngrok_path=wrong.path)
    assert tunnel.start() == "https://127.0.0.1:9"
    assert tunnel.kind == "localhost.run"
    assert wrong.record()["was_terminated"]
    assert ssh.record()["pid"]


def test_a_server_that_does_not_know_its_new_name_yet_is_the_right_one(
    auto_tunnel, ssh_prints, fake_agent, monkeypatch, public_site
):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "a-token")
    ssh_prints("https://never.example")
    site = public_site({"error": {"code": "host_not_allowed"}}, status=403)
    tunnel = auto_tunnel(ngrok_path=fake_agent(public_url=site.url).path)
    tunnel.start()
    assert tunnel.kind == "ngrok"


def test_where_nothing_works_it_says_what_was_tried_and_why_each_failed(auto_tunnel, fake_ssh, fake_cloudflared):
    fake_ssh(lines=["Permission denied (publickey)."], exit=255)
    cloudflared = fake_cloudflared(lines=["failed to request quick Tunnel: dial"], exit=1)
    tunnel = auto_tunnel(cloudflared_path=cloudflared.path)
    with pytest.raises(TunnelError) as caught:
        tunnel.start()
    lines = str(caught.value).splitlines()
    assert lines[0] == "No tunnel could be opened. Tried:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "ngrok",
        "cloudflared",
        "localhost.run",
        "pinggy",
        "serveo",
    ]
    assert "ngrok needs a token" in lines[1]
    assert "can't be asked for a quick tunnel" in lines[2]
    assert "localhost.run refused the login" in lines[3]
    assert tunnel.status().state == "down"


def test_where_nothing_can_be_tried_it_is_told_before_a_model_is_loaded(auto_tunnel):
    with pytest.raises(TunnelError, match=r"(?s)ngrok needs a token.*cloudflared is not on.*the program ssh"):
        auto_tunnel().prepare()


def test_nobody_is_asked_for_a_token_that_others_do_without(auto_tunnel, ssh_prints, monkeypatch):
    monkeypatch.setattr("getpass.getpass", lambda *_: pytest.fail("it asks"))
    monkeypatch.setattr("llmapi_kit.tunnels.secret_store._can_ask_person", lambda: True)
    ssh_prints("https://a.example")
    auto_tunnel().prepare()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth_token": "x"}, "'auto' has no option 'auth_token'; ngrok"),
        ({"domain": "a.example"}, "'auto' has no option 'domain'; ngrok"),
        ({"remote_port": 80}, "remote_port is of use with host only"),
        ({"host": "not a host"}, "it must be user@host"),
    ],
    ids=str,
)
def test_an_option_that_it_could_not_keep_is_refused(auto_tunnel, options, words):
    with pytest.raises(ConfigError, match=words):
        auto_tunnel(**options).prepare()


def test_stop_during_start_ends_the_agent_and_tries_no_other(auto_tunnel, fake_ssh, wait_until, is_running):
    agent = fake_ssh()
    tunnel = auto_tunnel()
    raised = []

    def start():
        try:
            tunnel.start()
        except TunnelError as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(agent.record)
    pid = agent.record()["pid"]
    tunnel.stop()
    thread.join(20)
    assert [type(each) for each in raised] == [TunnelDownError]
    assert agent.record()["pid"] == pid
    assert not is_running(pid)
