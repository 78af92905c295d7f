"""kit.connect: from another process to a server, or a clear word why not."""

import contextlib
import http.server
import os
import signal
import socket
import threading

import pytest

import llmapi_kit as kit
from llmapi_kit.errors import AuthenticationError, ConfigError, ServerNotFoundError

pytestmark = pytest.mark.kernel

OTHER_KEY = "sk-llmapi-of-another-server"

SERVE = """
import sys
import llmapi_kit as kit
server = kit.launch("mock", port=0)
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def serve_elsewhere(warm_python):
    """A server in another process, and what ends that: `process, port, end_input = serve_elsewhere()`."""
    with contextlib.ExitStack() as stack:

        def start():
            theirs, ours = os.pipe()
            end_of_input = stack.enter_context(open(ours, "w"))
            said, says = os.pipe()
            with open(theirs), open(says, "w"):
                process = warm_python.start(SERVE, stdin=theirs, stdout=says)
            stack.callback(process.kill)
            return process, int(stack.enter_context(open(said)).readline()), end_of_input.close

        yield start


@pytest.fixture
def foreign_server():
    """Another program's web server; `requests` has the headers that came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *arguments):
            pass

    requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = requests
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_without_a_server_it_says_how_to_get_one():
    with pytest.raises(ServerNotFoundError, match=r"No server of llmapi_kit runs on this machine. Launch one"):
        kit.connect()


@pytest.mark.slow
def test_the_server_of_another_process_is_found_with_its_key(serve_elsewhere):
    process, port, _ = serve_elsewhere()
    remote = kit.connect()
    assert remote.url == f"http://127.0.0.1:{port}"
    assert remote.models() == ["mock"]
    assert [record.pid for record in kit.servers()] == [process.pid]


@pytest.mark.slow
def test_a_program_that_ends_takes_its_server_off_the_list(serve_elsewhere, home):
    process, _, end_input = serve_elsewhere()
    end_input()
    assert process.wait(60) == 0
    assert list((home / "servers").iterdir()) == []


@pytest.mark.slow
def test_after_a_kill_nothing_is_found_and_the_port_is_free(serve_elsewhere):
    process, port, _ = serve_elsewhere()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ServerNotFoundError, match="No server of llmapi_kit runs"):
        kit.connect()
    assert kit.launch("mock", port=port).port == port


@pytest.mark.slow
def test_a_port_of_another_process_is_explained(serve_elsewhere):
    process, port, _ = serve_elsewhere()
    with pytest.raises(kit.LlmApiKitError, match=f"server of another notebook .pid {process.pid}, model mock"):
        kit.launch("mock", port=port)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/", " {} "])
def test_the_url_may_be_written_in_several_ways(form):
    server = kit.launch("mock", port=0)
    remote = kit.connect(form.format(server.url))
    assert remote.base_url == server.url + "/v1"


def test_localhost_and_a_missing_scheme_are_understood():
    server = kit.launch("mock", port=0)
    assert kit.connect(f"localhost:{server.port}").models() == ["mock"]


def test_the_newest_server_is_taken_and_a_url_chooses_another():
    old = kit.launch("mock", port=0, name="old")
    new = kit.launch("mock", port=0, name="new")
    assert kit.connect().url == new.url
    assert kit.connect(old.url).api_key == old.api_key


def test_the_key_may_come_from_the_environment(monkeypatch, tmp_path):
    server = kit.launch("mock", port=0)
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(AuthenticationError, match=r"asks for an API key. Pass api_key=…, or set LLMAPI_KIT_API_KEY"):
        kit.connect(server.url)
    monkeypatch.setenv("LLMAPI_KIT_API_KEY", server.api_key)
    assert kit.connect(server.url).models() == ["mock"]


def test_a_wrong_key_is_refused_without_being_shown():
    server = kit.launch("mock", port=0)
    with pytest.raises(AuthenticationError, match="refuses the key sk-llmapi-…rver") as caught:
        kit.connect(server.url, OTHER_KEY)
    assert OTHER_KEY not in str(caught.value)


def test_nothing_at_the_url_is_told():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(ServerNotFoundError, match=f"No server answers at http://127.0.0.1:{port}"):
        kit.connect(f"http://127.0.0.1:{port}")


def test_another_program_at_the_url_never_sees_the_key(foreign_server):
    port = foreign_server.server_address[1]
    with pytest.raises(ServerNotFoundError, match="answers, but not as a server of llmapi_kit"):
        kit.connect(f"http://127.0.0.1:{port}", OTHER_KEY)
    assert len(foreign_server.requests) == 1
    assert OTHER_KEY not in str(foreign_server.requests)


def test_what_speaks_no_http_is_told():
    def greet():
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerNotFoundError, match="does not speak HTTP"):
            kit.connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


def test_another_server_on_a_recorded_port_does_not_get_the_recorded_key():
    server = kit.launch("mock", port=0)
    server._state.instance = "somebody else"
    with pytest.raises(ServerNotFoundError, match="Another server answers"):
        kit.connect(server.url)
    with pytest.raises(ServerNotFoundError, match="Another server answers"):
        kit.connect()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:8000", "http://", "http://[::1", "http://127.0.0.1:port"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"Pass one such as http://127.0.0.1:8000"):
        kit.connect(url)
