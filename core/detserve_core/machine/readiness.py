"""Whether a server of this machine is ready."""

from __future__ import annotations

import http.client

from detserve_core.machine.ports import LOOPBACK

TRITON_READY = "/v2/health/ready"


def answers(port: int, path: str = TRITON_READY) -> bool:
    """Whether GET ``path`` on a port of the loopback address gives 200 within two seconds."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
