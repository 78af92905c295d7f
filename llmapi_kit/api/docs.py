"""GET /docs: the OpenAPI document as a page to read and try out.

A browser sends no key when it opens a page. So the page is an empty shell, the same on every server: it asks for the
key, keeps it in its own memory only, and gets /openapi.json with it. The viewer is Swagger UI, with files that come in
the package fastapi-swagger; nothing is fetched from elsewhere, and the Content-Security-Policy would not let it be.
Closed to the tunnel's names, as /openapi.json is.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from llmapi_kit.api.routes import LocalPageRoute
from llmapi_kit.errors import NotFoundError

router = APIRouter(route_class=LocalPageRoute, include_in_schema=False)

PAGE = Path(__file__).with_name("docs.html")
OWN = ("docs.css", "docs.js")
SWAGGER_UI = ("swagger-ui.css", "swagger-ui-bundle.js")
# Not the machine's own table, which may call a script plain text; browsers then refuse it.
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "data:",  # the icons in Swagger UI's stylesheet
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site learns from a script tag that a server is here
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The shell. It names its files from where it stands itself, so that it may stand behind a proxy's path."""
    if request.scope.get("raw_path", b"").endswith(b"/"):
        page = PAGE.read_text(encoding="utf-8").replace('="docs/', '="../docs/')
        return HTMLResponse(page, headers=HEADERS)
    return _file(PAGE)


@router.get("/docs/{asset}")
async def docs_asset(asset: str) -> FileResponse:
    """A script or a stylesheet of the page."""
    if asset in OWN:
        return _file(PAGE.with_name(asset))
    if asset in SWAGGER_UI:
        return _file(Path(str(files("fastapi_swagger.resources") / asset)))
    raise NotFoundError(f"The page has no file {asset[:80]!r}.", code="not_found")


def _file(path: Path) -> FileResponse:
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)
