"""What Prometheus reads of the audit log's records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from detserve_core.machine.ports import choose_ports
from detserve_server.audit.client_metrics import serve_client_metrics
from detserve_server.audit.collect import collect
from detserve_server.signing.keys import create_key, read_private_key
from tests.server.audit.audit_logs import access_line, records

#: As the gateway's own script writes it.
GATEWAY = """\
# HELP detserve_gateway_change_refused Whether nginx refused the last change.
# TYPE detserve_gateway_change_refused gauge
detserve_gateway_change_refused 1
# TYPE detserve_gateway_changes_total counter
detserve_gateway_changes_total 7
# TYPE detserve_gateway_workers_lost_total counter
detserve_gateway_workers_lost_total 2
"""


def test_requests_are_counted_and_foreign_model_names_are_not_kept() -> None:
    port = choose_ports({"metrics": None})["metrics"]
    count = serve_client_metrics(port)
    request = {"kind": "request", "client": "shop", "latency_s": 0.03, "bytes_in": 100, "bytes_out": 10}
    count({**request, "method": "ModelInfer", "model": "codes_yolo", "outcome": "ok"})
    for number in range(50):
        count({**request, "method": "ModelInfer", "model": f"guess{number}", "outcome": "rejected"})
        count({**request, "method": "ServerLive", "model": f"guess{number}", "outcome": "ok"})
    count({**request, "method": "infer", "model": "x", "outcome": "limited", "one_in": 20})
    count({"kind": "gap", "what": "lines are missing"})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    totals = [line for line in lines if line.startswith("detserve_client_requests_total")]
    assert totals == [
        'detserve_client_requests_total{client="shop",model="codes_yolo",outcome="ok"} 1.0',
        'detserve_client_requests_total{client="shop",model="",outcome="rejected"} 50.0',
        'detserve_client_requests_total{client="shop",model="",outcome="ok"} 50.0',
        'detserve_client_requests_total{client="shop",model="",outcome="limited"} 20.0',
    ]
    assert 'detserve_client_request_seconds_bucket{client="shop",le="0.02"} 0.0' in lines
    assert 'detserve_client_request_seconds_bucket{client="shop",le="0.05"} 102.0' in lines
    assert 'detserve_client_request_bytes_total{client="shop"} 10200.0' in lines
    assert 'detserve_audit_records_total{kind="gap"} 1.0' in lines


def _scraped(port: int, host: str = "127.0.0.1") -> list[str]:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        return answer.read().decode().splitlines()


def test_the_figures_of_the_gateway_are_shown_while_their_file_can_be_read(tmp_path: Path) -> None:
    port, path = choose_ports({"metrics": None})["metrics"], tmp_path / "gateway.prom"
    serve_client_metrics(port, gateway=path)
    without = _scraped(port)
    assert not [line for line in without if "detserve_gateway" in line]
    path.write_text(GATEWAY + "detserve_client_requests_total 99\nprocess_cpu_seconds_total 5\n")
    lines = _scraped(port)
    for line in GATEWAY.splitlines():
        if not line.startswith("#"):
            assert f"{line}.0" in lines
    assert "# TYPE detserve_gateway_changes_total counter" in lines
    assert "# HELP detserve_gateway_change_refused Whether nginx refused the last change." in lines
    assert not [line for line in lines if line.endswith(" 99.0") or "process_cpu" in line]
    for text in (b"\xff", b"detserve_gateway_changes_total one\n", b'detserve_gateway_x{a="', b"x" * 100_000):
        path.write_bytes(text)
        assert _scraped(port) == without
    path.unlink()
    os.mkfifo(path)
    assert _scraped(port) == without


def test_it_listens_on_this_machine_alone_unless_said(tmp_path: Path) -> None:
    log, key = tmp_path / "gateway", tmp_path / "audit.pem"
    log.write_bytes(access_line(1))
    (tmp_path / "gateway.prom").write_text(GATEWAY)
    create_key(key)
    command = [sys.executable, "-m", "detserve.command", "audit", "collect", "--from", str(log)]
    command += ["--key", str(key), "--metrics-port"]
    for host, others in (("127.0.0.1", False), ("0.0.0.0", True)):  # noqa: S104
        port = choose_ports({"metrics": None})["metrics"]
        to = ["--to", str(tmp_path / host), *(["--metrics-host", host] if others else [])]
        process = subprocess.Popen([*command, str(port), *to], stderr=subprocess.PIPE, text=True)
        try:
            assert "detserve_gateway_changes_total 7.0" in _when_up(port)
            assert 'detserve_audit_records_total{kind="gap"} 0.0' in _scraped(port)
            assert _value(port, "detserve_audit_lag_seconds") < 5
            for folder in ("audit", "log"):
                free, size = (
                    _value(port, f'detserve_disk_{what}_bytes{{folder="{folder}"}}')
                    for what in ("free", "size")
                )
                assert 0 < free <= size
            assert _answers("127.0.0.2", port) == others
            again = subprocess.run(
                [*command, str(port), "--to", str(tmp_path / "other")],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert (again.returncode, again.stderr.count("\n")) == (1, 1)
            assert f"port {port} (Address already in use); give a free one" in again.stderr
        finally:
            process.terminate()
            process.communicate()
        # gateway.prom beside a log called gateway is none of its rotated siblings
        assert [record["kind"] for record in records(tmp_path / host)] == ["file", "request"]


def _value(port: int, series: str) -> float:
    (line,) = [line for line in _scraped(port) if line.startswith(f"{series} ")]
    return float(line.split()[1])


def test_the_collector_is_behind_until_all_that_was_written_is_read(tmp_path: Path) -> None:
    """Only the read that leaves nothing counts, not each that is committed."""
    log, caught_up = tmp_path / "access.jsonl", list[int]()
    log.write_bytes(b"".join(map(access_line, range(1, 12_000))))
    assert log.stat().st_size > 2 * 2**20, "several batches"
    read = list[int]()
    create_key(tmp_path / "audit.pem")
    key = read_private_key(tmp_path / "audit.pem")
    collect(
        *(log, tmp_path / "audit", key),
        once=True,
        on_note=print,
        on_record=lambda record: read.append(1),
        on_caught_up=lambda since_s: caught_up.append(len(read)),
    )
    assert caught_up
    assert set(caught_up) == {len(read)}


def _when_up(port: int) -> list[str]:
    deadline_s = time.monotonic() + 30
    while not _answers("127.0.0.1", port):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return _scraped(port)


def _answers(host: str, port: int) -> bool:
    try:
        return bool(_scraped(port, host))
    except OSError:
        return False
