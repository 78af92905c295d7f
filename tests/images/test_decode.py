"""Pictures as they come: formats, orientation, transparency; and those that are none."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.images.decode import MAX_PIXELS, decode_picture

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(width=8, height=4):
    """Red on the left, blue on the right."""
    pixels = Image.new("RGB", (width, height), RED)
    pixels.paste(BLUE, (width // 2, 0, width, height))
    return pixels


def file_of(pixels, kind="PNG", **options):
    file = io.BytesIO()
    pixels.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and has hardly any data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def refused(data):
    with pytest.raises(InvalidRequestError) as caught:
        decode_picture(data, "messages.0.content.1")
    assert caught.value.param == "messages.0.content.1"
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_formats_without_loss_give_the_same_pixels_and_the_same_digest(kind):
    picture = decode_picture(file_of(halves(), kind, **({"lossless": True} if kind == "WEBP" else {})), "p")
    assert picture.pixels.getpixel((0, 0)) == RED
    assert picture.pixels.getpixel((7, 3)) == BLUE
    assert picture.size == (8, 4)
    assert picture.digest == decode_picture(file_of(halves()), "p").digest


def test_another_picture_has_another_digest_also_of_the_same_pixels_in_another_shape():
    plain = [decode_picture(file_of(Image.new("RGB", size, RED)), "p").digest for size in ((8, 4), (4, 8))]
    assert plain[0] != plain[1]


def test_a_photograph_that_was_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    picture = decode_picture(file_of(halves(64, 32), "JPEG", exif=exif, quality=95), "p")
    assert picture.size == (32, 64)
    assert picture.pixels.getpixel((16, 4))[0] > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    pixels = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert decode_picture(file_of(pixels, **options), "p").pixels.getpixel((1, 1)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_taken_and_no_other_is_decoded():
    frames = [Image.new("RGB", (4, 4), (i % 256, 0, 0)) for i in range(200)]
    animation = file_of(Image.new("RGB", (4, 4), BLUE), "GIF", save_all=True, append_images=frames)
    assert decode_picture(animation, "p").pixels.getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_picture(file_of(Image.new(mode, (4, 4)), kind), "p").pixels.mode == "RGB"


def test_grey_in_16_bits_keeps_its_shades():
    shades = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    pixels = decode_picture(file_of(Image.fromarray(shades)), "p").pixels
    assert [pixels.getpixel((x, 1)) for x in (0, 128, 255)] == [(0,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (4001, 4000), (2**31 - 1, 3)])
def test_a_bomb_is_refused_by_its_header(width, height):
    assert f"{MAX_PIXELS:,}" in refused(png_header(width, height))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (2, 5000)])
def test_what_is_too_thin_for_any_model_is_refused(width, height):
    assert f"{width:,} x {height:,}" in refused(file_of(Image.new("RGB", (width, height))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        file_of(halves(), "BMP"),
        file_of(halves(), "TIFF"),
        file_of(halves(), "ICO"),
    ],
    ids=["empty", "gif", "svg", "pdf", "png", "jpeg", "bmp", "tiff", "ico"],
)
def test_what_is_no_picture_of_these_formats_is_refused(data):
    refused(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_damaged_file_is_refused_or_read_and_nothing_else_comes_out(kind):
    whole = file_of(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[end] ^= 0xFF
        for data in (whole[:end], bytes(damaged)):
            with contextlib.suppress(InvalidRequestError):
                assert decode_picture(data, "p").size[0] > 0
