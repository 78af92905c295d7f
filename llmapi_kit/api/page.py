"""GET /: the chat page, for browsers; other clients are told what they always were, that nothing is here.

The page and its files are the same on every server and hold nothing of it, so they need no key and a tunnel leads to
them: the page asks for the key, or comes with an invitation. A browser keeps the files for good, as a hash of them
stands in their addresses; the page itself it asks for anew each time.

The Content-Security-Policy allows this server's own files and nothing inline, styles neither: those that KaTeX writes
into its formulas are set one by one by the page's renderer. Nothing is turned into HTML but by DOMPurify, which
browsers with Trusted Types enforce.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llmapi_kit.api.routes import PublicRoute
from llmapi_kit.errors import NotFoundError
from llmapi_kit.web.files import COMPRESSIBLE, INDEX, compressed, digest, index_page, page_files

router = APIRouter(route_class=PublicRoute, include_in_schema=False)

# Not the machine's own table, which may call a script plain text; browsers then refuse it.
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".woff2": "font/woff2",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "font-src": "'self'",
    "img-src": "data:",  # pictures that the user adds to a question
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "dompurify",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
FOR_GOOD = "public, max-age=31536000, immutable"


@router.get("/")
def page(request: Request) -> Response:
    """The page for whoever takes HTML by name, as browsers do and programs don't."""
    if not _accepts(request, "accept", "text/html"):
        message = f"There is no {request.method} / here. The API is under /v1, e.g. /v1/models."
        raise NotFoundError(message, code="not_found")
    etag = f'W/"{digest()}"'
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept, Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return _respond(request, INDEX, index_page(), headers)


@router.get("/web/{version}/{name:path}")
def page_file(version: str, name: str, request: Request) -> Response:
    """A module, a style sheet, a library or a font of the page."""
    if version != digest() or name not in page_files():
        raise NotFoundError(f"The page has no file {f'{version}/{name}'[:80]!r}.", code="not_found")
    headers = {**HEADERS, "Cache-Control": FOR_GOOD, "Vary": "Accept-Encoding"}
    return _respond(request, name, page_files()[name], headers)


def _respond(request: Request, name: str, data: bytes, headers: dict[str, str]) -> Response:
    suffix = PurePosixPath(name).suffix
    if suffix in COMPRESSIBLE and _accepts(request, "accept-encoding", "gzip"):
        data, headers = compressed(name), {**headers, "Content-Encoding": "gzip"}
    return Response(data, media_type=MEDIA_TYPES[suffix], headers=headers)


def _accepts(request: Request, header: str, wanted: str) -> bool:
    """Whether a header lists a value, and not with the weight 0."""
    for part in request.headers.get(header, "").lower().split(","):
        value, *parameters = (each.strip() for each in part.split(";"))
        if value == wanted:
            return not any(each.replace(" ", "").rstrip("0.") == "q=" for each in parameters)
    return False
