from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from detserve_core.errors import PortTaken
from detserve_core.machine.ports import LOOPBACK, choose_ports, is_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_chosen_ports_are_free_and_differ() -> None:
    ports = choose_ports({"gRPC": None, "HTTP": None, "metrics": None})
    assert list(ports) == ["gRPC", "HTTP", "metrics"]
    assert len(set(ports.values())) == 3
    assert all(is_free(port) for port in ports.values())


def test_a_given_port_is_kept() -> None:
    given = choose_ports({"gRPC": None})["gRPC"]
    assert choose_ports({"HTTP": None, "gRPC": given})["gRPC"] == given


def test_a_taken_port_is_named(taken_port: int) -> None:
    with pytest.raises(PortTaken, match=f"port {taken_port} for HTTP is already in use"):
        choose_ports({"gRPC": None, "HTTP": taken_port})


def test_the_same_port_twice_is_refused() -> None:
    port = choose_ports({"gRPC": None})["gRPC"]
    with pytest.raises(PortTaken, match=f"port {port} is given for both gRPC and metrics"):
        choose_ports({"gRPC": port, "metrics": port})
