"""Ends the connections of a tritonserver that stops.

It waits for each of HTTP to be closed by its client, idle ones too, until its exit timeout is over, and then
ends without the ``finalize`` of its models. A client of HTTP that waits for an answer still gets it: Triton
reads the end of the connection after that. A call of gRPC in flight is broken off.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

_PIDFD_GETFD = 438  # the number of the system call on every architecture
_ESTABLISHED = "01"


def end_connections(pid: int, port: int) -> None:
    """Have the server read the end of every connection to its ``port``, as if the client had closed it.

    Nothing happens where the kernel lets no process take its child's sockets: before Linux 5.6, and in a
    container without SYS_PTRACE.
    """
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            for descriptor in _descriptors(pid, _inodes(pid, port)):
                with closing(socket.socket(fileno=_taken(process, descriptor))) as connection:
                    connection.shutdown(socket.SHUT_RD)
        finally:
            os.close(process)


def _inodes(pid: int, port: int) -> set[str]:
    """Of the server's ends of the connections to ``port``, from the kernel's tables."""
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]  # gRPC's are of IPv6 for IPv4 too
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == _ESTABLISHED and row[1].endswith(f":{port:04X}")}


def _descriptors(pid: int, inodes: set[str]) -> Iterator[int]:
    """The file descriptors of the process that are these sockets."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if (found := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))) and found[1] in inodes:
                yield int(entry.name)


def _taken(process: int, descriptor: int) -> int:
    """A descriptor of this process for one of the other's."""
    taken: int = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    if taken < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return taken
