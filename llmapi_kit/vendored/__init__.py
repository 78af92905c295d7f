"""Files of other projects that ship with the kit: libraries for pages and widgets, so that nothing comes from a CDN.

``manifest.json`` has each one's version, licence and hashes; ``tools/vendor.py`` fetches them. They are unchanged, and
their licences lie beside them. Knows nothing of who uses them; may be read from any thread.
"""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent


@lru_cache
def read_vendored(path: str) -> str:
    """The text of a file, such as ``katex/katex.min.js``."""
    return (FOLDER / path).read_text(encoding="utf-8")


@lru_cache
def katex_css() -> str:
    """KaTeX's style sheet with its fonts inside. Faces whose file does not ship are left out: rare alphabets."""
    css = read_vendored("katex/katex.min.css")
    return re.sub(r"@font-face\{[^}]*\}", lambda face: _embed_font(face.group()), css)


def _embed_font(face: str) -> str:
    """A face with its woff2 file as a data URI in place of three addresses; empty where the file does not ship."""
    name = re.search(r"fonts/([\w-]+\.woff2)", face)
    path = FOLDER / "katex" / name.group(1) if name else None
    if path is None or not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return re.sub(r"src:[^;}]*", f"src:url(data:font/woff2;base64,{data}) format('woff2')", face)
