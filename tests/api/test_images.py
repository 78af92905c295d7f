"""POST /v1/images/generations: what it takes, what it gives, and with which models."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from dataclasses import replace

import openai
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import GeneratedImage

from .conftest import error_of, serving

PATH = "/v1/images/generations"


class Addresses(MockEngine):
    """Gives addresses, as some providers do."""

    async def generate_images(self, request):
        self.asked = request
        return [GeneratedImage(url="https://host/cat.png", revised_prompt="a big cat")] * request.n


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine()) as made:
        yield made


@pytest.fixture
def ask(server, http):
    client = http(server)
    return lambda **body: client.post(PATH, json={"prompt": "A lighthouse", **body})


def decoded(entry):
    """(width, height, palette indices) of a PNG with 8 bits a pixel; every checksum is checked."""
    data = base64.b64decode(entry["b64_json"])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (width + 1)
    return width, height, set(lines)


def test_the_openai_client_gets_pictures(server):
    with server.client(max_retries=0, _strict_response_validation=True) as client:
        made = client.images.generate(model="mock", prompt="A lighthouse", n=2, size="48x32")
        assert made.created
        assert len({image.b64_json for image in made.data}) == 2
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(model="mock", prompt="x", background="transparent")
        assert refused.value.param == "background"


def test_the_same_prompt_gives_the_same_picture(ask):
    first, again, other = (ask(prompt=prompt).json()["data"] for prompt in ("a", "a", "b"))
    assert first == again != other


@pytest.mark.parametrize(("size", "expected"), [("auto", (64, 64)), ("17x50", (17, 50)), ("1024x1024", (1024, 1024))])
def test_a_picture_is_a_png_of_its_size(ask, size, expected):
    (entry,) = ask(size=size).json()["data"]
    assert decoded(entry) == (*expected, {0, 1})


def test_an_address_that_is_asked_for_is_the_picture_itself_where_there_is_no_other(ask):
    (data,), (url,) = ask().json()["data"], ask(response_format="url").json()["data"]
    assert url == {"b64_json": None, "url": f"data:image/png;base64,{data['b64_json']}"}


def test_addresses_and_rewritten_prompts_are_passed_on(serve, http):
    engine = Addresses()
    client = http(serve(engine))
    body = {"prompt": "cat", "n": 2, "quality": "hd", "style": "vivid", "size": "256x256", "response_format": "url"}
    entries = client.post(PATH, json=body).json()["data"]
    assert entries == [{"b64_json": None, "url": "https://host/cat.png", "revised_prompt": "a big cat"}] * 2
    asked = engine.asked
    assert (asked.prompt, asked.n, asked.quality, asked.style) == ("cat", 2, "hd", "vivid")
    assert (asked.size, asked.wants_url) == ("256x256", True)
    refused = error_of(client.post(PATH, json={"prompt": "cat", "response_format": "b64_json"}), 400)
    assert refused["param"] == "response_format"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 1.5}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"size": "99999x1"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"response_format": "png"}, "response_format"),
        ({"stream": True}, "stream"),
        ({"output_format": "webp"}, "output_format"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(ask, body, param):
    assert error_of(ask(**body), 400)["param"] == param


def test_values_that_ask_for_nothing_are_taken(ask):
    body = {"background": "auto", "moderation": "auto", "stream": False, "size": "auto", "quality": "auto", "user": "u"}
    assert ask(**body).status_code == 200


def test_a_model_that_makes_none_says_so(serve, http):
    engine = MockEngine()
    engine.info = replace(engine.info, capabilities=("chat",))
    refused = error_of(http(serve(engine)).post(PATH, json={"prompt": "x"}), 400)
    assert (refused["param"], "makes no images" in refused["message"]) == ("model", True)


def test_no_key_no_picture(server, http):
    assert http(server, headers={"Authorization": "Bearer wrong"}).post(PATH, json={"prompt": "x"}).status_code == 401


def test_a_model_that_hangs_is_given_up(serve, http):
    class Hanging(MockEngine):
        async def generate_images(self, request):
            await asyncio.Event().wait()

    server = serve(Hanging(), total_timeout_s=0.1)
    assert error_of(http(server).post(PATH, json={"prompt": "x"}), 504)["code"] == "timeout"
