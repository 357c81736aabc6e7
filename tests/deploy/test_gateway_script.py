"""deploy/gateway/serve.sh before nginx runs: what it does while Triton has no address."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def waiting_gateway(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """serve.sh where a second is 10 ms, and Triton has an address once the file "address" is there."""
    programs = {
        "getent": '[ -f "$PLACE/address" ] && echo "10.0.0.1 STREAM triton"',
        "sleep": 'echo >>"$PLACE/slept"; exec /bin/sleep 0.01',
    }
    scripts = {name: f"#!/bin/sh\n{body}\n" for name, body in programs.items()}
    # sh starts it with SIGQUIT ignored, which another sh could not change.
    scripts["nginx"] = (
        "#!/usr/bin/env python3\n"
        "import os, pathlib, signal, sys\n"
        "if '-t' in sys.argv:\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGQUIT, lambda *_: sys.exit(0))\n"
        "pathlib.Path(os.environ['PLACE'], 'started').touch()\n"
        "signal.pause()\n"
    )
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "etc/gateway").mkdir(parents=True)
    (tmp_path / "etc/gateway/nginx.conf").write_text(
        "    upstream triton_http {\n        server triton:8000 weight=1;\n    }\n"
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PLACE": str(tmp_path),
        "GATEWAY_DIR": str(tmp_path / "etc"),
        "ACCESS_LOG": str(tmp_path / "access.jsonl"),
        "RUN_DIR": str(tmp_path / "run"),
    }
    script = subprocess.Popen(
        ["sh", CHECKOUT / "deploy/gateway/serve.sh"], env=environment, start_new_session=True
    )
    yield script, tmp_path
    with suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    script.wait()


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about"
        time.sleep(0.02)


def _slept_s(place: Path) -> int:
    slept = place / "slept"
    return len(slept.read_text()) if slept.exists() else 0


def test_the_gateway_waits_for_an_address_of_triton(
    waiting_gateway: tuple[subprocess.Popen[bytes], Path],
) -> None:
    script, place = waiting_gateway
    _until(lambda: _slept_s(place) > 100)
    assert not (place / "started").exists(), "nginx ends where the name has no address"
    (place / "address").touch()
    _until((place / "started").exists)
    script.terminate()
    assert script.wait(5) == 0


def test_a_gateway_that_waits_ends_when_told(
    waiting_gateway: tuple[subprocess.Popen[bytes], Path],
) -> None:
    script, place = waiting_gateway
    _until(lambda: _slept_s(place) > 0)
    script.terminate()
    assert script.wait(5) == 0
    assert not (place / "started").exists()
