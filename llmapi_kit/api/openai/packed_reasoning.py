"""Reasoning of one piece, which clients keep and send back without reading it: what other servers encrypt.

It is not secret here, as the same reasoning is sent in the clear too.
"""

from __future__ import annotations

import base64
import binascii

MARK = "llmapi_kit:"


def packed(text: str) -> str:
    """Reasoning as one word."""
    return base64.b64encode((MARK + text).encode()).decode()


def unpacked(word: str) -> str:
    """The reasoning that was packed here; empty for what another server has made."""
    try:
        text = base64.b64decode(word, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return text.removeprefix(MARK) if text.startswith(MARK) else ""
