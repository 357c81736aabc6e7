"""For all tests."""

from __future__ import annotations

import signal

pytest_plugins = ["tests.detected"]


def pytest_configure() -> None:
    """Take SIGINT, which a shell has background jobs ignore; tests send it to themselves and to servers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
