"""TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket

from detserve_core.errors import PortTaken, ServerStartError

LOOPBACK = "127.0.0.1"

# Triton's own defaults.
GRPC_PORT = 8001
HTTP_PORT = 8000
METRICS_PORT = 8002

# Of detserve rest.
REST_PORT = 8080

# Below the range Linux takes for outgoing connections (32768 up): Triton binds its ports seconds after they
# are chosen, and an outgoing connection of any process could take one of that range meanwhile.
_CHOICE = range(20_000, 32_000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port of this IPv4 address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_ports(wanted: dict[str, int | None]) -> dict[str, int]:
    """Keep the ports that are given, choose free ones for those that are ``None``.

    ``wanted`` maps what the port is for ("gRPC") to its number. Raises :class:`PortTaken` when a given port
    is in use or given twice.
    """
    chosen: dict[str, int] = {}
    for purpose, port in wanted.items():
        if port is None:
            continue
        for other, taken in chosen.items():
            if taken == port:
                raise PortTaken(
                    f"port {port} is given for both {other} and {purpose}; give two different ports"
                )
        if not is_free(port):
            raise PortTaken(
                f"port {port} for {purpose} is already in use on {LOOPBACK}; "
                f"stop what listens there or give another port"
            )
        chosen[purpose] = port
    for purpose, port in wanted.items():
        if port is None:
            chosen[purpose] = _free_port(set(chosen.values()))
    return {purpose: chosen[purpose] for purpose in wanted}


def _free_port(avoid: set[int]) -> int:
    candidates = random.SystemRandom().sample(_CHOICE, k=200)
    for port in candidates:
        if port not in avoid and is_free(port):
            return port
    raise ServerStartError(
        f"none of 200 ports tried between {_CHOICE.start} and {_CHOICE.stop} is free; give the ports yourself"
    )
