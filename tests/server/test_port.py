"""Binding: a port in use is told in the caller's thread, with who has it."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from llmapi_kit.errors import ConfigError, PortInUseError
from llmapi_kit.server.port import bind

pytestmark = pytest.mark.kernel


def test_port_zero_takes_a_free_port_that_listens_at_once():
    with bind("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname(), timeout=5):
        assert sock.getsockname()[1] > 0


def test_port_in_use_names_its_owner_and_the_way_out():
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            bind("127.0.0.1", port)
    message = str(caught.value)
    assert f"Port {port} is in use by another program (pid {os.getpid()}, {psutil.Process().name()})" in message
    assert "port=0" in message
    assert isinstance(caught.value.__cause__, OSError)


def test_port_in_use_is_told_also_when_its_owner_answers_nobody():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound without SO_REUSEADDR, and not listening
        with pytest.raises(PortInUseError):
            bind("127.0.0.1", silent.getsockname()[1])


def test_a_closed_port_can_be_bound_again_at_once():
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    accepted, _ = sock.accept()
    accepted.close()  # first: its port stays in TIME_WAIT
    client.close()
    sock.close()
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize("port", [-1, 65536, "8000", True, None])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(ConfigError, match=r"it must be 0 .any free port. to 65535"):
        bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused_with_advice(host):
    with pytest.raises(ConfigError, match=r"Use 127\.0\.0\.1 for this machine only"):
        bind(host, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_lets_go_of_the_port():
    """A data loader's workers outlived a killed kernel and held its port: clients hung in a queue nobody served."""
    script = """
import os, socket
from llmapi_kit.server.port import bind

sock = bind("127.0.0.1", 0)
port = sock.getsockname()[1]
reader, writer = os.pipe()
ready, tell = os.pipe()
if (child := os.fork()) == 0:
    os.close(writer)
    os.write(tell, b"!")
    os.read(reader, 1)  # lives until its parent has looked
    os._exit(0)
os.read(ready, 1)
assert sock.fileno() >= 0
sock.close()
with socket.socket() as probe:
    print(probe.connect_ex(("127.0.0.1", port)) != 0)
os.close(writer)
os.waitpid(child, 0)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "True", ran.stderr
