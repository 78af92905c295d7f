"""cloudflared against a stand-in that prints its lines: quick tunnels, and named ones with a token."""

from __future__ import annotations

import json

import pytest

from llmapi_kit.errors import (
    ConfigError,
    TunnelAuthError,
    TunnelDownError,
    TunnelError,
    TunnelLimitError,
    TunnelTimeoutError,
)

TOKEN = "eyJhIjoiY2FuYXJ5IiwidCI6IngifQ"
REGISTERED = "2026-01-01T00:00:02Z INF Registered tunnel connection connIndex=0 connection=1 event=0 ip=192.0.2.1"
QUICK = [
    "2026-01-01T00:00:00Z INF Requesting new quick Tunnel on trycloudflare.com...",
    "2026-01-01T00:00:01Z INF +---------------------------------------------------------+",
    "2026-01-01T00:00:01Z INF |  Your quick Tunnel has been created! Visit it at:        |",
    "2026-01-01T00:00:01Z INF |  https://four-words-and-more.trycloudflare.com          |",
    "2026-01-01T00:00:01Z INF +---------------------------------------------------------+",
]


def routes(*rules):
    """The line that tells where the dashboard has a tunnel lead."""
    config = {"ingress": [{"hostname": name, "service": service} for name, service in rules]}
    config["ingress"].append({"service": "http_status:404"})
    return f"2026-01-01T00:00:03Z INF Updated to new configuration config={json.dumps(json.dumps(config))} version=1"


@pytest.fixture
def make(make_kind):
    def make(agent, **settings):
        return make_kind("cloudflared", cloudflared_path=agent.path, **settings)

    return make


def test_a_quick_tunnel_is_open_when_it_has_a_name_and_a_connection(make, fake_cloudflared):
    agent = fake_cloudflared(lines=[*QUICK, REGISTERED])
    assert make(agent, port=8123).start() == "https://four-words-and-more.trycloudflare.com"
    arguments = agent.record()["arguments"]
    assert arguments[arguments.index("--url") + 1] == "http://127.0.0.1:8123"
    assert "--no-autoupdate" in arguments
    assert agent.record()["files"] == {arguments[arguments.index("--config") + 1]: "{}\n"}  # not the user's own


@pytest.mark.slow
def test_a_quick_tunnel_without_a_connection_is_not_open(make, fake_cloudflared):
    with pytest.raises(TunnelTimeoutError, match=r"(?s)within 3 s.*quick Tunnel has been created"):
        make(fake_cloudflared(lines=QUICK), timeout_s=3).start()


def test_a_fresh_name_is_left_alone_until_dns_knows_it(make, fake_cloudflared):
    assert make(fake_cloudflared()).settle_s > 0


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp',
            TunnelDownError,
            "on",
        ),
        ('ERR Error unmarshaling QuickTunnel response: error code: 1015 status_code="429"', TunnelLimitError, "Wait"),
        ("failed to unmarshal quick Tunnel: invalid character", TunnelDownError, "gave out no quick tunnel"),
        ("Could not lookup srv records on _v2-origintunneld._tcp.argotunnel.com", TunnelDownError, "port 7844"),
        ("something new", TunnelDownError, "exit code 1"),
    ],
)
def test_a_refused_quick_tunnel_is_an_error_that_says_what_to_do(make, fake_cloudflared, said, kind, words):
    with pytest.raises(TunnelError, match=f"(?s){words}.*last log lines") as caught:
        make(fake_cloudflared(lines=[*QUICK[:1], said], exit=1)).start()
    assert type(caught.value) is kind


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_named_tunnel_has_its_token_in_its_environment_only(make, fake_cloudflared, monkeypatch, source, state_dir):
    options = {"auth_token": TOKEN} if source == "argument" else {}
    if source == "environment":
        monkeypatch.setenv("TUNNEL_TOKEN", TOKEN)
    monkeypatch.setenv("TUNNEL_URL", "http://elsewhere")
    agent = fake_cloudflared(lines=[REGISTERED, routes(("llm.example.com", "http://localhost:8000"))])
    tunnel = make(agent, **options)
    assert tunnel.start() == "https://llm.example.com"
    record = agent.record()
    assert record["environment"]["TUNNEL_TOKEN"] == TOKEN
    assert "TUNNEL_URL" not in record["environment"]
    assert TOKEN not in str(record["arguments"])
    assert record["arguments"][-1] == "run"
    assert TOKEN not in f"{tunnel!r}{tunnel.settings!r}"
    assert not any(TOKEN in path.read_text() for path in state_dir.rglob("*") if path.is_file())


def test_a_token_is_kept_from_a_quick_tunnels_agent(make, fake_cloudflared, monkeypatch):
    monkeypatch.setenv("TUNNEL_TOKEN", " ")
    agent = fake_cloudflared(lines=[*QUICK, REGISTERED])
    make(agent).start()
    assert "TUNNEL_TOKEN" not in agent.record()["environment"]


def test_the_name_asked_for_is_taken(make, fake_cloudflared):
    rules = routes(("a.example.com", "http://localhost:8000"), ("b.example.com", "http://127.0.0.1:8000"))
    tunnel = make(fake_cloudflared(lines=[rules, REGISTERED]), auth_token=TOKEN, domain="b.example.com")
    assert tunnel.start() == "https://b.example.com"


@pytest.mark.slow
def test_a_tunnel_that_leads_elsewhere_says_what_to_set(make, fake_cloudflared):
    agent = fake_cloudflared(lines=[REGISTERED, routes(("llm.example.com", "http://localhost:3000"))])
    with pytest.raises(TunnelTimeoutError, match=r"to http://localhost:3000\. Set .* http://localhost:8000"):
        make(agent, auth_token=TOKEN, timeout_s=3).start()


def test_a_refused_token_is_an_error_that_does_not_quote_it(make, fake_cloudflared):
    agent = fake_cloudflared(lines=[f"Provided Tunnel token is not valid. {TOKEN}"], exit=255)
    with pytest.raises(TunnelAuthError, match="does not take the tunnel's token") as caught:
        make(agent, auth_token=TOKEN).start()
    assert TOKEN not in str(caught.value)


def test_without_the_program_it_says_where_it_comes_from(make_kind, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TunnelError, match=r"not on PATH. Get it from https://developers\.cloudflare\.com"):
        make_kind("cloudflared").prepare()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cloudflared_path": "/no/such"}, "no program at cloudflared_path"),
        ({"domain": "llm.example.com"}, "A quick tunnel has a random name"),
        ({"domain": "not a name", "auth_token": TOKEN}, "must be a host name"),
        ({"region": "eu"}, "has no option 'region'; ngrok"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(make_kind, fake_cloudflared, options, words):
    with pytest.raises(ConfigError, match=words):
        make_kind("cloudflared", **{"cloudflared_path": fake_cloudflared().path, **options}).prepare()
