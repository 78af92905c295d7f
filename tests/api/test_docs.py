"""GET /docs: a page that anybody on this machine may open, and that knows nothing. In a browser: tests/browser."""

from __future__ import annotations

import re

import pytest

from llmapi_kit.api.docs import OWN, SWAGGER_UI
from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY, error_of

FILES = ("/docs", *(f"/docs/{asset}" for asset in (*OWN, *SWAGGER_UI)))


@pytest.fixture
def stranger(serve, http):
    """Asks a server without a key."""
    return http(serve(MockEngine(name="secret-model")), headers={"Authorization": ""})


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES)
def test_the_page_and_its_files_need_no_key_and_are_the_same_on_every_server(serve, http, stranger, path):
    response = stranger.get(path)
    assert response.status_code == 200
    assert response.content == http(serve()).get(path).content


@pytest.mark.parametrize("path", ["/docs", *(f"/docs/{asset}" for asset in OWN)])
def test_the_page_tells_nothing_of_the_server(stranger, path):
    text = stranger.get(path).text
    for word in (KEY, "secret-model", "llmapi", "/v1/"):
        assert word not in text


def test_the_page_fetches_what_it_needs_from_this_server_alone(stranger):
    page = stranger.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert set(links) - {"data:,"} == {path.removeprefix("/") for path in FILES[1:]}
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=|\bname=\"key", page)


@pytest.mark.parametrize("path", FILES)
def test_browsers_are_told_to_load_nothing_else_and_guess_nothing(stranger, path):
    headers = stranger.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    media_types = {"docs": "text/html", "css": "text/css", "js": "text/javascript"}
    assert headers["content-type"].split(";")[0] == media_types[re.split(r"[/.]", path)[-1]]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", [*FILES, "/docs/nothing"])
def test_it_is_closed_to_the_tunnel_with_and_without_the_key(serve, http, path):
    server = serve()
    server._allow_hosts("https://abc.ngrok.app")
    for key in ("", f"Bearer {KEY}"):
        client = http(server, headers={"Authorization": key, "Host": "abc.ngrok.app"})
        assert error_of(client.get(path), 403)["type"] == "permission_error"


@pytest.mark.parametrize(
    "name", ["docs.py", "main.py", "__init__.py", "..%2fdocs.py", "%2e%2e%2froutes.py", "favicon-32x32.png"]
)
def test_no_other_file_is_to_be_had(stranger, name):
    error_of(stranger.get(f"/docs/{name}"), 404)
