"""Logs that grow, and how many open files there may be."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from detserve_server.gateway.configuration import open_files
from detserve_server.gateway.upkeep import killed_workers, places, turn_over, with_new_counts


def test_a_log_is_turned_over_and_the_oldest_go(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text("x" * 100)
    (tmp_path / "access.jsonl.mine").write_text("not of ours")
    for second in range(4):
        (tmp_path / f"access.jsonl.20200101T00000{second}Z").touch()
    assert not turn_over(log, 100, 2)
    assert turn_over(log, 99, 2)
    assert not log.exists(), "nginx opens it anew"
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 3
    assert kept[0] == "access.jsonl.20200101T000003Z"
    assert kept[2] == "access.jsonl.mine"


def test_no_log_and_no_alert_is_nothing(tmp_path: Path) -> None:
    assert not turn_over(tmp_path / "none", 1, 1)
    assert killed_workers(tmp_path / "none") == 0


def test_killed_workers_and_their_counts(tmp_path: Path) -> None:
    alerts = tmp_path / "alerts.log"
    alerts.write_text(
        "2026/11/30 07:49:49 [alert] 1#1: worker process 31 exited on signal 9\n"
        "2026/11/30 07:49:50 [alert] 1#1: 512 worker_connections are not enough\n"
        "2026/11/30 07:49:51 [alert] 1#1: worker process 32 exited on signal 11 (core dumped)\n"
    )
    assert killed_workers(alerts) == 2
    zone = b"limit_conn_zone $a zone=concurrency_600m_4:64k;\nlimit_conn concurrency_600m_4 4;\n"
    assert with_new_counts(zone, 0) == zone
    assert with_new_counts(zone, 2) == zone.replace(b"concurrency_", b"concurrency_2_")


@pytest.mark.parametrize(("hard", "expected"), [(resource.RLIM_INFINITY, 2048), (10_000, 2048), (1024, 384)])
def test_no_more_places_than_open_files_allow(monkeypatch, hard: int, expected: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(1024, abs(hard)), hard))
    assert places(2048) == expected
    assert hard == resource.RLIM_INFINITY or open_files(expected) <= hard
