"""Peers on bare sockets, for what no HTTP server can be made to do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """``serve`` has the listening socket, in a thread that has ended when the block has; yields the URL."""

    def run() -> None:
        with suppress(OSError):
            serve(listener)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


class Answers:
    """Answers each connection with its list, one for what it reads at once, then waits and closes it."""

    def __init__(self, *answers: list[bytes], linger_s: float = 0) -> None:
        self._answers, self._linger_s = answers, linger_s
        self.connections = 0
        self.closed = threading.Semaphore(0)

    def __call__(self, listener: socket.socket) -> None:
        for answers in self._answers:
            connection, _ = listener.accept()
            self.connections += 1
            with connection, suppress(ConnectionError):
                for answer in answers:
                    if not connection.recv(65536):
                        break
                    connection.sendall(answer)
                time.sleep(self._linger_s)
            self.closed.release()
