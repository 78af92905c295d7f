"""No model sees here yet: pictures are refused by name, and no address in a request is ever opened (SSRF)."""

from __future__ import annotations

import base64
import socket
import struct
import threading
import zlib

import pytest

from .conftest import CHAT, chat
from .routes import WITH_BODY, body_model, is_refused, name_of, path_of

pytestmark = pytest.mark.slow

# {port} is the canary's. Every way of writing this machine, its files or a cloud's metadata that a filter once missed.
HOSTS = [
    "127.0.0.1",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "127.1",
    "127.0.1",
    "127.0.0.2",
    "127.127.127.127",
    "0",
    "0.0.0.0",
    "00.00.00.00",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.nip.io",
    "localtest.me",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[::1%25lo]",
    "example.com@127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1?@example.com",
    "example.com:80@127.0.0.1",
    "127.0.0.1\\@example.com",
    "127。0。0。1",
    "ⓛocalhost",
    "①②⑦.⓪.⓪.①",
    "127.0.0.1%2f@example.com",
    "127.0.0.1%00.example.com",
]
URLS = [
    *(f"http://{host}:{{port}}/picture.png" for host in HOSTS),
    "http:/127.0.0.1:{port}/picture.png",
    "http:127.0.0.1:{port}/picture.png",
    "http:\\\\127.0.0.1:{port}\\picture.png",
    "//127.0.0.1:{port}/picture.png",
    " http://127.0.0.1:{port}/picture.png",
    "\thttp://127.0.0.1:{port}/picture.png",
    "HTTP://127.0.0.1:{port}/picture.png",
    "https://127.0.0.1:{port}/picture.png",
    "ftp://127.0.0.1:{port}/picture.png",
    "gopher://127.0.0.1:{port}/_GET%20/",
    "dict://127.0.0.1:{port}/x",
    "ws://127.0.0.1:{port}/x",
    "jar:http://127.0.0.1:{port}!/x",
    "url:http://127.0.0.1:{port}/x",
    "view-source:http://127.0.0.1:{port}/x",
    "http://127.0.0.1:{port}/redirect?to=http://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "FILE:///proc/self/environ",
    "/etc/passwd",
    "../../../../etc/passwd",
    "\\\\127.0.0.1\\share\\picture.png",
    "data:text/plain;base64,aGVsbG8=",
    "data:,hello",
    "data:image/png;base64,http://127.0.0.1:{port}/picture.png",
]


def png(width, height, data=b"\0\0"):
    """A picture of whatever size its header says."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


FRAME = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
BOMBS = {
    "1 by 1": png(1, 1),
    "50k by 50k": png(50_000, 50_000),
    "2^31 wide": png(2**31 - 1, 1),
    "no pixels": png(0, 0),
    "truncated": png(64, 64)[:40],
    "GIF of 10k frames": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + FRAME * 10_000 + b"\x3b",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/x"/></svg>',
    "nothing": b"",
}


@pytest.fixture(scope="module")
def canary():
    """A port of this machine that counts who comes."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    calls.append(connection.getpeername())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield listener.getsockname()[1], calls
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def parts(url):
    """Every shape in which clients send a picture, a sound, a film or a file."""
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "image", "image": url},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "image", "url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "file", "file": {"file_url": url}},
        {"type": "input_file", "file_url": url},
        {"type": "document", "source": {"type": "url", "url": url}},
    ]


def test_there_are_enough_of_them():
    assert len(URLS) == len(set(URLS)) >= 60


def test_the_canary_sings(canary):
    port, calls = canary
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    while not calls:
        threading.Event().wait(0.01)
    calls.clear()


@pytest.mark.parametrize("url", URLS)
def test_no_address_in_a_message_is_opened(client, canary, url):
    port, calls = canary
    for part in parts(url.format(port=port)):
        response = client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
        error = response.json()["error"]
        is_known, name = part["type"] == "image_url", "image_url" if part["type"] == "image_url" else "type"
        assert (response.status_code, error["param"]) == (400, f"messages.0.content.0.{name}")
        assert ("takes text only" if is_known else repr(part["type"])) in error["message"]
    assert not calls


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
def test_no_route_opens_an_address(client, canary, route):
    port, calls = canary
    fields = body_model(route).model_fields
    for url in ("http://127.0.0.1:{port}/a.png", "http://localhost:{port}/a.png", "file:///etc/passwd"):
        for part in parts(url.format(port=port)):
            message = {"role": "user", "content": [part]}
            for name, value in {"messages": [message], "input": [message], "prompt": [part], "content": [part]}.items():
                body = {"model": "mock", "max_tokens": 5, name: value} if name in fields else {name: value}
                assert is_refused(client.post(path_of(route), json=body))
    assert not calls


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_no_role_may_send_pictures(client, role):
    message = {"role": role, "content": parts("data:image/png;base64,AAAA")[:1]}
    if role == "tool":
        message["tool_call_id"] = "1"
    response = client.post(CHAT, json={"messages": [message]})
    name = "image_url" if role in ("user", "tool") else "type"  # a model that sees takes them from these
    assert (response.status_code, response.json()["error"]["param"]) == (400, f"messages.0.content.0.{name}")


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_picture_is_refused_before_it_is_looked_at(client, bomb):
    encoded = base64.b64encode(BOMBS[bomb]).decode()
    for kind in ("png", "gif", "svg+xml"):
        for part in parts(f"data:image/{kind};base64,{encoded}"):
            response = client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
            assert response.status_code == 400
            assert encoded not in response.text or not encoded
    assert client.post(CHAT, json=chat("still here")).status_code == 200
