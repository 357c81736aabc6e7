"""Cores by affinity and by a container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detserve_core.machine import cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 8),
    ],
)
def test_a_quota_is_cores_rounded_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores.cores() == expected


def test_without_a_quota_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "absent")
    assert cores.cores() == len(os.sched_getaffinity(0))
