"""Pictures in prompts of a GGUF model, see `llmapi_kit.engines.local.prompt_pictures`: libmtmd looks at them.

The template gets a mark as text where a picture stands, as llama.cpp's own server gives it, and needs no place for
pictures of its own: what a model wants to stand beside a picture comes from libmtmd.
"""

from __future__ import annotations

from typing import Any

import torch

from llmapi_kit.checkpoints.vision_encoder import LOW_SIDE, EncodedPicture, PreparedPicture
from llmapi_kit.engines.local.prompt_pictures import PromptPictures
from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.images.decode import Picture
from llmapi_kit.runners.image_chunk import EncodedImage, ImageSpan
from llmapi_kit.runners.image_process import ImageProcess
from llmapi_kit.runners.llama_context import BATCH_TOKENS
from llmapi_kit.sampling.marked_tokenizer import MARK_ID, MarkedTokenizer


class GgufVisionEncoder:
    """What `llmapi_kit.checkpoints.vision_encoder.VisionEncoder` is to a model of transformers.

    Args:
        process: looks at pictures.
        tokenizer: of the model.

    Attributes:
        image_token: what stands for a picture in a text; no request can know it.
        vector_token: what stands for a run of vectors in the text that takes its place.
        vector_token_id: its id.
        is_bidirectional: False, as `llmapi_kit.runners.multimodal_steps` sees to what belongs together.
    """

    is_bidirectional = False
    vector_token_id = MARK_ID

    def __init__(self, process: ImageProcess, tokenizer: MarkedTokenizer) -> None:
        self._process, self._tokenizer = process, tokenizer
        self.image_token = self.vector_token = tokenizer.mark

    def prepare(self, picture: Picture, param: str, *, is_low: bool = False) -> PreparedPicture:
        """What stands for a picture; see `VisionEncoder.prepare`. It is encoded already: only that tells what it takes.

        Raises:
            InvalidRequestError: the model can't take it.
        """
        pixels = picture.pixels
        if is_low:
            pixels = pixels.copy()
            pixels.thumbnail((LOW_SIDE, LOW_SIDE))
        encoded = self._process.encode(pixels.tobytes(), pixels.size, param)
        spans = [part for part in encoded.parts if isinstance(part, ImageSpan)]
        widest = max((span.num_vectors for span in spans if not span.is_causal), default=0)
        if widest > BATCH_TOKENS:
            raise InvalidRequestError(
                f"{param} takes {widest:,} tokens that see each other; at most {BATCH_TOKENS:,} can. Make it smaller.",
                param=param,
            )
        return PreparedPicture(self._text(encoded), tuple(span.num_vectors for span in spans), {"encoded": encoded})

    def encode(self, prepared: PreparedPicture) -> EncodedPicture:
        """The vectors of a picture."""
        encoded: EncodedImage = prepared.inputs["encoded"]
        spans = tuple(part for part in encoded.parts if isinstance(part, ImageSpan))
        return EncodedPicture(prepared.text, prepared.runs, torch.from_numpy(encoded.vectors.copy()), spans=spans)

    def _text(self, encoded: EncodedImage) -> str:
        parts = [
            self.vector_token if isinstance(part, ImageSpan) else self._tokenizer.decode(part) for part in encoded.parts
        ]
        return "".join(parts)


class GgufPromptPictures(PromptPictures):
    """See `PromptPictures`."""

    def _content(self, content: Any) -> Any:
        """A text with marks in it; in parts only where the template takes nothing else."""
        if isinstance(content, list):
            texts = [self._encoder.image_token if part["type"] == "image_url" else part["text"] for part in content]
            content = "".join(texts)
        return [{"type": "text", "text": content}] if self._needs_parts and isinstance(content, str) else content
