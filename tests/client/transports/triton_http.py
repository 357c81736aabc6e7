"""A real HTTP server of a few lines that speaks Triton's protocol and says what a test tells it to."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from detserve_client import Card, Detections
from detserve_client.engine.wire import config_with, padded_outputs

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"int32": "INT32", "float32": "FP32"}


@dataclass
class Reply:
    """What the server says."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def error_reply(status: int, text: str) -> Reply:
    """Triton's way to say an error."""
    return Reply(status, json.dumps({"error": text}).encode())


def infer_reply(detections: Detections, rows: int = 5) -> Reply:
    """An answer with binary tensors."""
    outputs, binary = [], b""
    for name, tensor in padded_outputs(detections, rows).items():
        content = tensor.tobytes()
        outputs.append(
            {
                "name": name,
                "datatype": DATATYPES[tensor.dtype.name],
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(content)},
            }
        )
        binary += content
    header = json.dumps({"model_name": "pets", "model_version": "1", "outputs": outputs}).encode()
    return Reply(body=header + binary, headers={HEADER_LENGTH: str(len(header))})


@dataclass
class Received:
    """What came in: the JSON header of an inference request, the encoded picture, the HTTP headers."""

    header: dict[str, Any]
    picture: bytes
    headers: Mapping[str, str]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A refused handshake is what some tests want."""


@contextmanager
def http_server(
    card: Card, answer: Callable[[Received], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve until the block ends; yields the URL. ``answer`` answers inference requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v2/models/pets/ready":
                self._send(Reply())
            elif self.path == "/v2/models/pets/config":
                self._send(Reply(body=json.dumps(config_with(card)).encode()))
            elif self.path.endswith("/ready"):
                self._send(error_reply(400, "Model version not ready"))
            else:
                self._send(error_reply(404, "Request for unknown model: 'x' is not found"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers[HEADER_LENGTH])
            # a BYTES element carries its own length of 4 bytes
            self._send(answer(Received(json.loads(body[:length]), body[length + 4 :], self.headers)))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # a client whose deadline has passed hangs up
                self.end_headers()
                self.wfile.write(reply.body)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
