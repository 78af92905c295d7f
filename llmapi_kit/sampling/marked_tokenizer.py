"""A GGUF file's tokenizer that finds the places of pictures in a text: a mark in it becomes an id of its own.

A mark is drawn anew for each load, so that no text of a request can have it. Called from worker threads.
"""

from __future__ import annotations

import secrets
from typing import Any

from llmapi_kit.sampling.llama_tokenizer import LlamaTokenizer

MARK_ID = -1  # no token


class MarkedTokenizer(LlamaTokenizer):
    """See `LlamaTokenizer`.

    Attributes:
        mark: the text that stands for a picture.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mark = f"<picture {secrets.token_hex(8)}>"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, and `MARK_ID` for each mark."""
        first, *others = text.split(self.mark)
        ids = super().encode(first, add_special_tokens=add_special_tokens)
        for part in others:
            ids.append(MARK_ID)
            if part:
                ids += super().encode(part, add_special_tokens=False)
        return ids
