"""Finding the token and the agent program."""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from pydantic import SecretStr
from pyngrok import installer

from llmapi_kit.errors import ConfigError, TunnelAuthError, TunnelDownError, TunnelError
from llmapi_kit.tunnels import TunnelSettings, open_tunnel
from llmapi_kit.tunnels.ngrok_setup import find_agent, find_token


def write_ngrok_config(text):
    path = f"{installer.get_default_ngrok_dir()}/ngrok.yml"
    installer.os.makedirs(installer.get_default_ngrok_dir())
    with open(path, "w") as file:
        file.write(text)


def test_missing_token_is_an_error_before_any_process_starts(make_tunnel, fake_agent, state_dir):
    agent = fake_agent()
    tunnel = make_tunnel(agent, auth_token=None)
    children = psutil.Process().children()
    with pytest.raises(TunnelAuthError, match=r"your-authtoken.*NGROK_AUTHTOKEN.*Colab or Kaggle"):
        tunnel.start()
    assert psutil.Process().children() == children
    assert agent.record() == {}
    assert not state_dir.exists()
    assert tunnel.status().state == "down"


def test_given_token_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "from-environment")
    assert find_token(SecretStr(" given\n")).get_secret_value() == "given"


def test_token_of_the_environment_wins_over_the_users_configuration(monkeypatch):
    write_ngrok_config("version: 3\nagent:\n  authtoken: from-file\n")
    monkeypatch.setenv("NGROK_AUTHTOKEN", "from-environment")
    assert find_token(None).get_secret_value() == "from-environment"


@pytest.mark.parametrize("text", ["version: 3\nagent:\n  authtoken: from-file\n", "version: 2\nauthtoken: from-file\n"])
def test_token_of_the_users_own_configuration_is_found(text):
    write_ngrok_config(text)
    assert find_token(None).get_secret_value() == "from-file"


def test_broken_user_configuration_counts_as_no_token_and_is_not_quoted():
    write_ngrok_config("agent: {authtoken: secret-in-broken-file")
    with pytest.raises(TunnelAuthError) as caught:
        find_token(None)
    assert "secret-in-broken-file" not in str(caught.value)
    assert caught.value.__context__ is None


def test_plain_string_token_never_shows_in_the_settings_repr(tmp_path):
    assert "a-secret" not in repr(TunnelSettings(state_dir=tmp_path, auth_token="a-secret"))


def test_ngrok_path_that_is_not_there_is_refused(tmp_path):
    settings = TunnelSettings(state_dir=tmp_path, auth_token="t", ngrok_path=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no ngrok agent at ngrok_path"):
        open_tunnel("ngrok", port=8000, settings=settings).start()


def test_ngrok_path_that_is_no_program_is_refused(tmp_path):
    (tmp_path / "ngrok").touch(mode=0o600)
    settings = TunnelSettings(state_dir=tmp_path, auth_token="t", ngrok_path=tmp_path / "ngrok")
    with pytest.raises(ConfigError, match="chmod"):
        open_tunnel("ngrok", port=8000, settings=settings).start()


@pytest.mark.parametrize("domain", ["https://a.ngrok.app", "a.ngrok.app/x", "plain", ""])
def test_domain_that_is_no_host_name_is_refused(tmp_path, domain):
    settings = TunnelSettings(state_dir=tmp_path, auth_token="t", domain=domain)
    with pytest.raises(ConfigError, match="must be a host name"):
        open_tunnel("ngrok", port=8000, settings=settings).start()


def test_agent_on_path_is_used_without_a_download(monkeypatch, fake_agent):
    agent = fake_agent()
    monkeypatch.setenv("PATH", str(agent.path.parent))
    lines = []
    assert find_agent(lines.append) == agent.path
    assert lines == []


def test_pyngroks_own_command_on_path_is_not_taken_for_the_agent(monkeypatch, tmp_path, fake_agent):
    # pyngrok installs a script named ngrok beside pip; it would start the agent as a child that stop() never ends.
    shim = tmp_path / "venv" / "ngrok"
    shim.parent.mkdir()
    shim.write_text("#!/usr/bin/python3\nimport sys\nfrom pyngrok.ngrok import main\nsys.exit(main())\n")
    shim.chmod(0o755)
    agent = fake_agent()
    monkeypatch.setenv("PATH", f"{shim.parent}:{agent.path.parent}")
    assert find_agent(lambda line: None) == agent.path


@pytest.fixture
def download_site(monkeypatch, tmp_path):
    """Where pyngrok downloads from, on this machine: an archive with a program named ngrok."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("ngrok")
        member.size, member.mode = 4, 0o755
        archive.addfile(member, io.BytesIO(b"#!ok"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data.getvalue())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(installer, "get_ngrok_cdn_url", lambda _: f"http://127.0.0.1:{server.server_port}/n.tgz")
    monkeypatch.setenv("PATH", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # pyngrok unpacks without a filter
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # and does not close its response
def test_download_is_announced_and_done_once(download_site, tmp_path):
    lines = []
    path = find_agent(lines.append)
    assert path == tmp_path / "user" / ".config" / "ngrok" / "ngrok"
    assert path.read_bytes() == b"#!ok"
    assert [line.split(" ngrok")[0] for line in lines] == ["Downloading the", "The"]
    assert find_agent(lines.append) == path
    assert len(lines) == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["ngrok"]


def test_stop_does_not_wait_for_a_stalled_download(monkeypatch, tmp_path, make_tunnel, wait_until):
    monkeypatch.setenv("PATH", str(tmp_path))
    lines, raised = [], []

    def start():
        with pytest.raises(TunnelError) as caught:
            tunnel.start()
        raised.append(type(caught.value))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/n.tgz"
        monkeypatch.setattr(installer, "get_ngrok_cdn_url", lambda _: url)
        tunnel = make_tunnel(None, on_progress=lines.append)
        threads = set(threading.enumerate())
        starter = threading.Thread(target=start)
        starter.start()
        connection, _ = server.accept()  # and never answered
        before = time.monotonic()
        tunnel.stop()
        starter.join(60)
        assert time.monotonic() - before < 30
        connection.close()
    assert raised == [TunnelDownError]
    wait_until(lambda: set(threading.enumerate()) <= threads)


def test_failed_download_says_what_to_do_instead(monkeypatch, tmp_path, make_tunnel):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there once it is closed
    monkeypatch.setattr(installer, "get_ngrok_cdn_url", lambda _: f"http://127.0.0.1:{port}/n.tgz")
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = []
    with pytest.raises(TunnelError, match=r"could not be downloaded.*ngrok_path"):
        make_tunnel(None, on_progress=lines.append).start()
    assert len(lines) == 1
    assert lines[0].startswith("Downloading the ngrok agent to ")


@pytest.fixture
def person(monkeypatch):
    """Somebody who is there and types a token; what they were asked."""
    asked = []
    monkeypatch.setattr("llmapi_kit.tunnels.secret_store._can_ask_person", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "typed-token")
    return asked


def test_a_person_is_asked_for_the_token_once_where_nothing_has_it(make_tunnel, fake_agent, person):
    agents = [fake_agent(), fake_agent()]
    for agent in agents:
        make_tunnel(agent, auth_token=None).start()
        assert "typed-token" in agent.record()["config"]
    assert len(person) == 1
    assert "your-authtoken" in person[0]


def test_a_typed_token_that_ngrok_refuses_is_asked_for_again(make_tunnel, fake_agent, person):
    with pytest.raises(TunnelAuthError):
        make_tunnel(fake_agent(startup_error="invalid ERR_NGROK_107"), auth_token=None).start()
    make_tunnel(fake_agent(), auth_token=None).start()
    assert len(person) == 2


def test_a_token_that_is_there_is_not_asked_for(make_tunnel, fake_agent, person, monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "from-environment")
    make_tunnel(fake_agent(), auth_token=None).start()
    assert person == []


def test_a_region_is_where_the_agent_connects_to(make_tunnel, fake_agent):
    agent = fake_agent()
    make_tunnel(agent, region="eu").start()
    assert "  connect_url: connect.eu.ngrok-agent.com:443\n" in agent.record()["config"]
    agent = fake_agent()
    make_tunnel(agent).start()
    assert "connect_url" not in agent.record()["config"]


@pytest.mark.parametrize("region", ["Europe", "eu\n  x: y", "", "e"])
def test_a_region_that_is_none_is_refused(make_tunnel, fake_agent, region):
    with pytest.raises(ConfigError, match="it must be one of ngrok's"):
        make_tunnel(fake_agent(), region=region).prepare()
