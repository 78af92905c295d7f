"""Every file of the page by the name a browser asks for it, and one hash over them all.

The hash stands in the files' addresses, so that browsers keep them for good and take new ones after an update. May be
called from any thread; what is read once is kept.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache

from llmapi_kit.vendored import katex_css, read_fonts, read_vendored
from llmapi_kit.web import FOLDER

INDEX = "index.html"
CLASSIC = "theme.js"  # the one script here that is not a module
HIGHLIGHT = "lib/highlight.js"  # the one library that is
LIBRARIES = {
    "lib/markdown-it.js": "markdown-it/markdown-it.umd.min.js",
    "lib/purify.js": "dompurify/purify.min.js",
    "lib/katex.js": "katex/katex.min.js",
    HIGHLIGHT: "highlight/highlight.min.js",
}
COMPRESSIBLE = (".js", ".css", ".html")


@cache
def page_files() -> dict[str, bytes]:
    """The files beside the page itself: this folder's modules and style sheets, and the vendored libraries."""
    own = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in (".js", ".css")}
    libraries = {name: read_vendored(path).encode() for name, path in LIBRARIES.items()}
    fonts = {f"lib/fonts/{name}": data for name, data in read_fonts().items()}
    return {**own, **libraries, "lib/katex.css": katex_css(is_embedding=False).encode(), **fonts}


@cache
def digest() -> str:
    """A hash of the page and of all of its files."""
    whole = hashlib.sha256((FOLDER / INDEX).read_bytes())
    for name, data in sorted(page_files().items()):
        whole.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:16]


@cache
def index_page() -> bytes:
    """The page. It names its files by their hash, and from where it stands: that may be behind a proxy's path."""
    text = (FOLDER / INDEX).read_text(encoding="utf-8")
    modules = [HIGHLIGHT, *(name for name in page_files() if name.endswith(".js") and "/" not in name)]
    preload = "\n    ".join(f'<link rel="modulepreload" href="web/{name}">' for name in modules if name != CLASSIC)
    return text.replace("<!-- modules -->", preload).replace('="web/', f'="web/{digest()}/').encode()


@cache
def compressed(name: str) -> bytes:
    """A file with gzip; the page itself by `INDEX`."""
    return gzip.compress(index_page() if name == INDEX else page_files()[name], mtime=0)
