"""What a running gateway tells Prometheus, in a file beside its access log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detserve_core.machine.whole_files import write_whole
from detserve_server.regular_file import read_regular

FILE = "gateway.prom"

_HELP = {
    "detserve_gateway_change_refused": "1 while a change of keys or certificates is not in force",
    "detserve_gateway_changes_total": "changes of keys and certificates that were taken up",
    "detserve_gateway_certificate_expires_timestamp_seconds": "when the certificate in force ends",
    "detserve_gateway_revocations_expire_timestamp_seconds": "when the first revocation list in force ends",
    "detserve_gateway_workers_lost_total": "workers of nginx that a signal ended",
}


def read_state(path: Path) -> dict[str, float]:
    """The values of a ``gateway.prom``; none where it is not there or is not one.

    Raises ``OSError`` when there is one that cannot be read.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = text_string_to_metric_families(read_regular(path, 2**16).decode())
        return {sample.name: sample.value for family in families for sample in family.samples}
    except (FileNotFoundError, ValueError):
        return {}


def write_state(access_log: Path, values: Mapping[str, int]) -> None:
    """Write ``gateway.prom`` whole; a name that ends in ``_total`` is a counter, another a gauge.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = []
    for name, value in values.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}", f"{name} {value}"]
    write_whole(access_log.with_name(FILE), ("\n".join(lines) + "\n").encode())
