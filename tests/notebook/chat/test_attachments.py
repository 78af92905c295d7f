"""Pictures of a question: what is sent is what was given, what is shown is small, and anything else is refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from llmapi_kit.errors import ConfigError, InvalidRequestError
from llmapi_kit.images import decode
from llmapi_kit.notebook.chat.attachments import MAX_FILE_BYTES, MAX_THUMBNAIL_BYTES, attach, attach_file

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.svg"


def file_of(width=40, height=30, kind="PNG"):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bytes_of(url):
    return base64.b64decode(url.partition(",")[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_file_is_sent_as_it_is_and_shown_small(kind):
    data = file_of(900, 600, kind)
    image = attach_file("noise", data)
    assert bytes_of(image.url) == data
    assert image.title == "900 x 600 pixels"
    shown = bytes_of(image.thumbnail)
    assert len(shown) <= MAX_THUMBNAIL_BYTES
    assert Image.open(io.BytesIO(shown)).size == (256, 171)
    assert "base64" not in repr(image), "a repr of megabytes"


def test_whatever_code_has_of_a_picture_is_taken(tmp_path):
    data = file_of()
    (tmp_path / "a.png").write_bytes(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), data, Image.open(io.BytesIO(data)), url]
    images = attach([*given, np.zeros((30, 40, 3), np.uint8)])
    assert {image.title for image in images} == {"40 x 30 pixels"}
    assert [image.url for image in images if image.url == url][1:], "a path, bytes and a URL are the file itself"


def test_picture_on_the_web_is_passed_on_and_not_fetched():
    (image,) = attach(["https://pictures.example/cat.png?" + "x" * 100])
    assert image.url.endswith("x" * 100)
    assert image.thumbnail == ""
    assert len(image.title) < 70


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"<svg onload='alert(1)'/>",
        b"",
        b"text",
    ],
    ids=["HEIC", "SVG", "empty", "text"],
)
@pytest.mark.parametrize("has_pillow", [True, False])
def test_file_that_is_no_picture_is_refused_by_its_name(data, has_pillow, without_pillow):
    if not has_pillow:
        without_pillow()
    with pytest.raises(InvalidRequestError, match=r"'photo' is not a picture .* Send PNG, JPEG, WebP or GIF\."):
        attach_file("photo", data)


@pytest.fixture
def without_pillow(monkeypatch):
    """As where it is not installed, from the call on."""

    def fail():
        raise decode.MissingDependencyError("pillow", "torch", "Reading a picture")

    return lambda: monkeypatch.setattr(decode, "_imaging", fail)


def test_without_pillow_a_picture_is_sent_and_named_by_its_kind(without_pillow):
    without_pillow()
    data = file_of()
    image = attach_file("a.png", data)
    assert (bytes_of(image.url), image.title, image.thumbnail) == (data, "PNG", "")


def test_file_that_no_request_has_room_for_is_refused_with_its_size():
    with pytest.raises(InvalidRequestError, match=r"'big.png' has 14\.0 MB; at most 14 MB .* Make it smaller"):
        attach_file("big.png", b"\x89PNG" + bytes(MAX_FILE_BYTES))


def test_refusals_say_which_of_several_it_was():
    with pytest.raises(InvalidRequestError, match=r"images\[1\] is not a picture"):
        attach([file_of(), b"no"])
    with pytest.raises(ConfigError, match="can't be read"):
        attach(["nowhere.png"])


def test_long_name_is_cut_in_the_message():
    with pytest.raises(InvalidRequestError) as caught:
        attach_file("x" * 5000, b"")
    assert len(str(caught.value)) < 200
