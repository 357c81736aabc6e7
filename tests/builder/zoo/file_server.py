"""Small HTTP servers for downloads: one that sends a file, well or badly, and a proxy."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import ProxyHandler, build_opener


@dataclass
class FileServer:
    """What it sends at any path, and what it was asked.

    ``breaks_at`` ends the next connections early, after so many bytes of their answer, one each.
    """

    content: bytes
    ranges: bool = True
    etag: bool = True
    status: int = 200
    breaks_at: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    file: FileServer

    def do_GET(self) -> None:
        file, said = self.file, self.headers.get("Range")
        file.asked.append((self.path, said))
        if file.status != 200:
            self.send_error(file.status)
            return
        tag = f'"{hashlib.sha256(file.content).hexdigest()[:16]}"'
        first = int(said.removeprefix("bytes=").rstrip("-")) if said and file.ranges else 0
        if first and self.headers.get("If-Range", tag) != tag:
            first = 0
        if first >= len(file.content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(file.content) - 1}/{len(file.content)}")
        if file.etag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(file.content) - first))
        self.end_headers()
        body = file.content[first:]
        self.wfile.write(body[: file.breaks_at.pop(0)] if file.breaks_at else body)

    def log_message(self, *_: object) -> None:
        pass


class _Proxy(BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        with build_opener(ProxyHandler({})).open(self.path) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.seen.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(file: FileServer) -> Iterator[FileServer]:
    """Serve ``file`` while the block runs."""
    with _listening(type("Handler", (_Handler,), {"file": file})) as file.url:
        yield file


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """The address of an HTTP proxy, and what it was asked; it refuses to CONNECT."""
    seen: list[str] = []
    with _listening(type("Proxy", (_Proxy,), {"seen": seen})) as url:
        yield url, seen
