"""Requests of each client for Prometheus, counted from the records of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_server.audit.record import Ending, is_inference
from detserve_server.errors import AuditError
from detserve_server.regular_file import read_regular

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from detserve_server.audit.collector_state import CollectorState

#: Upper ends of the latency buckets, seconds.
BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_OF_GATEWAY = "detserve_gateway_"
_LARGEST_FILE_BYTES = 2**16


def serve_client_metrics(
    port: int,
    *,
    address: str = "127.0.0.1",
    gateway: Path | None = None,
    state: CollectorState | None = None,
) -> Callable[[Mapping[str, Any]], None]:
    """Serve ``/metrics`` on ``port`` from its own thread; returns what is to be told of each record.

    ``detserve_client_requests_total`` has the labels client, model and outcome;
    ``detserve_client_request_seconds`` (a histogram), ``detserve_client_request_bytes_total`` and
    ``detserve_client_response_bytes_total`` have the client alone. What the pipelines count of the same
    requests has other names, so that no sum is over both.
    Who has no key is the client "". A model is named only where an inference succeeded: any other request can
    be for any name, and each would become a series that is kept. A line that stands for n refusals counts as
    n requests; its seconds and bytes count once. ``gateway`` is a file of further metrics, which the gateway
    writes; there are none while it cannot be read. ``state`` tells of the collector itself.

    Raises :class:`AuditError` when it cannot listen there.
    """
    from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

    registry = CollectorRegistry()
    requests = Counter(
        "detserve_client_requests", "Requests.", ["client", "model", "outcome"], registry=registry
    )
    seconds = Histogram(
        "detserve_client_request_seconds",
        "Time to the last byte.",
        ["client"],
        buckets=BUCKETS_S,
        registry=registry,
    )
    received = Counter("detserve_client_request_bytes", "Bytes received.", ["client"], registry=registry)
    sent = Counter("detserve_client_response_bytes", "Bytes sent.", ["client"], registry=registry)
    records = Counter("detserve_audit_records", "Records of the audit log.", ["kind"], registry=registry)
    for kind in ("gap", "untrusted"):  # at 0 from the beginning: Prometheus sees no increase in a first value
        records.labels(kind)
    if gateway is not None:
        registry.register(_GatewayMetrics(gateway))
    if state is not None:
        registry.register(state)

    def count(record: Mapping[str, Any]) -> None:
        records.labels(record["kind"]).inc()
        if record["kind"] != "request":
            return
        client, outcome = record["client"], record["outcome"]
        model = record["model"] if outcome == Ending.OK.value and is_inference(record) else ""
        requests.labels(client, model, outcome).inc(record.get("one_in", 1))
        seconds.labels(client).observe(record["latency_s"])
        received.labels(client).inc(record["bytes_in"])
        sent.labels(client).inc(record["bytes_out"])

    try:
        start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise AuditError(
            f"/metrics cannot be served on {address}, port {port} ({error.strerror}); "
            f"give a free one with --metrics-port, or an address of this machine with --metrics-host"
        ) from None
    return count


class _GatewayMetrics:
    """What prometheus_client calls a custom collector: reads the file at each scrape."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        from prometheus_client.parser import text_string_to_metric_families

        try:
            text = read_regular(self._path, _LARGEST_FILE_BYTES).decode()
            found = list(text_string_to_metric_families(text))
        except (OSError, ValueError):
            return []
        return [family for family in found if family.name.startswith(_OF_GATEWAY)]
