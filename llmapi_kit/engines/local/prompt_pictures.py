"""Pictures in prompts: read within limits, looked at once, and put where the chat template has its marks for them.

Runs in worker threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmapi_kit.checkpoints.vision_encoder import VisionEncoder
from llmapi_kit.config import Settings
from llmapi_kit.engines.image_parts import ImagePart
from llmapi_kit.engines.local.text_codec import TextCodec
from llmapi_kit.errors import ContextLengthError, InvalidRequestError
from llmapi_kit.images.decode import Picture, decode_picture
from llmapi_kit.images.fetch import read_image_url
from llmapi_kit.runners.image_memory import ImageMemory, PlacedImage
from llmapi_kit.runners.picture_runs import picture_runs

PROBE = "probe"


class Pins:
    """Keeps pictures in memory for as long as this object is referred to.

    A request may end in many ways, in worker threads too; the last to let go of it lets go of the pictures.

    Args:
        memory: where they are.
    """

    def __init__(self, memory: ImageMemory) -> None:
        self._memory = memory
        self.digests: list[str] = []

    def __del__(self) -> None:
        """Let go."""
        self._memory.unpin(self.digests)


@dataclass(frozen=True, slots=True)
class Placed:
    """The pictures of a prompt.

    Attributes:
        text: of the prompt, with what stands for each of them.
        images: as they are known, in order.
        pins: keeps them.
    """

    text: str
    images: list[PlacedImage]
    pins: Pins


class PromptPictures:
    """What a local engine needs to take pictures.

    Args:
        vision: makes vectors of them.
        memory: keeps what it saw.
        codec: of the model.
        settings: which hosts pictures may be fetched from, and how large they may be.
        max_length: tokens of a prompt.
    """

    def __init__(
        self, vision: VisionEncoder, memory: ImageMemory, codec: TextCodec, settings: Settings, max_length: int
    ) -> None:
        self._encoder = vision
        self._memory = memory
        self._codec = codec
        self._settings = settings
        self._max_length = max_length
        # A decoded picture takes up to 100 MB for a moment, and its pixels are worked on one after the other anyway
        self._decoding = threading.Semaphore(2)

    @functools.cached_property
    def _needs_parts(self) -> bool:
        """Whether the template takes content in parts only, and shows nothing of a plain text."""
        return PROBE not in self._codec.render_chat([{"role": "user", "content": PROBE}], {})

    def for_template(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages with a mark for each picture, in the form that the template takes."""
        return [{**message, "content": self._content(message.get("content"))} for message in messages]

    def encode(self, text: str, images: Sequence[ImagePart]) -> Placed:
        """Look at the pictures of a prompt.

        Args:
            text: of the prompt, with a mark where each of them belongs.
            images: in their order.

        Raises:
            InvalidRequestError: a picture can't be read, or the marks are not as many.
            QueueFullError: there is no memory for them just now.
        """
        limit = self._settings.max_images
        if len(images) > limit:
            raise InvalidRequestError(
                f"The request has {len(images)} pictures; at most {limit} are taken.", param=images[limit].param
            )
        parts = text.split(self._encoder.image_token)
        if len(parts) != len(images) + 1:
            raise InvalidRequestError(
                f"The messages have {len(images)} pictures, and the prompt that the model's template makes of them has "
                f"{len(parts) - 1} places for them. A text may not contain {self._encoder.image_token!r}, which "
                "stands for one.",
                param="messages",
            )
        placed = Placed("", [], Pins(self._memory))
        num_vectors = 0
        for image in images:
            known = self._see(image, placed.pins, self._max_length - num_vectors)
            num_vectors += sum(known.seen.runs)
            placed.images.append(known)
        texts = [known.seen.text for known in placed.images]
        return replace(placed, text="".join(f"{part}{each}" for part, each in zip(parts, [*texts, ""], strict=True)))

    def place(self, ids: Sequence[int], placed: Placed) -> list[int]:
        """The ids of a prompt with those of its pictures.

        Args:
            ids: of the text, with one mark for each run of a picture's vectors.
            placed: the pictures.

        Raises:
            InvalidRequestError: the marks are not as many.
        """
        runs = [run for image in placed.images for run in image.runs()]
        num_marks = ids.count(self._encoder.vector_token_id)
        if num_marks != len(runs):
            raise InvalidRequestError(
                f"A text may not contain {self._encoder.vector_token!r} beside pictures: it stands for a part of one.",
                param="messages",
            )
        left = iter(runs)
        full: list[int] = []
        for token_id in ids:
            if token_id == self._encoder.vector_token_id:
                full += next(left)
            else:
                full.append(token_id)
        return full

    def whole(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(start, end) of what has to be computed in one step."""
        return picture_runs(ids) if self._encoder.is_bidirectional else []

    def _content(self, content: Any) -> Any:
        if isinstance(content, list):
            return [{"type": "image"} if part["type"] == "image_url" else part for part in content]
        return [{"type": "text", "text": content}] if self._needs_parts and isinstance(content, str) else content

    def _see(self, image: ImagePart, pins: Pins, num_left: int) -> PlacedImage:
        data = read_image_url(image.url, image.param, hosts=self._settings.image_hosts)
        with self._decoding:
            picture = decode_picture(data, image.param, max_pixels=self._settings.max_image_pixels)
            name = f"{picture.digest} low" if image.is_low else picture.digest
            known = self._memory.pin(name)
            if known is not None:
                pins.digests.append(name)
                self._check_length(image, picture, sum(known.seen.runs), num_left)
                return known
            prepared = self._encoder.prepare(picture, image.param, is_low=image.is_low)
            self._check_length(image, picture, sum(prepared.runs), num_left)
            known = self._memory.add(name, self._encoder.encode(prepared), pins.digests)
        pins.digests.append(name)
        return known

    def _check_length(self, image: ImagePart, picture: Picture, num_vectors: int, num_left: int) -> None:
        """Raise before a picture is looked at that would not fit into the context."""
        if num_vectors <= num_left:
            return
        width, height = picture.size
        raise ContextLengthError(
            f"This model's context is {self._max_length:,} tokens; {image.param}, with {width:,} x {height:,} pixels, "
            f"takes {num_vectors:,}, and {max(num_left, 0):,} are left. Make it smaller, send fewer, or ask for "
            "detail 'low'.",
            param=image.param,
        )
