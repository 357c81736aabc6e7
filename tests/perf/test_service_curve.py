"""Service curves: from a sweep's percentiles, and as a queue."""

import json
from pathlib import Path

import numpy as np
import pytest

from detserve_perf.capacity.service_curve import CurvePoint, ServiceCurve, curve_from_sweep, pooled
from detserve_perf.errors import MeasurementError


def _load(per_s: float, p50: float, p90: float, p99: float) -> dict[str, float]:
    return {"pictures_per_s": per_s, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}


def _sweep(folder: Path, *points: tuple[int, int, dict[str, float]]) -> Path:
    runs = [{"point": {"batch": b, "concurrency": c}, "load": load} for b, c, load in points]
    file = folder / "sweep.json"
    file.write_text(json.dumps({"runs": runs, "machine": {"cores": 2}}))
    return file


def test_a_sweep_gives_back_its_own_figures(tmp_path: Path) -> None:
    file = _sweep(
        tmp_path,
        (1, 1, _load(67.9, 14.6, 15.6, 19.4)),
        (1, 4, _load(122.2, 31.5, 49.9, 60.1)),
        (4, 1, _load(1, 1, 1, 1)),
    )
    curve = curve_from_sweep(file)
    assert [point.concurrency for point in curve.points] == [1, 4]
    assert curve.capacity_per_s == 122.2
    for point, figures in zip(curve.points, ((14.6, 15.6, 19.4), (31.5, 49.9, 60.1)), strict=True):
        assert 1e3 * np.percentile(point.latencies_s, (50, 90, 99)) == pytest.approx(figures, rel=0.01)
        # Little's law: requests under way = throughput * mean latency
        assert point.latencies_s.mean() == pytest.approx(point.concurrency / point.pictures_per_s, rel=0.02)


def test_the_replica_serves_at_the_measured_capacity() -> None:
    points = tuple(
        CurvePoint(n, per_s, np.full(50, n / per_s)) for n, per_s in ((1, 60.0), (2, 100.0), (4, 110.0))
    )
    curve = ServiceCurve(points, queue_size=64)
    replica = curve.replica()
    assert curve.servers == 4
    assert replica.capacity_per_s == pytest.approx(110)
    assert replica.work_s.mean() == pytest.approx(1 / 60)
    # each of k goes at throughput / k, over what it was alone; 3 lies between 2 and 4
    assert replica.speeds == pytest.approx([60 / 60, 50 / 60, 35 / 60, 27.5 / 60])


def test_more_under_way_than_it_takes_for_the_capacity_wait() -> None:
    points = tuple(
        CurvePoint(n, per_s, np.full(50, n / per_s)) for n, per_s in ((1, 60.0), (2, 119.0), (4, 120.0))
    )
    replica = ServiceCurve(points, queue_size=0).replica()
    assert replica.speeds == pytest.approx([1, 1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": [{}]}'])
def test_what_is_no_sweep_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(MeasurementError, match=r"no sweep\.json"):
        curve_from_sweep(tmp_path / "x.json")
    with pytest.raises(MeasurementError, match="cannot be read"):
        curve_from_sweep(tmp_path / "absent.json")


def test_a_sweep_without_its_lowest_point_is_refused(tmp_path: Path) -> None:
    file = _sweep(tmp_path, (1, 2, _load(100, 20, 30, 40)))
    with pytest.raises(MeasurementError, match="one request at a time"):
        curve_from_sweep(file)


def test_two_curves_are_pooled_point_by_point() -> None:
    slow, fast = (
        ServiceCurve((CurvePoint(1, per_s, np.full(3, 1 / per_s)),), queue_size=32) for per_s in (50.0, 100.0)
    )
    both = pooled(slow, fast)
    assert both.capacity_per_s == 75
    assert sorted(both.points[0].latencies_s) == pytest.approx([0.01] * 3 + [0.02] * 3)
    assert both.queue_size == 32
