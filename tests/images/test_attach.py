"""What cells have of a picture, made part of a message."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from llmapi_kit.errors import ConfigError
from llmapi_kit.images.attach import image_url, with_images
from llmapi_kit.images.decode import decode_picture
from llmapi_kit.images.fetch import read_image_url

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def file_of(kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: file_of(),
        lambda folder: bytearray(file_of()),
        lambda folder: str(folder / "a.png"),
        lambda folder: folder / "a.png",
        lambda folder: Image.fromarray(PIXELS),
        lambda folder: PIXELS,
        lambda folder: PIXELS / 255,
        lambda folder: torch.tensor(PIXELS),
    ],
)
def test_each_way_to_have_a_picture_gives_its_pixels(tmp_path, make):
    (tmp_path / "a.png").write_bytes(file_of())
    url = image_url(make(tmp_path))
    assert url.startswith("data:image/png;base64,")
    assert np.array_equal(np.asarray(decode_picture(read_image_url(url, "p"), "p").pixels), PIXELS)


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif")])
def test_a_file_keeps_its_format(kind, name):
    assert image_url(file_of(kind)).startswith(f"data:image/{name};base64,")


def test_an_address_stays_one():
    assert image_url("https://example.com/a.png") == "https://example.com/a.png"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nowhere.png", "nowhere.png.*can't be read"),
        (7, "int is not a picture"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"shape \(2, 2, 2, 2\)"),
        (np.full((2, 2, 3), 7.0), "not from 0 to 1"),
        (None, "NoneType is not a picture"),
    ],
)
def test_what_is_none_is_refused_with_what_would_be_one(image, words):
    with pytest.raises(ConfigError, match=words):
        image_url(image)


def test_pictures_stand_before_the_question():
    message = with_images("What is it?", [PIXELS, PIXELS])
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
