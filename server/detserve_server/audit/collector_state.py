"""How the collector is: how far it is behind the gateway, and how full the disks of its folders are."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class CollectorState:
    """What prometheus_client calls a custom collector: looks at each scrape."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """``folders`` by the name that is their label; one that is not there has no figures."""
        self._folders = dict(folders)
        self._since_s = time.monotonic()

    def caught_up(self, since_s: float) -> None:
        """All that the gateway wrote until then, a time of ``time.monotonic()``, is in the audit log."""
        self._since_s = since_s

    def describe(self) -> Iterable[Metric]:
        """Nothing that would be known before the first look."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        from prometheus_client.metrics_core import GaugeMetricFamily

        lag = time.monotonic() - self._since_s
        yield GaugeMetricFamily(
            "detserve_audit_lag_seconds", "What was written until then is in the audit log.", value=lag
        )
        free = GaugeMetricFamily(
            "detserve_disk_free_bytes", "Free for users other than root.", labels=["folder"]
        )
        size = GaugeMetricFamily("detserve_disk_size_bytes", "Size of the disk.", labels=["folder"])
        for name, folder in self._folders.items():
            try:
                disk = shutil.disk_usage(folder)
            except OSError:
                continue
            free.add_metric([name], disk.free)
            size.add_metric([name], disk.total)
        yield from (free, size)
