"""From whatever a cell has of a picture to a part of a message: a path, bytes, a Pillow image, an array or a URL."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ConfigError

# How files of the formats that are taken begin, and their type
KINDS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
URL_SCHEMES = ("data:", "http://", "https://")


def with_images(prompt: str, images: Sequence[Any]) -> dict[str, Any]:
    """A user's message with pictures, in front of its text.

    Args:
        prompt: the text.
        images: each a path, the bytes of a file, a Pillow image, an array (height, width, 3 or 4; or height, width) of
            bytes or of numbers from 0 to 1, or a URL.

    Raises:
        ConfigError: one is something else, or its file is not there.
    """
    parts = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}


def image_url(image: Any) -> str:
    """The URL of a picture, with the picture in it unless it is on the web; see `with_images`."""
    if isinstance(image, str) and image.startswith(URL_SCHEMES):
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _data_url(bytes(image))
    if isinstance(image, (str, os.PathLike)):
        return _data_url(_read(Path(image)))
    return _data_url(_png(image))


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as exc:
        raise ConfigError(f"The picture {str(path)!r} can't be read: {exc.strerror or exc}.") from exc


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    try:
        (image if hasattr(image, "save") else _of_array(image)).save(file, format="PNG")
    except (TypeError, ValueError, AttributeError, OSError) as exc:
        raise ConfigError(
            f"A {type(image).__name__} is not a picture: {exc}. Pass a path, the bytes of a file, a Pillow image, or "
            "an array of height, width and 3 colours."
        ) from exc
    return file.getvalue()


def _of_array(array: Any) -> Any:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("its numbers are not from 0 to 1")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"it has the shape {pixels.shape} and the type {pixels.dtype}")
    return Image.fromarray(pixels)


def _data_url(data: bytes) -> str:
    kind = next((kind for start, kind in KINDS.items() if data.startswith(start)), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
