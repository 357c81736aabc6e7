"""``detserve rest``: what it says where it cannot start, and that it stops cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

from detserve_core.machine.ports import choose_ports
from detserve_core.machine.readiness import answers
from tests.command import detserve


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = detserve("rest", "--port", port)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"detserve: 127.0.0.1:{port} cannot be listened on (Address already in use); stop what listens there "
        "or give another --port or --host"
    )


def test_a_key_without_tls(tmp_path) -> None:
    (tmp_path / "key").write_text("dsk_x")
    done = detserve("rest", "--api-key-file", tmp_path / "key")
    assert done.returncode == 1
    assert "need TLS" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    port = choose_ports({"REST": None})["REST"]
    command = [sys.executable, "-m", "detserve.command", "rest", "--port", str(port), "--url", "localhost:9"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline_s = time.monotonic() + 60
    while not answers(port, "/v1/health/live"):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert said.splitlines()[-1] == "Stopped."
    assert "Traceback" not in said
