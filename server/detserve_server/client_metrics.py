"""Requests of each client for Prometheus, counted from the records of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detserve_server.audit.record import Outcome, is_inference

#: Upper ends of the latency buckets, seconds.
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def serve_client_metrics(port: int, *, address: str = "0.0.0.0") -> Callable[[Mapping[str, Any]], None]:  # noqa: S104
    """Serve ``/metrics`` on ``port`` from a thread of its own; returns what is to be told of each record.

    ``detserve_requests_total`` has the labels client, model and outcome; ``detserve_request_seconds`` (a
    histogram), ``detserve_request_bytes_total`` and ``detserve_response_bytes_total`` have the client alone.
    Who has no key is the client "". A model is named only where an inference succeeded: any other request can
    be for any name, and each would become a series that is kept.
    """
    from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

    registry = CollectorRegistry()
    requests = Counter("detserve_requests", "Requests.", ["client", "model", "outcome"], registry=registry)
    seconds = Histogram(
        "detserve_request_seconds", "Time to the last byte.", ["client"], buckets=BUCKETS_S, registry=registry
    )
    received = Counter("detserve_request_bytes", "Bytes received.", ["client"], registry=registry)
    sent = Counter("detserve_response_bytes", "Bytes sent.", ["client"], registry=registry)
    records = Counter("detserve_audit_records", "Records of the audit log.", ["kind"], registry=registry)

    def count(record: Mapping[str, Any]) -> None:
        records.labels(record["kind"]).inc()
        if record["kind"] != "request":
            return
        client, outcome = record["client"], record["outcome"]
        model = record["model"] if outcome == Outcome.OK.value and is_inference(record) else ""
        requests.labels(client, model, outcome).inc()
        seconds.labels(client).observe(record["latency_s"])
        received.labels(client).inc(record["bytes_in"])
        sent.labels(client).inc(record["bytes_out"])

    start_http_server(port, addr=address, registry=registry)
    return count
