"""From the bytes of a picture to its pixels, within limits that are checked before anything is decoded.

Knows nothing of requests or models. Blocking: called from worker threads.

Source: what happened to others is in vLLM's CVE-2026-22773 (a picture of 1 x 1 pixel ended the engine) and in Pillow's
decompression bombs, https://pillow.readthedocs.io/en/stable/reference/limits.html.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmapi_kit.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 16_000_000
MIN_SIDE = 2  # image processors divide by what is between two pixels
MAX_RATIO = 200  # so do those that cut a picture into tiles
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture.

    Attributes:
        pixels: in RGB, upright, the first frame of several.
        digest: of size and pixels: two files with the same pixels have the same one.
    """

    pixels: PilImage = field(repr=False, compare=False)
    digest: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self.pixels.size
        return width, height


def decode_picture(data: bytes, param: str, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file.

    Args:
        data: a PNG, JPEG, WebP or GIF file; of an animation the first frame is taken.
        param: where it stands in the request, for messages.
        max_pixels: width times height; a larger one is refused before it is decoded.

    Raises:
        InvalidRequestError: it is of another format, damaged, too large or too small.
        MissingDependencyError: Pillow is not installed.
    """
    image = _imaging()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about sizes and metadata; ours are errors
            with image.open(io.BytesIO(data), formats=FORMATS) as opened:
                _check_size(opened.size, param, max_pixels)
                return of_pixels(opened)
    except image.UnidentifiedImageError as exc:
        raise InvalidRequestError(
            f"{param} is not a picture that can be read here; it has {len(data):,} bytes. Send PNG, JPEG, WebP or GIF.",
            param=param,
        ) from exc
    except image.DecompressionBombError as exc:  # by the header, as below
        raise InvalidRequestError(
            f"{param} has far too many pixels; at most {max_pixels:,} are taken. Make it smaller.", param=param
        ) from exc
    except (OSError, ValueError, SyntaxError, EOFError) as exc:
        raise InvalidRequestError(f"{param} is damaged: {exc}. Send the whole file.", param=param) from exc


def of_pixels(opened: PilImage) -> Picture:
    """A picture of what Pillow has open: turned upright, transparent parts on white."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        upright = upright.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        pixels = Image.new("RGB", layer.size, WHITE)
        pixels.paste(layer, mask=layer.getchannel("A"))
    else:
        pixels = upright.convert("RGB")
    digest = hashlib.sha256(f"{pixels.size}".encode())
    digest.update(pixels.tobytes())
    return Picture(pixels, digest.hexdigest())


def _check_size(size: tuple[int, int], param: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidRequestError(
            f"{param} has {width:,} x {height:,} pixels; at most {max_pixels:,} are taken. Make it smaller.",
            param=param,
        )
    if min(size) < MIN_SIDE or max(size) > MAX_RATIO * min(size):
        raise InvalidRequestError(
            f"{param} has {width:,} x {height:,} pixels; each side needs {MIN_SIDE} at least, and the longer one at "
            f"most {MAX_RATIO} times as many as the other.",
            param=param,
        )


def _imaging() -> Any:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingDependencyError("pillow", "torch", "Reading a picture") from exc
    return Image
