"""Sockets of a generator: the kernel keeps their timeouts, which saves asking it before each call."""

from __future__ import annotations

import socket
import struct


def connected(host: str, port: int, timeout_s: float) -> socket.socket:
    """A socket whose sends and receives block, ``timeout_s`` at most: then they raise BlockingIOError.

    Raises OSError where nobody listens.
    """
    made = socket.create_connection((host, port), timeout_s)
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(timeout_s), 0))
    return made
