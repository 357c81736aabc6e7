"""What this package raises on purpose.

::

    DetserveError
    └── ServerStartError      the embedded server cannot start, or died before or while serving
        └── PortTaken         a port it was told to listen on is in use
"""

from __future__ import annotations

from detserve_client.errors import DetserveError


class ServerStartError(DetserveError):
    """The embedded server cannot start, or died; the text says in one sentence why."""


class PortTaken(ServerStartError):
    """A port the server was told to listen on is in use."""
