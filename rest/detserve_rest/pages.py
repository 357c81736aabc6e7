"""The page at ``/`` and what it loads from ``/page/``: files of this package, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "page"

#: blob: and data: are what the page makes itself: pictures dropped in, pictures drawn.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


class _PageFiles(StaticFiles):
    """Static files with the page's headers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *said]
            await send(message)

        await super().__call__(scope, receive, with_headers)


async def _page(_request: Request) -> Response:
    return FileResponse(FOLDER / "index.html", headers=_HEADERS)


def page_routes() -> list[BaseRoute]:
    """The routes of the page."""
    return [Route("/", _page), Mount("/page", _PageFiles(directory=FOLDER))]
