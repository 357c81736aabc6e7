"""Three times what the server can do. The bounds are wide: what is checked is that they exist."""

from __future__ import annotations

import json
import re
import time

import urllib3

from detserve_client import Client
from detserve_perf.capacity.overload import overload
from detserve_perf.capacity.overload_report import percentile
from tests.live.conftest import DEFAULT, SAMPLES


def _queue_metrics(server) -> dict[str, float]:
    """What the pipeline tells of its queue, by name."""
    text = urllib3.request("GET", server.metrics_url).data.decode()
    line = rf'^(detserve_queue_\w+){{model="{DEFAULT}_pipeline"}} (\S+)$'
    return {name: float(value) for name, value in re.findall(line, text, re.MULTILINE)}


def test_overload_is_refused_at_once_and_the_rest_is_answered_in_bounded_time(server, sample) -> None:
    before = _queue_metrics(server)
    half, thrice = overload(server.grpc_url, DEFAULT, SAMPLES, [0.5, 3], 3, lambda phase: None)
    assert not half.latencies_ms(refused=True)
    accepted, rejected = (thrice.latencies_ms(refused=refused) for refused in (False, True))
    figures = {
        "goodput / peak": thrice.goodput_per_s / thrice.peak_per_s,
        "rejected": len(rejected) / len(thrice.run.samples),
        "rejected p50 ms": percentile(rejected, 0.5),
        "accepted p99 ms": percentile(accepted, 0.99),
    }
    print(json.dumps(figures))
    assert figures["goodput / peak"] > 0.5
    assert 0.3 < figures["rejected"] < 0.95
    assert figures["rejected p50 ms"] < 50
    # 32 may wait while a few are under way; twice that for a busy machine
    assert figures["accepted p99 ms"] < 2 * 1e3 * 40 / (0.5 * thrice.peak_per_s)
    with Client(server.grpc_url, DEFAULT) as client:
        assert len(client.detect(sample)) > 0
    time.sleep(1.5)  # the pipeline reports once a second
    after = _queue_metrics(server)
    assert after["detserve_queue_refused_total"] - before["detserve_queue_refused_total"] == len(rejected)
    taken = after["detserve_queue_taken_total"] - before["detserve_queue_taken_total"]
    assert taken >= len(accepted) + len(half.run.samples)
    waited_s = after["detserve_queue_picture_seconds_total"] - before["detserve_queue_picture_seconds_total"]
    assert waited_s > 0.5e-3 * sum(accepted), "most of an accepted request's time was in the queue"
    assert after["detserve_queue_pictures"] == 0
