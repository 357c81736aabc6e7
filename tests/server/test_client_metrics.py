"""What Prometheus reads of the audit log's records."""

from __future__ import annotations

import urllib.request

from detserve_server.client_metrics import serve_client_metrics
from detserve_server.ports import choose_ports


def test_requests_are_counted_and_foreign_model_names_are_not_kept() -> None:
    port = choose_ports({"metrics": None})["metrics"]
    count = serve_client_metrics(port, address="127.0.0.1")
    request = {"kind": "request", "client": "shop", "latency_s": 0.03, "bytes_in": 100, "bytes_out": 10}
    count({**request, "method": "ModelInfer", "model": "codes_yolo", "outcome": "ok"})
    for number in range(50):
        count({**request, "method": "ModelInfer", "model": f"guess{number}", "outcome": "rejected"})
        count({**request, "method": "ServerLive", "model": f"guess{number}", "outcome": "ok"})
    count({"kind": "gap", "what": "lines are missing"})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    totals = [line for line in lines if line.startswith("detserve_requests_total")]
    assert totals == [
        'detserve_requests_total{client="shop",model="codes_yolo",outcome="ok"} 1.0',
        'detserve_requests_total{client="shop",model="",outcome="rejected"} 50.0',
        'detserve_requests_total{client="shop",model="",outcome="ok"} 50.0',
    ]
    assert 'detserve_request_seconds_bucket{client="shop",le="0.02"} 0.0' in lines
    assert 'detserve_request_seconds_bucket{client="shop",le="0.05"} 101.0' in lines
    assert 'detserve_request_bytes_total{client="shop"} 10100.0' in lines
    assert 'detserve_audit_records_total{kind="gap"} 1.0' in lines
