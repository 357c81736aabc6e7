"""The caller's trace goes on with each call, where the application uses OpenTelemetry."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """``traceparent`` (W3C Trace Context) of the current span; empty where there is none.

    ``opentelemetry`` is no dependency: where the application has not imported it, no span is current.
    Nothing else of the context is sent: baggage and ``tracestate`` may hold what is not for the server.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
