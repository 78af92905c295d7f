"""An address as a QR code, for the phone of whoever looks at a card. Knows nothing of what is behind the address."""

from __future__ import annotations

from functools import lru_cache

import segno

QUIET_ZONE = 4  # modules of white around it, without which scanners fail; ISO/IEC 18004, 9.1


@lru_cache(maxsize=8)
def public_qr_code(url: str) -> str:
    """The code of an address that is not a secret, kept for the next look at it."""
    return qr_code(url)


def qr_code(text: str) -> str:
    """An SVG picture as a ``data:`` address: black on white, also on dark pages, as scanners expect it."""
    code = segno.make_qr(text, error="m")
    return code.svg_data_uri(border=QUIET_ZONE, dark="#000", light="#fff", svgclass=None, lineclass=None)
