"""The tables of docs/api.md have every field of every request body, and no other."""

from __future__ import annotations

import re

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import KEY, serving

from .pages import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TABLE = re.compile(r"^\| Field \|(?P<columns>.*)\n\|[-:| ]+\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)
ROUTE = re.compile(r"`POST (/[\w/{}]+)`")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """The OpenAPI document without older APIs, whose bodies are described elsewhere."""
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), compat=()) as server:
        return httpx.get(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()


def bodies(document):
    """The schema of each body, by the path that takes it."""
    found = {}
    for path, methods in document["paths"].items():
        if "requestBody" in methods.get("post", {}):
            name = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            found[re.sub(r"\{\w+\}", "{id}", path)] = document["components"]["schemas"][name]
    return found


def described():
    """The fields that the page's tables name, by path. Where a table has two columns of marks, they say which path."""
    found = {}
    for table in TABLE.finditer(PAGE):
        path = ROUTE.findall(PAGE, 0, table.start())[-1]
        is_shared = "Chat | Completions" in table["columns"]
        for row in table["rows"].splitlines():
            names, *marks = [cell.strip() for cell in row.strip("|").split("|")]
            paths = [p for p, mark in zip((CHAT, COMPLETIONS), marks, strict=False) if mark] if is_shared else [path]
            for each in paths:
                found.setdefault(each, []).extend(re.findall(r"`(\w+)`", names))
    return found


@pytest.mark.slow
def test_the_tables_have_each_field_of_each_body_once(document):
    wanted = {path: sorted(schema["properties"]) for path, schema in bodies(document).items()}
    assert {path: sorted(names) for path, names in described().items()} == wanted
    assert {CHAT, COMPLETIONS, "/v1/embeddings", "/tokenize", f"{CHAT}/{{id}}"} <= set(wanted)


def nested(document, schema, seen):
    """Names of the fields of the objects within a body."""
    for name in re.findall(r"'#/components/schemas/(\w+)'", str(schema)):
        if name not in seen:
            seen.add(name)
            inner = document["components"]["schemas"][name]
            yield from inner.get("properties", ())
            yield from nested(document, inner, seen)


@pytest.mark.parametrize(
    "path",
    [
        *(CHAT, COMPLETIONS, "/v1/responses", "/v1/messages"),
        *("/v1/embeddings", "/v1/images/generations", "/tokenize"),
    ],
)
def test_fields_of_objects_within_are_named(path, document):
    names = set(nested(document, bodies(document)[path], set()))
    assert {name for name in names if f"`{name}`" not in PAGE} == set()
    assert "include_usage" in names or path != CHAT
