"""Where pictures come from: data: URLs, and hosts that are listed; nothing else is ever asked."""

from __future__ import annotations

import base64
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.images import fetch
from llmapi_kit.images.fetch import is_public, read_image_url

FILE = bytes(range(256))
BASE64 = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/jpeg;charset=utf-8;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:application/octet-stream;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(FILE).decode()}",
        "data:image/png;base64," + "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)),
        "data:image/svg+xml," + "".join(f"%{byte:02X}" for byte in FILE),
    ],
)
def test_data_urls_are_read_as_clients_write_them(url):
    assert read_image_url(url, "p") == FILE


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,@@@", "not base64"),
        ("data:image/png;base64,é", "not base64"),
        ("data:image/png", "not a data: URL"),
        ("data:text/html;base64,AAAA", "begins with image/"),
        ("data:" + "x" * 5000, "not a data: URL"),
        (f"data:image/png;base64,{'A' * 2000}", "larger than 1,000 bytes"),
        (BASE64, "sent as a data: URL"),
        ("", "sent as a data: URL"),
    ],
)
def test_others_are_refused_with_what_is_wrong(url, words):
    with pytest.raises(InvalidRequestError, match=words) as caught:
        read_image_url(url, "messages.0.content.1.image_url.url", max_bytes=1000)
    assert caught.value.param == "messages.0.content.1.image_url.url"


HOSTS = [
    "127.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "metadata.google.internal",
    "100.100.100.200",
    "10.0.0.1",
    "192.168.0.1",
    "172.16.0.1",
    "user:password@127.0.0.1",
    "listed.example@127.0.0.1",
    "127.0.0.1#@listed.example",
    "127.0.0.1?@listed.example",
    "listed.example.evil.example",
    "evil.example",
    "127.0.0.1%2f@listed.example",
    "①②⑦.⓪.⓪.①",
]


class Canary:
    """A server that notes whether anybody came."""

    def __init__(self, *, location=None, body=FILE):
        canary = self
        self.hosts = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                canary.hosts.append(self.headers["Host"])
                self.send_response(302 if location else 200)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def canary(request):
    server = Canary(**getattr(request, "param", {}))
    yield server
    server.close()


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
@pytest.mark.parametrize("host", HOSTS)
def test_no_host_is_asked_unless_it_is_listed_however_it_is_written(canary, monkeypatch, scheme, host):
    def lookup(*arguments, **options):
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for hosts in ((), ("listed.example",)):
        with pytest.raises(InvalidRequestError):
            read_image_url(f"{scheme}://{host}:{canary.port}/a.png", "p", hosts=hosts)
    assert canary.hosts == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "gopher://a", "blob:x", "//a/b", "javascript:1", "\nhttp://a"]
)
def test_other_schemes_are_none(url):
    with pytest.raises(InvalidRequestError, match="data: URL"):
        read_image_url(url, "p", hosts=("a",))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "64:ff9b::7f00:1"]
)
def test_a_listed_name_that_points_inwards_is_not_asked(canary, monkeypatch, address):
    answers = [(0, 0, 0, "", ("93.184.215.14", 80)), (0, 0, 0, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: answers)
    with pytest.raises(UnsupportedFieldError, match="not a public address"):
        read_image_url(f"http://listed.example:{canary.port}/", "p", hosts=("listed.example",))
    assert canary.hosts == []


@pytest.fixture
def inward(monkeypatch):
    """Lets the listed host be on this machine, and its name be looked up once only."""
    asked = []

    def lookup(host, port, **options):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **options: (lookup if host == "listed.example" else real)(host, *rest, **options),
    )
    return asked


def test_a_listed_host_is_asked_at_the_address_that_was_looked_up_by_its_own_name(canary, inward):
    url = f"http://LISTED.example:{canary.port}/a.png"
    assert read_image_url(url, "p", hosts=("listed.example",)) == FILE
    assert canary.hosts == [f"listed.example:{canary.port}"]
    assert inward == ["listed.example"]


@pytest.mark.parametrize("canary", [{"location": "http://127.0.0.1:1/"}], indirect=True)
def test_redirects_are_not_followed(canary, inward):
    with pytest.raises(InvalidRequestError, match="HTTP 302"):
        read_image_url(f"http://listed.example:{canary.port}/", "p", hosts=("listed.example",))


@pytest.mark.parametrize("canary", [{"body": b"\0" * 5000}], indirect=True)
def test_a_file_that_does_not_end_in_time_is_given_up(canary, inward):
    with pytest.raises(InvalidRequestError, match="larger than 1,000 bytes"):
        read_image_url(f"http://listed.example:{canary.port}/", "p", hosts=("listed.example",), max_bytes=1000)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::5db8:d70e", True),
        ("0.0.0.0", False),
    ],
)
def test_public_addresses_are_the_internets(address, expected):
    assert is_public(address) is expected
