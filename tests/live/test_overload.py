"""Three times what the server can do. The bounds are wide: what is checked is that they exist."""

from __future__ import annotations

import json

from detserve_client import DetectionClient
from detserve_perf.overload import Outcome, overload
from detserve_perf.overload_report import percentile
from tests.live.conftest import DEFAULT, SAMPLES


def test_overload_is_refused_at_once_and_the_rest_is_answered_in_bounded_time(server, sample) -> None:
    half, thrice = overload(server.grpc_url, DEFAULT, SAMPLES, [0.5, 3], 3, lambda phase: None)
    assert not half.latencies_ms(Outcome.REJECTED)
    accepted, rejected = (thrice.latencies_ms(one) for one in (Outcome.ACCEPTED, Outcome.REJECTED))
    figures = {
        "goodput / peak": thrice.goodput_per_s / thrice.peak_per_s,
        "rejected": len(rejected) / len(thrice.answers),
        "rejected p50 ms": percentile(rejected, 0.5),
        "accepted p99 ms": percentile(accepted, 0.99),
    }
    print(json.dumps(figures))
    assert figures["goodput / peak"] > 0.5
    assert 0.3 < figures["rejected"] < 0.95
    assert figures["rejected p50 ms"] < 50
    # 32 may wait while a few are under way; twice that for a busy machine
    assert figures["accepted p99 ms"] < 2 * 1e3 * 40 / (0.5 * thrice.peak_per_s)
    with DetectionClient(server.grpc_url, DEFAULT) as client:
        assert len(client.detect(sample)) > 0
