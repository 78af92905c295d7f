"""Pictures in prompts: read within limits, looked at once, and put where the chat template has its marks for them.

Runs in worker threads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi_kit.checkpoints.vision import Eye
from llmapi_kit.config import Settings
from llmapi_kit.engines.image_parts import ImagePart
from llmapi_kit.engines.local.text_codec import TextCodec
from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.images.decode import decode_picture
from llmapi_kit.images.fetch import read_image_url
from llmapi_kit.runners.image_memory import ImageMemory

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


class Sight:
    """What a local engine needs to take pictures.

    Args:
        eye: looks at them.
        memory: keeps what it saw.
        codec: of the model.
        settings: which hosts pictures may be fetched from, and how large they may be.
    """

    def __init__(self, eye: Eye, memory: ImageMemory, codec: TextCodec, settings: Settings) -> None:
        self._eye = eye
        self._memory = memory
        self._codec = codec
        self._settings = settings
        self._mark = codec.encode(eye.image_token, add_special_tokens=False)

    @functools.cached_property
    def _needs_parts(self) -> bool:
        """Whether the template takes content in parts only, and shows nothing of a plain text."""
        return PROBE not in self._codec.render_chat([{"role": "user", "content": PROBE}], {})

    def for_template(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages with a mark for each picture, in the form that the template takes."""
        return [{**message, "content": self._content(message.get("content"))} for message in messages]

    def place(self, ids: Sequence[int], images: Sequence[ImagePart]) -> tuple[list[int], Pins]:
        """The ids of a prompt with pictures, and what keeps these.

        Args:
            ids: with a mark where each picture belongs.
            images: in their order.

        Raises:
            InvalidRequestError: a picture can't be read, or the marks are not as many.
        """
        limit = self._settings.max_images
        if len(images) > limit:
            raise InvalidRequestError(
                f"The request has {len(images)} pictures; at most {limit} are taken.", param=images[limit].param
            )
        num_marks = ids.count(self._mark[0]) if len(self._mark) == 1 else -1
        if num_marks != len(images):
            raise InvalidRequestError(
                f"The messages have {len(images)} pictures, and the prompt that the model's template makes of them has "
                f"{max(num_marks, 0)} places for them. A text may not contain {self._eye.image_token!r}, which "
                "stands for one.",
                param="messages",
            )
        pins = Pins(self._memory)
        placed: list[int] = []
        left = iter(images)
        for token_id in ids:
            if token_id == self._mark[0]:
                placed += self._see(next(left), pins)
            else:
                placed.append(token_id)
        return placed, pins

    def _content(self, content: Any) -> Any:
        if isinstance(content, list):
            return [{"type": "image"} if part["type"] == "image_url" else part for part in content]
        return [{"type": "text", "text": content}] if self._needs_parts and isinstance(content, str) else content

    def _see(self, image: ImagePart, pins: Pins) -> Sequence[int]:
        data = read_image_url(image.url, image.param, hosts=self._settings.image_hosts)
        picture = decode_picture(data, image.param, max_pixels=self._settings.max_image_pixels)
        known = self._memory.pin(picture.digest)
        if known is None:
            seen = self._eye.look(picture, image.param)
            known = self._memory.add(picture.digest, seen.ids, self._eye.image_token_id, seen.features)
        pins.digests.append(picture.digest)
        return known.ids
