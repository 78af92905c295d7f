"""Answers that come in one piece: vectors, pictures, token ids. Believes nothing of them.

Source: OpenAI API reference, "Embeddings" and "Images"; vLLM's ``/tokenize``.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi_kit.engines.upstream.fields import MalformedError
from llmapi_kit.types import Embedded, GeneratedImage

MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"), (b"GIF8", "image/gif"))


def read_vectors(answer: Any, inputs: Sequence[str | Sequence[int]]) -> list[Embedded]:
    """A vector for each input, in order.

    Raises:
        MalformedError: it is no such answer.
    """
    data = _list(answer, "data")
    if len(data) != len(inputs):
        raise MalformedError(f"{len(data)} vectors for {len(inputs)} inputs")
    vectors: dict[int, tuple[float, ...]] = {}
    for position, entry in enumerate(data):
        numbers = _list(entry, "embedding")
        if not numbers or not all(isinstance(x, float | int) and math.isfinite(x) for x in numbers):
            raise MalformedError("a vector without numbers")
        index = entry.get("index")
        vectors[index if isinstance(index, int) else position] = _of_length_one([float(x) for x in numbers])
    if set(vectors) != set(range(len(inputs))) or len({len(vector) for vector in vectors.values()}) != 1:
        raise MalformedError("vectors that do not fit together")
    tokens = _shares(_usage(answer), [len(each) for each in inputs])
    return [Embedded(vectors[index], tokens[index], index) for index in range(len(inputs))]


def read_images(answer: Any) -> list[GeneratedImage]:
    """The pictures.

    Raises:
        MalformedError: it is no such answer.
    """
    images = []
    for entry in _list(answer, "data"):
        if not isinstance(entry, Mapping):
            raise MalformedError("a picture that is not an object")
        prompt = entry.get("revised_prompt")
        revised = prompt if isinstance(prompt, str) else ""
        if isinstance(encoded := entry.get("b64_json"), str) and encoded:
            try:
                data = base64.b64decode(encoded, validate=True)
            except binascii.Error as exc:
                raise MalformedError("a picture that is not base64") from exc
            kind = next((kind for magic, kind in MAGIC if data.startswith(magic)), "application/octet-stream")
            images.append(GeneratedImage(data=data, media_type=kind, revised_prompt=revised))
        elif isinstance(url := entry.get("url"), str) and url.startswith(("https://", "http://", "data:image/")):
            images.append(GeneratedImage(url=url, revised_prompt=revised))
        else:
            raise MalformedError("a picture without data and address")
    if not images:
        raise MalformedError("no pictures")
    return images


def read_token_ids(answer: Any) -> list[int]:
    """Token ids.

    Raises:
        MalformedError: it is no such answer.
    """
    ids = _list(answer, "tokens")
    if not all(isinstance(token_id, int) for token_id in ids):
        raise MalformedError("token ids that are not numbers")
    return list(ids)


def read_prompt(answer: Any) -> str:
    """The text of token ids.

    Raises:
        MalformedError: it is no such answer.
    """
    text = answer.get("prompt") if isinstance(answer, Mapping) else None
    if not isinstance(text, str):
        raise MalformedError("no text")
    return text


def _list(answer: Any, name: str) -> list[Any]:
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, list):
        raise MalformedError(f"{name} is not a list")
    return value


def _usage(answer: Mapping[str, Any]) -> int | None:
    usage = answer.get("usage")
    total = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return total if isinstance(total, int) and total >= 0 else None


def _shares(total: int | None, lengths: Sequence[int]) -> list[int]:
    """The upstream gives the sum of tokens only; each input has one, and of the others its share by its length."""
    least = 1 if total is not None and total >= len(lengths) else 0
    rest = (total or 0) - least * len(lengths)
    shares = [least + rest * length // (sum(lengths) or 1) for length in lengths]
    shares[0] += (total or 0) - sum(shares)
    return shares


def _of_length_one(vector: list[float]) -> tuple[float, ...]:
    """As our API promises. One that is so but for rounding stays as it is."""
    norm = math.hypot(*vector)
    return tuple(vector) if abs(norm - 1) < 1e-3 or norm == 0 else tuple(x / norm for x in vector)
