"""GET /: the chat page for browsers, and what it may do there. In a browser: tests/browser/test_page*.py."""

from __future__ import annotations

import gzip
import re

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.web.files import digest, page_files

from .conftest import KEY, error_of, serving

pytestmark = pytest.mark.kernel

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FILES = [f"/web/{digest()}/{name}" for name in page_files()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(name="secret-model")) as made:
        yield made


@pytest.fixture
def stranger(server, http):
    """A browser without a key."""
    client = http(server, headers={"Accept": BROWSER})
    del client.headers["authorization"]
    return client


def test_browsers_get_the_page_and_programs_what_they_always_got(stranger):
    response = stranger.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for accept in ("*/*", "application/json", "text/plain", "text/html;q=0", "text/html ; q=0.0, */*"):
        error = error_of(stranger.get("/", headers={"Accept": accept}), 404)
        assert error["message"] == "There is no GET / here. The API is under /v1, e.g. /v1/models."
        assert error["code"] == "not_found"
    assert "Accept" in response.headers["vary"]


def test_head_answers_as_get_without_the_body(stranger):
    names = ("content-type", "content-length", "content-security-policy", "etag", "cache-control")
    for path in ("/", *FILES):
        whole, head = stranger.get(path), stranger.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert {name: head.headers.get(name) for name in names} == {name: whole.headers.get(name) for name in names}


@pytest.mark.slow
def test_the_page_tells_nothing_of_the_server_and_is_the_same_through_a_tunnel(server, stranger):
    server._allow_hosts("https://abc.example")
    for path in ("/", *FILES):
        local, public = (stranger.get(path, headers=headers) for headers in ({}, {"Host": "abc.example"}))
        assert (public.status_code, public.content) == (200, local.content)
        for word in (KEY, "secret-model", server.url, "abc.example"):
            assert word.encode() not in local.content
        assert stranger.get(path, headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/", *(f"/web/{digest()}/{name}" for name in ("page.js", "page.css", "lib/katex.js"))]
)
def test_browsers_are_told_to_load_nothing_else_and_to_guess_nothing(stranger, path):
    headers = stranger.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "font-src": "'self'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "dompurify",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "set-cookie" not in headers


def test_files_are_kept_for_good_and_the_page_is_asked_for_anew(stranger):
    page = stranger.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = stranger.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert stranger.get("/", headers={"If-None-Match": 'W/"older"'}).status_code == 200
    for path in FILES:
        assert stranger.get(path).headers["cache-control"] == "public, max-age=31536000, immutable"


def test_text_is_compressed_for_those_who_take_it(stranger):
    for path in ("/", *FILES):
        plain = stranger.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        with stranger.stream("GET", path, headers={"Accept-Encoding": "br, gzip"}) as response:
            raw = b"".join(response.iter_raw())
        is_text = not path.endswith(".woff2")
        assert response.headers.get("content-encoding") == ("gzip" if is_text else None)
        assert (gzip.decompress(raw) if is_text else raw) == plain.content


def test_the_page_names_files_of_this_server_only_and_all_of_them_are_there(stranger):
    page = stranger.get("/").text
    links = [link for link in re.findall(r'(?:src|href)="([^"#][^"]*)"', page) if link != "data:,"]
    assert len(links) > 20
    assert {f"/{link}" for link in links} <= set(FILES)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", page)


@pytest.mark.parametrize(
    "name",
    [
        "files.py",
        "__init__.py",
        "index.html",
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/routes.py",
        "lib/",
        "",
        "lib/fonts",
    ],
)
def test_no_other_file_is_to_be_had(stranger, name):
    error_of(stranger.get(f"/web/{digest()}/{name}"), 404)


def test_files_of_another_version_are_not_taken_for_these(stranger):
    error_of(stranger.get("/web/0123456789abcdef/page.js"), 404)
