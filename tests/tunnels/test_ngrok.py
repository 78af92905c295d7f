"""An ngrok tunnel against a fake agent: starting, what fails, stopping. Nothing leaves the machine."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import socket
import stat
import threading
import time
import traceback
import urllib.request

import psutil
import pytest
from pyngrok import ngrok
from pyngrok import process as pyngrok_process
from pyngrok.conf import PyngrokConfig

from llmapi_kit.errors import (
    TunnelAuthError,
    TunnelDownError,
    TunnelError,
    TunnelLimitError,
    TunnelTimeoutError,
)
from llmapi_kit.tunnels.agent_folder import AgentFolder

pytestmark = pytest.mark.slow

# An interrupt may come while psutil has a file open
HALFWAY = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
CANARY = "2canaryTokenThatNobodyMaySee_5xQ"
WRONG_TOKEN = "authentication failed: it is invalid.\\nYour authtoken: TOKEN\\n\\nERR_NGROK_107\\n"


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_start_returns_the_public_url_of_the_servers_port(make_tunnel, fake_agent):
    agent = fake_agent(public_url="https://abc.ngrok.app/")
    tunnel = make_tunnel(agent, port=8123)
    assert tunnel.start() == "https://abc.ngrok.app"
    assert (tunnel.status().state, tunnel.status().public_url) == ("up", "https://abc.ngrok.app")
    method, path, body = agent.record()["requests"][0]
    assert (method, path, body["upstream"]) == ("POST", "/api/endpoints", {"url": "http://127.0.0.1:8123"})
    assert "url" not in body


def test_domain_is_asked_for(make_tunnel, fake_agent):
    assert make_tunnel(fake_agent(), domain="mine.ngrok.app").start() == "https://mine.ngrok.app"


def test_starting_a_tunnel_that_is_up_changes_nothing(make_tunnel, fake_agent):
    agent = fake_agent(public_url="https://abc.ngrok.app")
    tunnel = make_tunnel(agent)
    assert tunnel.start() == tunnel.start()
    assert len(agent.record()["requests"]) == 1


def test_tunnel_can_not_be_started_again_after_stop(make_tunnel, fake_agent):
    tunnel = make_tunnel(fake_agent())
    tunnel.start()
    tunnel.stop()
    with pytest.raises(TunnelError, match="Open a new one"):
        tunnel.start()


@pytest.mark.parametrize(
    ("said", "kind", "code", "advice"),
    [
        (WRONG_TOKEN, TunnelAuthError, "ERR_NGROK_107", "Copy the token"),
        ("does not look like a proper authtoken ERR_NGROK_105", TunnelAuthError, "ERR_NGROK_105", "Copy the token"),
        ("requires a verified account. ERR_NGROK_4018", TunnelAuthError, "ERR_NGROK_4018", "verified account"),
        ("limited to 1 session. ERR_NGROK_108", TunnelLimitError, "ERR_NGROK_108", "Stop the other one"),
        ("version 3.1 is too old. ERR_NGROK_121", TunnelError, "ERR_NGROK_121", "ngrok update"),
        ("something new. ERR_NGROK_99999", TunnelError, "ERR_NGROK_99999", "errors/err_ngrok_99999"),
        ("no code at all", TunnelDownError, None, "ended before it was ready"),
    ],
)
def test_refused_session_is_an_error_with_code_advice_and_log(make_tunnel, fake_agent, said, kind, code, advice):
    tunnel = make_tunnel(fake_agent(startup_error=said))
    with pytest.raises(TunnelError, match="failed to auth") as caught:
        tunnel.start()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert advice in str(caught.value)
    assert (tunnel.status().state, tunnel.status().code) == ("down", code)


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"msg": "failed", "details": {"err": "already online. ERR_NGROK_334"}}, TunnelLimitError, "ERR_NGROK_334"),
        ({"msg": "failed", "details": {"err": "not reserved. ERR_NGROK_319"}}, TunnelLimitError, "ERR_NGROK_319"),
        ({"msg": "the agent's own reason"}, TunnelError, None),
        ("the agent's own reason", TunnelError, None),
    ],
)
def test_refused_endpoint_is_an_error_and_ends_the_agent(
    make_tunnel, fake_agent, is_running, state_dir, body, kind, code
):
    agent = fake_agent(post_status=502, post_body=body)
    with pytest.raises(TunnelError) as caught:
        make_tunnel(agent).start()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert code is not None or "the agent's own reason" in str(caught.value)
    assert not is_running(agent.record()["pid"])
    assert files_in(state_dir) == []


def test_program_that_can_not_run_is_an_error_that_says_so(make_tunnel, fake_agent):
    agent = fake_agent()
    agent.path.write_bytes(b"\0\0 not a program")
    with pytest.raises(TunnelDownError, match="Exec format error"):
        make_tunnel(agent).start()


def test_silent_agent_is_given_up_at_the_deadline_and_ended(make_tunnel, fake_agent, is_running, state_dir):
    agent = fake_agent(is_silent=True)
    tunnel = make_tunnel(agent, timeout_s=3.0)
    started = time.monotonic()
    with pytest.raises(TunnelTimeoutError, match=r"within 3 s.*\n.*printed nothing"):
        tunnel.start()
    assert time.monotonic() - started < 30
    assert not is_running(agent.record()["pid"])
    assert files_in(state_dir) == []
    assert tunnel.status().state == "down"


def test_agent_that_never_gets_ready_is_quoted_in_the_timeout(make_tunnel, fake_agent):
    with pytest.raises(TunnelTimeoutError, match="starting web service"):
        make_tunnel(fake_agent(has_no_session=True), timeout_s=3.0).start()


def test_stop_during_start_ends_agent_and_start(make_tunnel, fake_agent, wait_until, is_running, state_dir):
    agent = fake_agent(is_silent=True)
    tunnel = make_tunnel(agent)
    raised = []

    def start():
        try:
            tunnel.start()
        except TunnelError as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(agent.record)
    before = time.monotonic()
    tunnel.stop()
    assert time.monotonic() - before < 30
    thread.join(60)
    assert [type(exc) for exc in raised] == [TunnelDownError]
    assert not is_running(agent.record()["pid"])
    assert files_in(state_dir) == []
    assert tunnel.status().state == "stopped"


@HALFWAY
def test_interrupt_during_start_leaves_no_agent(make_tunnel, fake_agent, wait_until, is_running, state_dir):
    agent = fake_agent(is_silent=True)
    tunnel = make_tunnel(agent)

    def interrupt():
        wait_until(agent.record)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background run ignores it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            tunnel.start()
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert not is_running(agent.record()["pid"])
    assert files_in(state_dir) == []
    assert tunnel.status().state == "stopped"


def test_agent_outlives_the_thread_that_called_start(make_tunnel, fake_agent, is_running):
    # Linux ends an agent with the thread that spawned it: a button's worker must not be that thread.
    agent = fake_agent()
    tunnel = make_tunnel(agent)
    thread = threading.Thread(target=tunnel.start)
    thread.start()
    thread.join()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(agent.record()["pid"]).wait(0.3)
    assert tunnel.status().state == "up"


def test_state_folder_that_allows_no_programs_is_an_error_that_says_so(make_tunnel, fake_agent, monkeypatch):
    write_private = AgentFolder.write_private
    monkeypatch.setattr(AgentFolder, "write_private", lambda *a, mode=0: write_private(*a, mode=0o600))
    with pytest.raises(TunnelError, match="choose another state_dir"):
        make_tunnel(fake_agent()).start()


def test_stop_leaves_no_agent_no_files_and_no_thread(make_tunnel, fake_agent, is_running, state_dir):
    children, threads = set(psutil.Process().children(recursive=True)), set(threading.enumerate())
    agent = fake_agent()
    tunnel = make_tunnel(agent)
    tunnel.start()
    pid = agent.record()["pid"]
    assert is_running(pid)
    assert len(files_in(state_dir)) == 2  # the pid file and the agent's folder
    tunnel.stop()
    assert not psutil.pid_exists(pid)
    assert set(psutil.Process().children(recursive=True)) == children
    assert set(threading.enumerate()) <= threads
    assert files_in(state_dir) == []
    assert tunnel.status().state == "stopped"


def test_stop_disconnects_the_endpoint_and_asks_the_agent_to_end(make_tunnel, fake_agent):
    agent = fake_agent()
    tunnel = make_tunnel(agent)
    tunnel.start()
    tunnel.stop()
    assert agent.record()["was_terminated"]
    (_, _, endpoint), (method, path, _) = agent.record()["requests"]
    assert (method, path) == ("DELETE", f"/api/endpoints/{endpoint['name']}")


def test_stop_may_be_called_twice_and_before_start(make_tunnel, fake_agent):
    tunnel = make_tunnel(fake_agent())
    tunnel.start()
    tunnel.stop()
    tunnel.stop()
    never_started = make_tunnel(fake_agent())
    never_started.stop()
    assert never_started.status().state == "stopped"


def test_agent_that_ignores_sigterm_is_killed(make_tunnel, fake_agent):
    agent = fake_agent(ignores_sigterm=True)
    tunnel = make_tunnel(agent)
    tunnel.start()
    before = time.monotonic()
    tunnel.stop()
    assert time.monotonic() - before < 30
    assert not psutil.pid_exists(agent.record()["pid"])


def test_agent_dying_later_shows_as_down_with_its_last_words(make_tunnel, fake_agent, wait_until, state_dir):
    agent = fake_agent(public_url="https://abc.ngrok.app", last_words=["moved elsewhere", "bye. ERR_NGROK_108"])
    tunnel = make_tunnel(agent)
    tunnel.start()
    agent.die()
    wait_until(lambda: tunnel.status().state == "down")
    status = tunnel.status()
    assert (status.public_url, status.code) == ("https://abc.ngrok.app", "ERR_NGROK_108")
    assert "exit code 7" in status.reason
    assert "bye." in status.reason
    wait_until(lambda: files_in(state_dir) == [])


def test_killed_agent_shows_as_down(make_tunnel, fake_agent, wait_until):
    agent = fake_agent()
    tunnel = make_tunnel(agent)
    tunnel.start()
    psutil.Process(agent.record()["pid"]).kill()
    wait_until(lambda: tunnel.status().state == "down")
    assert "signal 9" in tunnel.status().reason


def test_two_tunnels_have_two_agents_each_with_its_own_token(make_tunnel, fake_agent, is_running):
    # pyngrok alone would hand the second one the first one's agent, and with it the first one's account.
    agent = fake_agent()
    tunnels = [make_tunnel(agent, auth_token="token-1"), make_tunnel(agent, auth_token="token-2")]
    tunnels[0].start()
    pid = agent.record()["pid"]
    tunnels[1].start()
    assert agent.record()["pid"] != pid
    assert "token-2" in agent.record()["config"]
    tunnels[1].stop()
    assert is_running(pid)
    assert tunnels[0].status().state == "up"


def test_agent_of_the_users_own_pyngrok_code_is_neither_reused_nor_killed(
    make_tunnel, fake_agent, is_running, tmp_path
):
    agent = fake_agent()
    theirs = PyngrokConfig(ngrok_path=str(agent.path), config_path=str(tmp_path / "theirs" / "ngrok.yml"))
    process = ngrok.get_ngrok_process(theirs)
    try:
        tunnel = make_tunnel(agent)
        tunnel.start()
        assert agent.record()["pid"] != process.proc.pid
        tunnel.stop()
        assert is_running(process.proc.pid)
    finally:
        process.stop_monitor_thread()
        ngrok.kill(theirs)
        process.proc.stdout.close()


def test_pyngrok_forgets_a_stopped_agent(make_tunnel, fake_agent):
    before = set(pyngrok_process._current_processes)
    tunnel = make_tunnel(fake_agent())
    tunnel.start()
    assert set(pyngrok_process._current_processes) != before
    tunnel.stop()
    assert set(pyngrok_process._current_processes) == before


def test_proxy_in_the_environment_does_not_hang_the_start(make_tunnel, fake_agent, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent_proxy:
        url = f"http://127.0.0.1:{silent_proxy.getsockname()[1]}"
        monkeypatch.setattr(urllib.request, "_opener", None)  # keeps the proxies of its first use
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        before = dict(os.environ)
        tunnel = make_tunnel(fake_agent(), timeout_s=10.0)
        tunnel.start()
        assert dict(os.environ) == before
        tunnel.stop()
        assert dict(os.environ) == before
        silent_proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent_proxy.accept()


def test_token_reaches_the_agent_by_a_private_file_that_stop_removes(make_tunnel, fake_agent, state_dir):
    agent = fake_agent()
    tunnel = make_tunnel(agent, auth_token=CANARY)
    tunnel.start()
    seen = agent.record()
    assert CANARY in seen["config"]
    assert (seen["config_mode"], seen["folder_mode"]) == ("0o600", "0o700")
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    tunnel.stop()
    assert files_in(state_dir) == []


def test_agent_does_not_keep_requests_for_inspection(make_tunnel, fake_agent):
    agent = fake_agent()
    make_tunnel(agent).start()
    assert "  inspect_db_size: -1\n" in agent.record()["config"]


def test_token_is_in_no_argument_and_not_in_the_agents_environment(make_tunnel, fake_agent, monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", CANARY)
    agent = fake_agent()
    make_tunnel(agent, auth_token=None).start()
    seen = agent.record()
    assert CANARY in seen["config"]
    assert not any(CANARY in value for value in [*seen["arguments"], *seen["environment"].values()])
    for process in psutil.process_iter(["cmdline"]):
        assert CANARY not in " ".join(process.info["cmdline"] or [])


def test_token_shows_in_no_repr_log_or_error_even_if_the_agent_prints_it(
    make_tunnel, fake_agent, monkeypatch, caplog, capfd
):
    monkeypatch.setenv("NGROK_AUTHTOKEN", CANARY)
    caplog.set_level(logging.DEBUG)
    tunnel = make_tunnel(fake_agent(startup_error=WRONG_TOKEN), auth_token=None)
    with pytest.raises(TunnelAuthError) as caught:
        tunnel.start()
    error = caught.value
    shown = [
        *traceback.TracebackException.from_exception(error, capture_locals=True).format(),
        repr(tunnel),
        repr(tunnel.settings),
        repr(vars(tunnel)),
        repr(tunnel.status()),
        caplog.text,
        *capfd.readouterr(),
    ]
    assert "[redacted]" in str(error)
    assert "failed to auth" in caplog.text
    assert not [text for text in shown if CANARY in text]


def test_token_quoted_in_the_answer_to_an_endpoint_is_redacted(make_tunnel, fake_agent):
    agent = fake_agent(post_status=400, post_body={"msg": f"token {CANARY} may not do that"})
    with pytest.raises(TunnelError, match="redacted") as caught:
        make_tunnel(agent, auth_token=CANARY).start()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
