"""Files of other projects that ship with the kit: libraries for pages and widgets, so that nothing comes from a CDN.

``manifest.json`` has each one's version, licence and hashes; ``tools/vendor.py`` fetches them. They are unchanged, and
their licences lie beside them. Knows nothing of who uses them; may be read from any thread.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent


@lru_cache
def read_vendored(path: str) -> str:
    """The text of a file, such as ``katex/katex.min.js``."""
    return (FOLDER / path).read_text(encoding="utf-8")


@lru_cache
def katex_css(*, is_embedding: bool = True) -> str:
    """KaTeX's style sheet. Faces whose file does not ship are left out: rare alphabets.

    Args:
        is_embedding: put the fonts inside; else they are looked for beside it, as ``fonts/<name>``.
    """
    css = read_vendored("katex/katex.min.css")
    source = _data_uri if is_embedding else "fonts/{}".format
    return re.sub(r"@font-face\{[^}]*\}", lambda face: _with_one_source(face.group(), source), css)


def read_fonts() -> dict[str, bytes]:
    """KaTeX's fonts that ship, by file name."""
    return {path.name: path.read_bytes() for path in sorted((FOLDER / "katex").glob("*.woff2"))}


def _with_one_source(face: str, source: Callable[[str], str]) -> str:
    """A face with its woff2 file in place of three addresses; empty where the file does not ship."""
    name = re.search(r"fonts/([\w-]+\.woff2)", face)
    if name is None or not (FOLDER / "katex" / name.group(1)).is_file():
        return ""
    return re.sub(r"src:[^;}]*", f"src:url({source(name.group(1))}) format('woff2')", face)


def _data_uri(font: str) -> str:
    data = base64.b64encode((FOLDER / "katex" / font).read_bytes()).decode()
    return f"data:font/woff2;base64,{data}"
