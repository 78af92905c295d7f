"""Pictures of a question: what is sent, as it was given, and what is shown of it, which is small.

Files are opened within the limits of `llmapi_kit.images.decode`, and what a page shows was made here: no markup of a
file, and no name of one, gets there. Pictures on the web are not fetched. Blocking, for as long as decoding takes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmapi_kit.errors import InvalidRequestError, MissingDependencyError
from llmapi_kit.images.attach import KINDS, image_url
from llmapi_kit.images.decode import decode_picture
from llmapi_kit.images.fetch import read_image_url

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL_SIDE = 256
MAX_THUMBNAIL_BYTES = 24_000
QUALITIES = (80, 60, 40, 20)  # of JPEG; the first that is small enough
# A request's body has room for 20 MB, and base64 makes four bytes of three
MAX_FILE_BYTES = 14_000_000
MAX_PIXELS = 178_000_000  # the most that a server can be set to take; it has a limit of its own
MAX_NAME = 60
MAX_IMAGES = 4  # of a question in a widget; as on the page


@dataclass(frozen=True, slots=True)
class Attachment:
    """One picture of a question.

    Attributes:
        url: what is sent: a ``data:`` URL, or one on the web.
        title: what it is, in a few words.
        thumbnail: a small JPEG as a ``data:`` URL; empty for one on the web, and without Pillow.
    """

    url: str = field(repr=False)
    title: str
    thumbnail: str = field(default="", repr=False)


def attach(images: Sequence[Any]) -> tuple[Attachment, ...]:
    """Pictures from code.

    Args:
        images: see `llmapi_kit.images.attach.with_images`.

    Raises:
        ConfigError: one is not a picture, or its file is not there.
        InvalidRequestError: its bytes can't be read as one, or are too many.
    """
    return tuple(_attach(image, f"images[{i}]") for i, image in enumerate(images))


def attach_file(name: str, data: bytes) -> Attachment:
    """A picture from a page.

    Args:
        name: of the file, for messages; the page's user or somebody else has chosen it.
        data: the file.

    Raises:
        InvalidRequestError: see `attach`.
    """
    shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
    return _of_file(image_url(data), data, repr(shown))


def _attach(image: Any, place: str) -> Attachment:
    url = image_url(image)
    if url.startswith("data:"):
        return _of_file(url, read_image_url(url, place), place)
    return Attachment(url, url if len(url) <= MAX_NAME else f"{url[:MAX_NAME]}…")


def _of_file(url: str, data: bytes, place: str) -> Attachment:
    if len(data) > MAX_FILE_BYTES:
        raise InvalidRequestError(
            f"{place} has {len(data) / 1e6:.1f} MB; at most {MAX_FILE_BYTES / 1e6:.0f} MB go into a request. Make it "
            "smaller."
        )
    try:
        picture = decode_picture(data, place, max_pixels=MAX_PIXELS)
    except MissingDependencyError:
        return Attachment(url, _kind(data, place))
    width, height = picture.size
    return Attachment(url, f"{width:,} x {height:,} pixels", _thumbnail(picture.pixels))


def _kind(data: bytes, place: str) -> str:
    """What a file is by how it begins."""
    for start, kind in KINDS.items():
        if data.startswith(start):
            return kind.removeprefix("image/").upper()
    raise InvalidRequestError(f"{place} is not a picture that can be read here. Send PNG, JPEG, WebP or GIF.")


def _thumbnail(pixels: Image) -> str:
    pixels.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in QUALITIES:
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=quality)
        if file.tell() <= MAX_THUMBNAIL_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
