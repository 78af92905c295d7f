"""Tunnels by ssh for real: an OpenSSH server on loopback, the system's ssh, our server behind it."""

from __future__ import annotations

import _thread
import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import threading
import time
from functools import partial

import httpx
import psutil
import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, TunnelAuthError, TunnelDownError, TunnelError, TunnelLimitError
from llmapi_kit.server.public_access import host_of
from llmapi_kit.server.server import Server
from llmapi_kit.tunnels import TunnelStatus, watcher
from llmapi_kit.tunnels.backoff import Backoff
from llmapi_kit.types import Accepted, Delta, Finished
from tests.tunnels.ssh_host import SshHost

pytestmark = pytest.mark.slow

# An interrupt may come while psutil has a file open
HALFWAY = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
KEY = "sk-llmapi-test-0123456789abcdef"
DEADLINE_S = 60.0


class HeldEngine(MockEngine):
    """Sends a word, and the next one when it is let go on."""

    def __init__(self):
        super().__init__()
        self.goes_on = threading.Event()

    async def generate(self, request):
        yield Accepted(1)
        yield Delta("first")
        await asyncio.to_thread(self.goes_on.wait, DEADLINE_S)
        yield Delta(" second")
        yield Finished("stop", 1, 2)


@pytest.fixture
def held():
    engine = HeldEngine()
    yield engine
    engine.goes_on.set()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(watcher, "Backoff", partial(Backoff, first_s=0.05))
    servers = []

    def start(engine):
        server = Server([engine], host="127.0.0.1", port=0, api_key=KEY, settings=load_settings())
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(drain_s=0)


@pytest.fixture
def make(make_kind):
    return partial(make_kind, "ssh")


def free_port():
    with socket.create_server(("0.0.0.0", 0)) as server:
        return server.getsockname()[1]


def ask(url, **options):
    body = {"model": "mock", "messages": [{"role": "user", "content": "hello there"}], **options}
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=DEADLINE_S, trust_env=False
    )


def agents():
    return [child for child in psutil.Process().children() if child.name() == "ssh"]


def words_of(line):
    return json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")


# Through it


def test_an_answer_streams_through_it_word_by_word(serve, ssh_options, held):
    url = serve(held).open_tunnel("ssh", **ssh_options)
    with ask(url, stream=True) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: {"))
        words = ""
        while "first" not in words:
            words += words_of(next(lines))
        assert words == "first"
        held.goes_on.set()  # so the first word was here before the second one was made
        assert "".join(map(words_of, lines)) == " second"


def test_the_public_name_opens_with_the_key_only_and_tells_nothing_of_the_server(serve, ssh_options):
    url = serve(MockEngine()).open_tunnel("ssh", **ssh_options)
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).status_code == 200
    assert httpx.get(f"{url}/metrics", headers=headers, trust_env=False).status_code == 403


def test_a_cut_connection_comes_back_with_its_new_url_and_local_clients_notice_nothing(
    serve, ssh_options, ssh_host, held, wait_until
):
    server = serve(held)
    url = server.open_tunnel("ssh", **ssh_options)
    with ask(server.url, stream=True) as local, ask(url, stream=True) as remote:
        lines = {each: (line for line in each.iter_lines() if line.startswith("data: {")) for each in (local, remote)}
        assert {words_of(next(each)) + words_of(next(each)) for each in lines.values()} == {"first"}
        ssh_host.cut()
        with pytest.raises(httpx.HTTPError):
            list(lines[remote])
        held.goes_on.set()
        assert "".join(map(words_of, lines[local])) == " second"
    wait_until(lambda: server.public_url not in (None, url), timeout_s=DEADLINE_S)
    with ask(server.public_url) as response:
        assert json.loads(response.read())["choices"][0]["message"]["content"] == "first second"
    (record,) = server._registry.running()
    assert record.public_url == server.public_url
    assert len(agents()) == 1


def test_a_host_that_is_away_is_waited_for(serve, ssh_options, ssh_host, wait_until):
    port = free_port()
    server = serve(MockEngine())
    url = server.open_tunnel("ssh", **ssh_options, remote_port=port)
    ssh_host.refuses = True
    ssh_host.cut()
    wait_until(lambda: server.tunnel_status().state == "down")
    assert server.public_url is None
    assert server.tunnel_status().public_url == url  # so that a person sees which link is dead
    wait_until(lambda: "ended the connection" in server.tunnel_status().reason, timeout_s=DEADLINE_S)
    ssh_host.refuses = False
    wait_until(lambda: server.public_url == url, timeout_s=DEADLINE_S)
    assert server.tunnel_status(check=True).state == "up"


def test_closing_it_ends_the_agent_and_the_name_is_known_no_more(serve, ssh_options):
    server = serve(MockEngine())
    url = server.open_tunnel("ssh", **ssh_options)
    server.close_tunnel()
    assert agents() == []
    assert server.public_url is None
    host = url.removeprefix("http://")
    assert httpx.get(f"{server.url}/healthz", headers={"Host": host}, trust_env=False).status_code == 403


def test_a_server_that_takes_anothers_place_keeps_its_tunnel(ssh_options, monkeypatch):
    import llmapi_kit as kit

    try:
        server = kit.launch("mock", port=0, tunnel="ssh", tunnel_options=ssh_options)
        (agent,) = agents()
        other = kit.launch("mock", port=0, tunnel="ssh", tunnel_options=ssh_options, total_timeout_s=50)
        assert other is not server
        assert (other.public_url, agents()) == (other.tunnel_status(check=True).public_url, [agent])
        assert server.tunnel_status() is None
        other.restart()
        assert other.tunnel_status(check=True).state == "up"
    finally:
        kit.stop_all()
    assert agents() == []


@pytest.mark.parametrize("keeps", [True, False])
def test_a_server_that_is_to_take_anothers_place_goes_by_its_public_name_from_the_start(serve, ssh_options, keeps):
    old = serve(MockEngine())
    name = host_of(old.open_tunnel("ssh", **ssh_options))
    new = Server([MockEngine()], host="127.0.0.1", port=old.port, api_key=KEY, settings=load_settings(), instead_of=old)
    try:
        assert name in new._state.hosts
        assert name in new._state.public_hosts
        new.start()
        new.take_over(old, "ssh" if keeps else None)
        assert (name in new._state.hosts) is keeps
    finally:
        new.stop(drain_s=0)


def test_the_servers_own_names_stay_local_when_the_tunnel_has_one_of_them(serve, ssh_options):
    server = serve(MockEngine())
    ssh_options["host"] = ssh_options["host"].replace("127.0.0.2", "127.0.0.1")
    server.open_tunnel("ssh", **ssh_options)
    assert list(server._state.public_hosts) == []


# Opening


def test_a_free_port_is_taken_where_none_is_asked_for(make, ssh_options, caplog):
    url = make(**ssh_options).start()
    assert url.startswith("http://127.0.0.2:")
    assert "is not encrypted" in caplog.text


def test_the_port_of_a_web_server_on_the_host_is_open_to_that_one_only(make, ssh_options, ssh_host, public_site):
    site = public_site({"status": "ok"})
    port = free_port()
    tunnel = make(
        port=int(site.url.rpartition(":")[2]),
        **ssh_options,
        remote_port=port,
        public_url="https://llm.example.com/",
    )
    assert tunnel.start() == "https://llm.example.com"
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{port}/healthz", trust_env=False)


def test_arguments_name_no_account_and_the_configuration_is_private(make, ssh_options, state_dir):
    user = psutil.Process().username()
    tunnel = make(**{**ssh_options, "host": f"{user}@{ssh_options['host']}"})
    tunnel.start()
    (agent,) = agents()
    assert user not in agent.cmdline()
    (config,) = state_dir.glob("*/ssh_config")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert f"User {user}" in config.read_text()
    for line in ("BatchMode yes", "ForwardAgent no", "ControlPath none", "ExitOnForwardFailure yes"):
        assert line in config.read_text()
    tunnel.stop()
    assert not agent.is_running()
    assert list(state_dir.iterdir()) == []


def test_a_host_key_that_is_seen_first_is_kept_and_a_changed_one_refused(
    make, ssh_options, ssh_keys, ssh_host, state_dir, tmp_path
):
    del ssh_options["host_key"]
    make(**ssh_options).start()
    known = (state_dir / "known_hosts").read_text()
    assert ssh_keys.host_key in known
    other = (ssh_keys.folder / "other.pub").read_text().split()[1]
    (state_dir / "known_hosts").write_text(known.replace(ssh_keys.host_key.split()[1], other))
    with pytest.raises(TunnelError, match="another host key than the one that is known"):
        make(**ssh_options).start()


def test_another_host_than_the_one_named_is_refused(make, ssh_options, ssh_keys):
    ssh_options["host_key"] = " ".join((ssh_keys.folder / "other.pub").read_text().split()[:2])
    with pytest.raises(TunnelError, match="another host key"):
        make(**ssh_options).start()
    assert agents() == []


def test_a_login_that_is_refused_is_an_error_that_says_so(make, ssh_options, ssh_keys):
    with pytest.raises(TunnelAuthError, match=r"refused the login.*identity_file(.|\n)*Permission denied"):
        make(**{**ssh_options, "identity_file": ssh_keys.folder / "other"}).start()


def test_a_key_that_others_can_read_is_an_error_that_says_what_to_do(make, ssh_options, ssh_keys, tmp_path):
    shutil.copy(ssh_keys.identity, tmp_path / "loose")
    (tmp_path / "loose").chmod(0o644)
    with pytest.raises(TunnelAuthError, match="chmod 600"):
        make(**{**ssh_options, "identity_file": tmp_path / "loose"}).start()


def test_a_remote_port_that_is_taken_is_an_error_that_names_it(make, ssh_options):
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=family is socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TunnelLimitError, match=f"does not listen on port {port}: another program has it"):
            make(**ssh_options, remote_port=port).start()


def test_a_host_where_nobody_listens_is_an_error_that_says_so(make, ssh_options):
    with pytest.raises(TunnelDownError, match="can't be reached with ssh"):
        make(**{**ssh_options, "host": f"127.0.0.2:{free_port()}"}).start()


def test_an_sshd_that_allows_no_public_port_is_explained(make, ssh_keys, tmp_path, ssh_options):
    folder = tmp_path / "strict"
    folder.mkdir()
    with SshHost(ssh_keys, folder, gateway_ports="no") as host:
        tunnel = make(**{**ssh_options, "host": f"127.0.0.2:{host.port}"}, instance="ours")
        tunnel.start()
        status = tunnel.check()
        assert status.state == "down"
        assert "GatewayPorts clientspecified" in status.reason
        tunnel.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has to know where"),
        ({"host": "-oProxyCommand=false"}, "it must be user@host"),
        ({"host": "user:secret@host"}, "it must be user@host"),
        ({"host": "host:70000"}, "it must be user@host"),
        ({"host": "a b"}, "it must be user@host"),
        ({"host": "h", "identity_file": "/no/such/key"}, "no private key at identity_file"),
        ({"host": "h", "host_key": "SHA256:abc"}, "host_key is not a public key"),
        ({"host": "h", "host_key": "ssh-ed25519 AAAA\nHost *"}, "host_key is not a public key"),
        ({"host": "h", "remote_port": 70000}, "remote_port is 70000"),
        ({"host": "h", "public_url": "https://x.example"}, "public_url needs remote_port"),
        ({"host": "h", "remote_port": 1, "public_url": "x.example"}, "must be a URL"),
        ({"host": "h", "domain": "x.example"}, "has no option 'domain'"),
        ({"host": "h", "auth_token": "secret"}, "has no option 'auth_token'"),
        ({"host": "localhost.run", "remote_port": 80}, "'localhost.run' has no option 'remote_port'"),
        ({"host": "h", "timeout_s": 0}, "timeout_s is 0"),
        ({"host": "h", "timeout_s": "30"}, "timeout_s is '30'"),
        ({"host": "h", "timeout_s": float("nan")}, "timeout_s is nan"),
        ({"host": 22}, "host is 22; it must be a string"),
        ({"host": "h", "public_url": 1, "remote_port": 1}, "public_url is 1; it must be a string"),
        ({"host": "h", "probe_interval_s": -1}, "probe_interval_s is -1"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_before_anything_is_started(make, options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options).prepare()


def test_without_ssh_it_says_what_to_install(make, ssh_options, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TunnelError, match="apt-get install openssh-client"):
        make(**ssh_options).prepare()


# Ending early


@pytest.fixture
def silent_host():
    """A host that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"host": f"127.0.0.1:{server.getsockname()[1]}"}


def test_stop_during_start_ends_agent_and_start(make, silent_host, wait_until, state_dir):
    tunnel = make(**silent_host)
    raised = []

    def start():
        try:
            tunnel.start()
        except TunnelError as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(agents)
    tunnel.stop()
    thread.join(DEADLINE_S)
    assert [type(each) for each in raised] == [TunnelDownError]
    assert agents() == []
    assert list(state_dir.iterdir()) == []


@HALFWAY
def test_interrupt_during_start_leaves_no_agent(make, silent_host, wait_until, state_dir):
    tunnel = make(**silent_host)

    def interrupt():
        wait_until(agents)
        _thread.interrupt_main(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tunnel.start()
    thread.join()
    assert agents() == []
    assert tunnel.status() == TunnelStatus("stopped")
    assert list(state_dir.iterdir()) == []


@pytest.mark.parametrize("kind", ["ssh", "auto"])
@pytest.mark.parametrize("end", [lambda server: server.stop(0), lambda server: server.close_tunnel()])
def test_a_server_that_is_stopped_waits_for_no_tunnel_that_is_being_opened(serve, silent_host, wait_until, kind, end):
    server = serve(MockEngine())
    raised = []

    def open_tunnel():
        try:
            server.open_tunnel(kind, **silent_host, timeout_s=3600)
        except TunnelError as exc:
            raised.append(exc)

    thread = threading.Thread(target=open_tunnel)
    thread.start()
    wait_until(agents)
    end(server)
    thread.join(DEADLINE_S)
    assert [type(each) for each in raised] == [TunnelDownError]
    assert (agents(), server.tunnel_status()) == ([], None)


@HALFWAY
def test_an_interrupted_cell_leaves_the_server_as_it_was(serve, silent_host, wait_until):
    server = serve(MockEngine())

    def interrupt():
        wait_until(agents)
        _thread.interrupt_main(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        server.open_tunnel("ssh", **silent_host)
    thread.join()
    assert (agents(), server.tunnel_status()) == ([], None)
    assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200


def test_a_host_that_says_nothing_is_given_up_at_the_deadline(make, silent_host):
    started = time.monotonic()
    with pytest.raises(TunnelError, match=r"gave no public URL within 0\.5 s"):
        make(**silent_host, timeout_s=0.5).start()
    assert time.monotonic() - started < DEADLINE_S
    assert agents() == []


def test_the_agent_is_in_no_process_group_that_a_cells_interrupt_reaches(make, ssh_options):
    make(**ssh_options).start()
    (agent,) = agents()
    assert os.getpgid(agent.pid) != os.getpgid(0)
    assert os.getsid(agent.pid) != os.getsid(0)
