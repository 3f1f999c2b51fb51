"""Web pages: the playground at `/`, the API reference at `/docs`.

Owns the few static files of api/playground and their one Content-Security-Policy:
scripts and styles from here only, nothing inline. Invariant: the pages work offline and need no
key; the requests that a page makes do need one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from api.edge.responses import etag_matches
from api.errors import RouteMissing

FOLDER = Path(__file__).resolve().parent.parent / "playground"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Page:
    """A static file: content, media type, ETag."""

    content: bytes
    kind: str
    tag: str


def _pages() -> dict[str, Page]:
    """Read all files once: they are few and small."""
    found: dict[str, Page] = {}
    for path in FOLDER.iterdir():
        if path.suffix in KINDS:
            content = path.read_bytes()
            tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            found[path.name] = Page(content, KINDS[path.suffix], tag)
    return found


PAGES = _pages()
router = APIRouter(include_in_schema=False)


@router.get("/")
async def playground(request: Request) -> Response:
    """Serve the playground."""
    return _answer(request, "index.html")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Serve the API reference."""
    return _answer(request, "docs.html")


@router.get("/playground/{name}")
async def static(request: Request, name: str) -> Response:
    """Serve a static file of the two pages."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    page = PAGES.get(name)
    if page is None:
        raise RouteMissing("there is no such page")
    headers = {"etag": page.tag, "cache-control": "no-cache", "content-security-policy": POLICY}
    if etag_matches(request.headers.get("if-none-match"), page.tag):
        return Response(status_code=304, headers=headers)
    return Response(page.content, media_type=page.kind, headers=headers)
