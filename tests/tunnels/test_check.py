"""Asking the public URL whether it reaches our server."""

from __future__ import annotations

import socket

import pytest

OURS = {"status": "ok", "instance": "ours"}


@pytest.fixture
def tunnel_to(make_tunnel, fake_agent):
    def open_to(url, *, instance="ours"):
        tunnel = make_tunnel(fake_agent(public_url=url), instance=instance)
        tunnel.start()
        return tunnel

    return open_to


def test_url_that_reaches_our_server_is_up(tunnel_to, public_site):
    tunnel = tunnel_to(public_site(OURS).url)
    assert tunnel.check() == tunnel.status()
    assert (tunnel.status().state, tunnel.status().reason) == ("up", None)


def test_check_asks_for_healthz_and_skips_the_browser_warning(tunnel_to, public_site):
    site = public_site(OURS)
    tunnel_to(site.url).check()
    assert site.headers_seen[0]["path"] == "/healthz"
    assert "ngrok-skip-browser-warning" in site.headers_seen[0]


def test_url_that_reaches_another_instance_is_down(tunnel_to, public_site):
    tunnel = tunnel_to(public_site({"status": "ok", "instance": "theirs"}).url)
    assert tunnel.check().state == "down"
    assert "another server" in tunnel.status().reason
    assert "theirs" in tunnel.status().reason


def test_without_an_instance_any_server_like_ours_is_up(tunnel_to, public_site):
    assert tunnel_to(public_site({"status": "ok", "instance": "any"}).url, instance=None).check().state == "up"


@pytest.mark.slow
@pytest.mark.parametrize("body", ["<html>hello</html>", "[1, 2]", '"status"', "{}", "null", ""])
def test_url_that_reaches_something_else_is_down(tunnel_to, public_site, body):
    status = tunnel_to(public_site(body).url, instance=None).check()
    assert status.state == "down"
    assert "answered" in status.reason


def test_http_error_is_down_with_its_status_code(tunnel_to, public_site):
    status = tunnel_to(public_site(OURS, status=503).url).check()
    assert status.state == "down"
    assert "HTTP 503" in status.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "words"),
    [
        (404, [("ngrok-error-code", "ERR_NGROK_3200")], "offline", "ERR_NGROK_3200", "endpoint is offline"),
        (502, [], "<html>... ERR_NGROK_8012 ...</html>", "ERR_NGROK_8012", "does not accept"),
        (200, [("Ngrok-Error-Code", "ERR_NGROK_6024")], "<html>You are about", "ERR_NGROK_6024", "warning page"),
        (500, [("ngrok-error-code", "ERR_NGROK_99999")], "", "ERR_NGROK_99999", "errors/err_ngrok_99999"),
    ],
)
def test_ngroks_own_page_is_down_with_its_code(tunnel_to, public_site, status, headers, body, code, words):
    result = tunnel_to(public_site(body, status=status, headers=headers).url).check()
    assert (result.state, result.code) == ("down", code)
    assert f"HTTP {status}" in result.reason
    assert words in result.reason


def test_url_where_nobody_answers_is_down(tunnel_to):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    status = tunnel_to(f"http://127.0.0.1:{port}").check()
    assert status.state == "down"
    assert "can't be reached" in status.reason


def test_url_that_stays_silent_is_down_after_the_timeout(tunnel_to):
    with socket.create_server(("127.0.0.1", 0)) as server:
        tunnel = tunnel_to(f"http://127.0.0.1:{server.getsockname()[1]}")
        status = tunnel.check(timeout_s=0.3)
    assert status.state == "down"
    assert "did not answer within 0.3 s" in status.reason


def test_name_that_dns_does_not_know_is_down(tunnel_to, monkeypatch):
    tunnel = tunnel_to("https://nowhere.ngrok.app")

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    status = tunnel.check()
    assert status.state == "down"
    assert "not known to DNS" in status.reason


def test_unusable_proxy_in_the_environment_is_down_and_not_an_exception(tunnel_to, monkeypatch):
    tunnel = tunnel_to("https://nowhere.ngrok.app")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    assert tunnel.check(timeout_s=1).state == "down"


def test_link_that_works_again_is_up_again(tunnel_to, public_site):
    site = public_site(OURS, status=502)
    tunnel = tunnel_to(site.url)
    assert tunnel.check().state == "down"
    site.answer["status"] = 200
    assert tunnel.check().state == "up"


def test_dead_agent_is_not_called_up_by_a_check(make_tunnel, fake_agent, public_site, wait_until):
    agent = fake_agent(public_url=public_site(OURS).url)
    tunnel = make_tunnel(agent, instance="ours")
    tunnel.start()
    agent.die()
    wait_until(lambda: tunnel.status().state == "down")
    assert tunnel.check().state == "down"
    assert "agent ended" in tunnel.check().reason


def test_check_before_start_and_after_stop_asks_nobody(make_tunnel, fake_agent, public_site):
    site = public_site(OURS)
    tunnel = make_tunnel(fake_agent(public_url=site.url))
    assert tunnel.check().state == "stopped"
    tunnel.start()
    tunnel.stop()
    assert tunnel.check().state == "stopped"
    assert site.headers_seen == []
