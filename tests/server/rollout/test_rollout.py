"""Directing a gateway's traffic: shares, what is left when nginx refuses, what a watch makes of a log."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_server.errors import RolloutError
from detserve_server.gateway.settings import SETTINGS, GatewaySettings, Upstream
from detserve_server.rollout.rollout import roll_back, roll_out, wait_until_ready
from detserve_server.rollout.stop import Stop
from detserve_server.rollout.traffic import NEXT, Gateway, with_share
from detserve_server.rollout.watch import Seen, watch
from tests.server.audit.audit_logs import access_line

OLD = [Upstream(grpc="127.0.0.1:1001", http="127.0.0.1:1000")]
NEW = [Upstream(grpc="127.0.0.1:2001", http="127.0.0.1:2000")]


@given(old=st.integers(1, 5), new=st.integers(1, 5), share=st.floats(0.01, 0.9))
def test_weights_give_the_share(old: int, new: int, share: float) -> None:
    def servers(count: int, port: int) -> list[Upstream]:
        return [Upstream(grpc=f"h:{port + i}", http=f"h:{port + i}") for i in range(count)]

    weights = [one.weight for one in with_share(servers(old, 1000), servers(new, 2000), share)]
    assert sum(weights[old:]) / sum(weights) == pytest.approx(share, abs=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A gateway's folder; ``true`` and ``false`` stand for a reload that works and one that does not."""
    settings = GatewaySettings(
        upstreams=tuple(OLD),
        certificate=tmp_path / "server.crt",
        certificate_key=tmp_path / "server.key",
        keys=tmp_path / "keys.conf",
        access_log=str(tmp_path / "access.jsonl"),
        run_dir=tmp_path,
    )
    (tmp_path / SETTINGS).write_text(settings.model_dump_json())
    (tmp_path / "nginx.conf").write_text("as it was")
    (tmp_path / "access.jsonl").touch()
    return tmp_path


def _upstreams(folder: Path) -> list[Upstream]:
    return list(Gateway(folder).settings().upstreams)


def test_a_change_is_written_whole_and_told(folder: Path) -> None:
    Gateway(folder, f"touch {folder}/told").direct(with_share(OLD, NEW, 0.25))
    text = (folder / "nginx.conf").read_text()
    assert "server 127.0.0.1:1001 weight=3 " in text
    assert "server 127.0.0.1:2001 weight=1 " in text
    assert (folder / "told").exists()
    assert not list(folder.glob("*.next"))


def test_a_change_that_nginx_does_not_take_can_be_given_back(folder: Path) -> None:
    with pytest.raises(RolloutError, match="false failed"):
        Gateway(folder, "false").direct(NEW)
    assert _upstreams(folder) == OLD
    assert Gateway(folder).unfinished()
    Gateway(folder, "true").give_back(OLD)
    assert not Gateway(folder).unfinished()
    assert _upstreams(folder) == OLD
    text = (folder / "nginx.conf").read_text()
    assert "127.0.0.1:2001" not in text
    with pytest.raises(RolloutError, match="nginx"):  # none runs, and there is no certificate
        Gateway(folder).direct(NEW)
    assert (folder / "nginx.conf").read_text() == text
    assert not Gateway(folder).unfinished()


def test_settings_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SETTINGS)
    with pytest.raises(RolloutError, match="gateway.json is not a file"):
        roll_back(Gateway(tmp_path))


def test_a_folder_without_settings_is_said(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="give the folder that detserve gateway render wrote"):
        Gateway(tmp_path).settings()
    (tmp_path / SETTINGS).write_text("{}")
    with pytest.raises(RolloutError, match="gateway.json: upstreams: field required"):
        Gateway(tmp_path).settings()


def _roll_out(folder: Path, gate: Callable[[], str], command: str = "true") -> list[str]:
    steps: list[str] = []
    roll_out(
        Gateway(folder, command),
        NEW,
        gate=gate,
        share=0.1,
        watch_s=0,
        max_failed=0,
        access_log=folder / "access.jsonl",
        on_step=steps.append,
        stop=Stop(),
    )
    return steps


def test_promoted_then_rolled_back(folder: Path) -> None:
    with pytest.raises(RolloutError, match="has seen no roll-out"):
        roll_back(Gateway(folder, "true"))
    assert _roll_out(folder, lambda: "")[-1] == (
        "the gateway was told to give the new server all the traffic; the old one may be stopped "
        "70 s after the gateway's log says that it did"
    )
    assert _upstreams(folder) == NEW
    assert list(roll_back(Gateway(folder, "true"))) == OLD
    assert _upstreams(folder) == OLD


def test_held_back_at_the_first_gate_and_rolled_back_at_the_second(folder: Path) -> None:
    text = (folder / "nginx.conf").read_text()
    with pytest.raises(RolloutError, match="held back before it had any traffic: too different"):
        _roll_out(folder, lambda: "too different")
    assert (folder / "nginx.conf").read_text() == text
    answers = iter(["", "too different now"])
    with pytest.raises(RolloutError, match="rolled back: too different now"):
        _roll_out(folder, lambda: next(answers))
    assert _upstreams(folder) == OLD


def test_a_gateway_that_cannot_be_given_back_is_said(folder: Path) -> None:
    def gate() -> str:
        if not (folder / "broken").exists():
            (folder / "broken").touch()
            return ""
        (folder / "reload").unlink()
        return "too different"

    (folder / "reload").write_text("#!/bin/sh\n")
    (folder / "reload").chmod(0o755)
    with pytest.raises(
        RolloutError, match="too different.*did not get its traffic back: .*reload cannot be run"
    ):
        _roll_out(folder, gate, str(folder / "reload"))


@pytest.mark.parametrize("command", ["unbalanced '", " "])
def test_a_reload_command_that_is_none(folder: Path, command: str) -> None:
    with pytest.raises(RolloutError, match="--reload"):
        Gateway(folder, command).direct(NEW)
    assert not (folder / NEXT).exists()


@pytest.mark.parametrize("pid", ["-1", "0", "1", "999999999999", "x", ""])
def test_a_pid_file_that_names_no_nginx_is_told_nothing(folder: Path, pid: str) -> None:
    (folder / "nginx.pid").write_text(pid)
    with pytest.raises(RolloutError, match="names no running nginx"):
        Gateway(folder).direct(NEW)


def test_a_port_of_another_protocol_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"\0\0\x12\x04\0\0\0\0\0 no HTTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RolloutError, match="does not say that the new server is ready"):
            wait_until_ready(Upstream(grpc=address, http=address), 0, Stop())
        thread.join()
    beyond = Upstream(grpc="127.0.0.1:99999", http="127.0.0.1:99999")
    with pytest.raises(RolloutError, match="does not say that the new server is ready"):
        wait_until_ready(beyond, 0, Stop())


def test_a_watch_sees_new_lines_of_inference_alone(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.write_bytes(access_line(1, grpc_status=14) * 9)  # before the watch

    def write() -> None:
        time.sleep(0.3)
        with log.open("ab", buffering=0) as file:
            for number in range(10):
                line = access_line(number, grpc_status=14 if number < 2 else 0)
                file.write(line[:20])
                file.write(line[20:])
            file.write(access_line(11, method="ModelReady", grpc_status=14) + b"garbage\n")

    writer = threading.Thread(target=write)
    writer.start()
    seen = watch(log, 1.5, 0.5, Stop())
    writer.join()
    assert seen == Seen(requests=10, failed=2)
    assert seen.breach(0.2) == ""
    assert seen.breach(0.19) == "2 of 10 requests failed, allowed are 19.0%"
    assert Seen().breach(0) == ""
    with pytest.raises(RolloutError, match="say where it is with --access-log"):
        watch(tmp_path / "none", 0, 0, Stop())


def test_a_watch_ends_early_when_many_fail(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.touch()

    def write() -> None:
        time.sleep(0.2)
        with log.open("ab") as file:
            file.writelines(access_line(number, grpc_status=13) for number in range(60))

    threading.Thread(target=write).start()
    started_s = time.monotonic()
    assert watch(log, 600, 0.01, Stop()).failed == 60
    assert time.monotonic() - started_s < 300
