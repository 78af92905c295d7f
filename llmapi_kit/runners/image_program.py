"""The process behind `image_process.ImageProcess`: loads an mmproj file, and answers with what stands for a picture.

Questions come through standard input and answers go to standard output: a line of JSON each, and bytes that the line
tells the size of. Ends with standard input, as then nobody is left who asks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.runners.image_chunk import EncodedImage, ImageSpan
from llmapi_kit.runners.image_encoder import ImageEncoder
from llmapi_kit.runners.load_trial import leave_no_core


def main() -> None:
    """Answer until standard input ends."""
    leave_no_core()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints is not an answer
    questions = sys.stdin.buffer
    encoder: ImageEncoder | None = None
    for line in questions:
        asked = json.loads(line)
        try:
            if encoder is None:
                encoder = _load(asked)
                _send(answers, {"is_causal": encoder.is_causal})
            else:
                width, height = asked["size"]
                _send_image(answers, encoder.encode(questions.read(3 * width * height), (width, height)))
        except LlmApiKitError as exc:
            _send(answers, {"error": type(exc).__name__, "message": str(exc)})
        except Exception as exc:
            _send(answers, {"error": "RuntimeError", "message": str(exc)})
    os._exit(0)  # what is left to free goes with the process


def _load(asked: dict[str, Any]) -> ImageEncoder:
    return ImageEncoder(
        Path(asked["model"]), Path(asked["mmproj"]), num_threads=asked["num_threads"], use_gpu=asked["use_gpu"]
    )


def _send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _send_image(answers: BinaryIO, image: EncodedImage) -> None:
    """The shape of a picture in a line, then its vectors, then its grids."""
    parts = [_described(part) if isinstance(part, ImageSpan) else list(part) for part in image.parts]
    answers.write(json.dumps({"parts": parts, "shape": image.vectors.shape}).encode() + b"\n")
    answers.write(np.ascontiguousarray(image.vectors).data)
    for part in image.parts:
        if isinstance(part, ImageSpan) and part.grid is not None:
            answers.write(np.ascontiguousarray(part.grid).data)
    answers.flush()


def _described(span: ImageSpan) -> dict[str, Any]:
    return {
        "num_vectors": span.num_vectors,
        "num_positions": span.num_positions,
        "is_causal": span.is_causal,
        "has_grid": span.grid is not None,
    }
