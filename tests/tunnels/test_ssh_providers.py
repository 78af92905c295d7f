"""Providers that are used with ssh alone, against a stand-in for ssh that prints what they print."""

from __future__ import annotations

import pytest

from llmapi_kit.errors import ConfigError, TunnelAuthError, TunnelDownError
from llmapi_kit.tunnels import TunnelStatus

LOCALHOST_RUN = [
    "",
    "===============================================================================",
    "Welcome to localhost.run!",
    "",
    "To set up and manage custom domains go to https://admin.localhost.run/",
    "More details on custom domains (and how to enable subdomains of your custom",
    "domain) at https://localhost.run/docs/custom-domains",
    "",
    "** your connection id is 0a1b2c, please mention it if you send me a message about an issue. **",
    "",
    "authenticated as anonymous user",
    "a1b2c3d4e5f6a7.lhr.life tunneled with tls termination, https://a1b2c3d4e5f6a7.lhr.life",
    "create an account and add your key for a longer lasting domain name. see https://localhost.run/docs/forever-free/",
]
PINGGY = [
    "You are not authenticated.",
    "Your tunnel will expire in 60 minutes. Upgrade to Pinggy Pro to get unrestricted tunnels. "
    "https://dashboard.pinggy.io",
    "",
    "http://rnabc-192-0-2-1.a.free.pinggy.link",
    "https://rnabc-192-0-2-1.a.free.pinggy.link",
]
SERVEO = ["\x1b[32mForwarding HTTP traffic from \x1b[0mhttps://0a1b.serveo.net", "Press g to start a GUI session."]
# kind, what it prints, the URL in it, what its ssh listens on, where it logs in
PROVIDERS = [
    ("localhost.run", LOCALHOST_RUN, "https://a1b2c3d4e5f6a7.lhr.life", "80", "localhost.run"),
    ("pinggy", PINGGY, "https://rnabc-192-0-2-1.a.free.pinggy.link", "0", "free.pinggy.io"),
    ("serveo", SERVEO, "https://0a1b.serveo.net", "80", "serveo.net"),
]
NAMES = [each[0] for each in PROVIDERS]


def config_of(agent):
    record = agent.record()
    return record["files"][record["arguments"][record["arguments"].index("-F") + 1]]


@pytest.mark.parametrize(("kind", "lines", "url", "listen", "host"), PROVIDERS, ids=NAMES)
def test_the_url_is_read_from_what_it_prints(make_kind, fake_ssh, kind, lines, url, listen, host):
    agent = fake_ssh(lines=lines)
    tunnel = make_kind(kind, port=8123)
    assert tunnel.start() == url
    assert tunnel.kind == kind
    assert agent.record()["arguments"][-1] == host
    assert f"RemoteForward {listen} 127.0.0.1:8123\n" in config_of(agent)


@pytest.mark.parametrize("kind", NAMES)
def test_a_stranger_shows_none_of_the_users_keys_and_is_asked_for_nothing(make_kind, fake_ssh, kind, monkeypatch):
    monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
    monkeypatch.setenv("DISPLAY", ":0")
    agent = fake_ssh(lines=["nothing"], exit=255)
    with pytest.raises(TunnelDownError):
        make_kind(kind).start()
    assert "PubkeyAuthentication no" in config_of(agent)
    assert "Include" not in config_of(agent)
    environment = agent.record()["environment"]
    assert not {"SSH_ASKPASS", "DISPLAY"} & environment.keys()
    assert environment["SSH_ASKPASS_REQUIRE"] == "never"


def test_another_name_for_a_running_tunnel_is_its_url(make_kind, fake_ssh, wait_until, tmp_path):
    other = "b2.lhr.life tunneled with tls termination, https://b2.lhr.life"
    fake_ssh(lines=LOCALHOST_RUN, later=[other], later_file=str(tmp_path / "later"))
    tunnel = make_kind("localhost.run")
    tunnel.start()
    (tmp_path / "later").touch()
    wait_until(lambda: tunnel.status() == TunnelStatus("up", "https://b2.lhr.life"))


def test_localhost_run_knows_its_user_by_the_key(make_kind, fake_ssh, tmp_path):
    key = tmp_path / "a key"
    key.write_text("private")
    agent = fake_ssh(lines=LOCALHOST_RUN)
    make_kind("localhost.run").start()
    assert "User nokey\n" in config_of(agent)
    agent = fake_ssh(lines=LOCALHOST_RUN)
    make_kind("localhost.run", identity_file=key, domain="llm.example.com").start()
    assert "User " not in config_of(agent)
    assert f'IdentityFile "{key}"\n' in config_of(agent)
    assert "RemoteForward llm.example.com:80 " in config_of(agent)


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_pinggys_token_is_in_no_argument_and_no_message(make_kind, fake_ssh, monkeypatch, source):
    token, options = "canaryToken123", {}
    if source == "argument":
        options = {"auth_token": token}
    else:
        monkeypatch.setenv("PINGGY_TOKEN", token)
    agent = fake_ssh(lines=[f"{token}@pro.pinggy.io: Permission denied (password)."], exit=255)
    tunnel = make_kind("pinggy", **options)
    with pytest.raises(TunnelAuthError, match=r"pro\.pinggy\.io refused the login") as caught:
        tunnel.start()
    assert f"User {token}\n" in config_of(agent)
    assert token not in str(agent.record()["arguments"])
    assert token not in f"{caught.value}{tunnel!r}{tunnel.settings!r}{tunnel.status()}"


@pytest.mark.parametrize(("host", "kind"), [("localhost.run", "localhost.run"), ("a@serveo.net", "serveo")])
def test_a_providers_host_is_that_kind(make_kind, host, kind):
    assert make_kind("ssh", host=host).kind == kind


@pytest.mark.parametrize("token", ["a b", "a\nHost *", "-x'"])
def test_a_token_that_would_be_another_setting_is_refused(make_kind, token):
    with pytest.raises(ConfigError, match="has characters that no token has"):
        make_kind("pinggy", auth_token=token).prepare()


@pytest.mark.parametrize("domain", ["a b", "x\nProxyCommand y", "", "https://x.example"])
@pytest.mark.parametrize("kind", ["localhost.run", "serveo"])
def test_a_domain_that_is_none_is_refused(make_kind, kind, domain):
    with pytest.raises(ConfigError, match="must be a host name"):
        make_kind(kind, domain=domain).prepare()


def test_an_agent_that_dies_later_is_down_with_the_reason(make_kind, fake_ssh, wait_until):
    agent = fake_ssh(lines=[*PINGGY, "Timeout, server free.pinggy.io not responding."])
    tunnel = make_kind("pinggy")
    tunnel.start()
    agent.die()
    wait_until(lambda: tunnel.status().state == "down")
    assert "free.pinggy.io ended the connection" in tunnel.status().reason
    assert not tunnel.is_open
